// Package gateway is the guarded core. Every operation, whatever protocol it
// came by, enters through a Service method, and each method does the same
// four things in the same order: authorise, act, record, answer. Nothing is
// answered that was not recorded; if the record cannot be made durable the
// result is dropped.
//
// A transport holds a *Service and nothing else of the inside: it cannot
// reach the HSM, the store or the audit log.
//
// Acts that change keys go to the lifecycle, which records intent and outcome
// itself; acts of the gateway's own (blocks, approvals) do the same here.
// Whatever comes in passes Service.place, where those who have no name and
// those who are blocked end.
//
// What needs no Service is in packages of its own: forms of signatures and
// ciphertexts (internal/forms), bodies of the API (internal/wire), the rule
// of two people (internal/twopeople), the event stream (internal/tail).
package gateway
