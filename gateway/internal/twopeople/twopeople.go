// Package twopeople holds up the rule of two people: an act that one person
// asked for is done when another one has approved it, once, on behalf of the
// first.
//
// The approval is in the store before anybody decides, and each of its steps
// is one write that succeeds for one only. The act and the end of its
// approval are one write too: what was interrupted in between is taken up
// again by whoever finds it approved and not done.
package twopeople

import (
	"context"
	"errors"
	"slices"
	"time"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
)

// Store keeps approvals. PutApproval replaces one only while it is in the
// state from: of two who decide, one is told keys.ErrConflict.
type Store interface {
	PutApproval(ctx context.Context, a *keys.Approval, from keys.ApprovalState) error
	Approval(ctx context.Context, id string) (*keys.Approval, error)
	Approvals(ctx context.Context, f store.ApprovalFilter) ([]*keys.Approval, error)
}

// maxPending bounds the acts of one requester that wait for another person.
const maxPending = 100

// Waiting returns the pending approval of the same act by the same caller,
// or nil. Errors: keys.ErrConflict (somebody else asked for it, who needs
// another person, or the caller has asked for too much).
func Waiting(ctx context.Context, s Store, act *keys.Approval, who authz.Principal, now time.Time) (*keys.Approval, error) {
	pending, err := s.Approvals(ctx, store.ApprovalFilter{State: keys.ApprovalPending, At: now})
	if err != nil {
		return nil, err
	}
	mine := 0
	for _, a := range pending {
		same := a.Action == act.Action && a.Key == act.Key && a.Version == act.Version && a.Force == act.Force
		switch {
		case a.RequestedBy == who.ID && same:
			return a, nil
		case a.RequestedBy == who.ID:
			mine++
		case same && !authz.SamePerson(a.RequestedAs, who.Identities()):
			return nil, keys.Errorf(keys.ErrConflict, "%.64s has asked for the same: approve %s instead", a.RequestedBy, a.ID)
		}
	}
	if mine >= maxPending {
		return nil, keys.Errorf(keys.ErrConflict, "%d acts that this caller asked for wait for another person; reject some first", mine)
	}
	return nil, nil
}

// Why MayApprove refuses, in a word for the audit log.
const (
	ReasonSamePerson = "same-person"
	ReasonBlocked    = "requester-blocked"
)

// MayApprove refuses whoever may be the person that asked, and acts of those
// who are blocked. The error is keys.ErrForbidden; reason says why in a word.
func MayApprove(a *keys.Approval, who authz.Principal, blocked func(principal string) bool) (reason string, err error) {
	switch {
	case authz.SamePerson(a.RequestedAs, who.Identities()):
		return ReasonSamePerson, keys.Errorf(keys.ErrForbidden, "%.64s asked for this: another person must approve it", a.RequestedBy)
	case slices.ContainsFunc(a.RequestedAs, blocked):
		return ReasonBlocked, keys.Errorf(keys.ErrForbidden, "%.64s, who asked for this, is blocked; reject it", a.RequestedBy)
	}
	return "", nil
}

// Decided is the answer to a decision on what is no longer pending.
func Decided(a *keys.Approval, state keys.ApprovalState) error {
	if state == keys.ApprovalExpired {
		return keys.Errorf(keys.ErrConflict, "approval %s has expired; whoever needs it must ask anew", a.ID)
	}
	return keys.Errorf(keys.ErrConflict, "approval %s is %s already, by %.64s", a.ID, state, a.DecidedBy)
}

// Settle decides a pending approval. Of two who decide at one time, one gets
// keys.ErrConflict.
func Settle(ctx context.Context, s Store, a *keys.Approval, to keys.ApprovalState, by, note string, now time.Time) (*keys.Approval, error) {
	c := *a
	c.State, c.DecidedBy, c.DecidedAt, c.DecidedNote = to, by, now, note
	if err := s.PutApproval(ctx, &c, keys.ApprovalPending); err != nil {
		return nil, err
	}
	return &c, nil
}

// Conclude finds out what an approved act has come to, which ended with
// aerr, and returns the approval after it. refused is why it was not done and
// is not to be done. After any other error the approval stays approved, and
// the act is to be taken up again.
func Conclude(ctx context.Context, s Store, id string, aerr error) (after *keys.Approval, refused, err error) {
	// The act and its approval are one write: whatever was answered, the row
	// tells whether the act is done.
	after, err = s.Approval(ctx, id)
	switch {
	case err == nil && after.State != keys.ApprovalApproved:
		return after, nil, nil
	case aerr == nil:
		return nil, nil, errors.Join(keys.ErrInternal, err)
	case api.ProblemOf(aerr).Status >= 500:
		return nil, nil, aerr
	case err != nil:
		return nil, nil, err
	}
	p := api.ProblemOf(aerr)
	failed := *after
	if failed.State, failed.Error = keys.ApprovalFailed, p.Detail; failed.Error == "" {
		failed.Error = p.Title
	}
	if err := s.PutApproval(ctx, &failed, keys.ApprovalApproved); err != nil {
		return nil, nil, err
	}
	return &failed, aerr, nil
}
