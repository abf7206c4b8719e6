// Package gateway is the guarded core. Every operation, whatever protocol it
// came by, enters through a Service method, and each method does the same
// four things in the same order: authorise, act, record, answer. Nothing is
// answered that was not recorded; if the record cannot be made durable the
// result is dropped.
//
// A transport holds a *Service and nothing else of the inside: it cannot
// reach the HSM, the store or the audit log.
package gateway
