package gateway

import (
	"context"
	"errors"
	"slices"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// maxPending bounds the acts of one requester that wait for another person.
const maxPending = 100

// requestApproval enters that an act waits for another person. Asking again
// for what waits already changes nothing.
func (o *op) requestApproval(ctx context.Context, act *keys.Approval) (*keys.Approval, error) {
	a, err := o.waiting(ctx, act)
	if err != nil {
		return nil, err
	}
	known := a != nil
	if !known {
		now := o.s.now()
		a = act
		a.ID, a.State = keys.NewID(now), keys.ApprovalPending
		a.RequestedBy, a.RequestedAs, a.RequestID = o.req.Caller.ID, o.req.Caller.Identities(), o.actor().RequestID
		a.RequestedAt, a.ExpiresAt = now, now.Add(o.s.approvalLife)
	}
	o.describeApproval(a)
	o.rec.Reason = "approval-pending" // the act itself is recorded when it is done
	return own(ctx, o, func(ctx context.Context) (*keys.Approval, error) {
		if known {
			return a, nil
		}
		return a, o.s.store.PutApproval(ctx, a, "")
	})
}

// waiting returns the pending approval of the same act by the same caller,
// or nil. Errors: keys.ErrConflict (somebody else asked for it, who needs
// another person, or the caller has asked for too much).
func (o *op) waiting(ctx context.Context, act *keys.Approval) (*keys.Approval, error) {
	pending, err := o.s.store.Approvals(ctx, store.ApprovalFilter{State: keys.ApprovalPending, At: o.now})
	if err != nil {
		return nil, err
	}
	mine := 0
	for _, a := range pending {
		same := a.Action == act.Action && a.Key == act.Key && a.Version == act.Version && a.Force == act.Force
		switch {
		case a.RequestedBy == o.req.Caller.ID && same:
			return a, nil
		case a.RequestedBy == o.req.Caller.ID:
			mine++
		case same && !authz.SamePerson(a.RequestedAs, o.req.Caller.Identities()):
			return nil, keys.Errorf(keys.ErrConflict, "%s has asked for the same: approve %s instead", clip(a.RequestedBy), a.ID)
		}
	}
	if mine >= maxPending {
		return nil, keys.Errorf(keys.ErrConflict, "%d acts that this caller asked for wait for another person; reject some first", mine)
	}
	return nil, nil
}

// describeApproval says in the record what is asked for or decided.
func (o *op) describeApproval(a *keys.Approval) {
	o.rec.Key, o.rec.Version = a.Key, a.Version
	o.detail("approval", a.ID)
	o.detail("act", a.Action)
	o.detail("requested_by", a.RequestedBy)
	o.detail("note", a.Note)
	if a.Force {
		o.detail("force", "true")
	}
	if also := o.req.Caller.Also; also != "" {
		o.detail("also", also)
	}
}

// Approval describes one approval.
func (s *Service) Approval(ctx context.Context, req Request, id string) (api.Approval, error) {
	return guarded(ctx, s.open(req, authz.ActionListApprovals, "", 0), func(ctx context.Context, o *op) (api.Approval, error) {
		if err := o.decide(gatewayResource, ""); err != nil {
			return api.Approval{}, err
		}
		a, err := s.store.Approval(ctx, clip(id))
		if errors.Is(err, keys.ErrNotFound) || err == nil && !o.reads(a.Key) {
			return api.Approval{}, noApproval(id)
		}
		if err != nil {
			return api.Approval{}, err
		}
		o.rec.Key = a.Key
		return wire.Approval(a, req.Caller.Identities(), o.now), nil
	})
}

func noApproval(id string) error {
	return keys.Errorf(keys.ErrNotFound, "there is no approval %q here, or you may not see it", clip(id))
}

// reads reports whether the caller may read the key with a name, or could if
// it were still there.
func (o *op) reads(name string) bool {
	res := authz.Resource{Type: authz.TypeKey, Name: name}
	if snap, err := o.s.snapshots.Snapshot(); err == nil {
		if k, ok := snap.Key(name); ok {
			res = resourceOf(k)
		}
	}
	return o.ask(authz.ActionRead, res, "").Allowed
}

// Approvals describes the approvals in a state ("": in any), newest first,
// from before the id given, as far as they concern keys that the caller may
// see. limit 0 means DefaultPage.
func (s *Service) Approvals(ctx context.Context, req Request, state, before string, limit int) (api.ApprovalList, error) {
	return guarded(ctx, s.open(req, authz.ActionListApprovals, "", 0), func(ctx context.Context, o *op) (api.ApprovalList, error) {
		list := api.ApprovalList{Approvals: []api.Approval{}}
		if err := o.decide(gatewayResource, ""); err != nil {
			return list, err
		}
		limit, err := pageSize(limit)
		if err != nil {
			return list, err
		}
		filter := store.ApprovalFilter{State: keys.ApprovalState(state), At: o.now, Before: before, Limit: limit + 1}
		if state != "" && !slices.Contains(approvalStates, filter.State) {
			return list, keys.Errorf(keys.ErrInvalid, "\"state\" must be pending, approved, done, failed, rejected or expired")
		}
		for {
			page, err := s.store.Approvals(ctx, filter)
			if err != nil {
				return list, err
			}
			for _, a := range page {
				switch {
				case !o.reads(a.Key):
				case len(list.Approvals) == limit:
					list.Next = list.Approvals[limit-1].ID // one that the caller has seen
					return list, nil
				default:
					list.Approvals = append(list.Approvals, wire.Approval(a, req.Caller.Identities(), o.now))
				}
			}
			if len(page) < filter.Limit {
				return list, nil
			}
			filter.Before, filter.Limit = page[len(page)-1].ID, MaxPage
		}
	})
}

var approvalStates = []keys.ApprovalState{
	keys.ApprovalPending, keys.ApprovalApproved, keys.ApprovalDone, keys.ApprovalFailed, keys.ApprovalRejected, keys.ApprovalExpired,
}

// Approve lets an act happen that another person asked for, and does it. What
// has come to speak against it meanwhile makes the approval failed. One that
// was approved before, and whose act was interrupted, is taken up again.
func (s *Service) Approve(ctx context.Context, req Request, id string, in api.DecisionRequest) (api.Approval, error) {
	var a *keys.Approval
	return changes(ctx, s.open(req, authz.ActionApprove, "", 0),
		func(ctx context.Context, o *op) (err error) {
			if a, err = o.fetchApproval(ctx, id); err != nil {
				return err
			}
			return o.mayApprove(a)
		},
		func(ctx context.Context, o *op) (api.Approval, error) {
			if err := checkNote(in.Reason); err != nil {
				return api.Approval{}, err
			}
			state := a.StateAt(o.now)
			if state != keys.ApprovalPending && state != keys.ApprovalApproved {
				return api.Approval{}, decided(a, state)
			}
			o.detail("decision_note", in.Reason)
			a, err := own(ctx, o, func(ctx context.Context) (*keys.Approval, error) {
				if state == keys.ApprovalPending {
					var err error
					if a, err = s.settle(ctx, a, keys.ApprovalApproved, req, in.Reason); err != nil {
						return nil, err
					}
				}
				a, refused, err := s.carryOut(ctx, a)
				if refused != nil { // the decision stands, and so does the refusal
					o.rec.Outcome, o.rec.Reason = audit.OutcomeError, api.CodeOf(refused)
				}
				return a, err
			})
			if err != nil {
				return api.Approval{}, err
			}
			return wire.Approval(a, req.Caller.Identities(), s.now()), nil
		})
}

// fetchApproval returns the approval with an id and authorises the decision
// on it.
func (o *op) fetchApproval(ctx context.Context, id string) (*keys.Approval, error) {
	a, err := o.s.store.Approval(ctx, clip(id)) // a clipped id is no id
	if err == nil {
		o.describeApproval(a)
		err = o.authorise(a.Version)
	}
	if errors.Is(err, keys.ErrNotFound) || errors.Is(err, keys.ErrKeyNotFound) {
		return nil, noApproval(id)
	}
	return a, err
}

// mayApprove holds up the rule of two people.
func (o *op) mayApprove(a *keys.Approval) error {
	refuse := func(reason, format string, args ...any) error {
		o.rec.Outcome, o.rec.Reason = audit.OutcomeDenied, reason
		return keys.Errorf(keys.ErrForbidden, format, args...)
	}
	if authz.SamePerson(a.RequestedAs, o.req.Caller.Identities()) {
		return refuse("same-person", "%s asked for this: another person must approve it", clip(a.RequestedBy))
	}
	snap, err := o.s.snapshots.Snapshot()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(a.RequestedAs, snap.Blocked) {
		return refuse("requester-blocked", "%s, who asked for this, is blocked; reject it", clip(a.RequestedBy))
	}
	return nil
}

// decided is the answer to a decision on what is no longer pending.
func decided(a *keys.Approval, state keys.ApprovalState) error {
	if state == keys.ApprovalExpired {
		return keys.Errorf(keys.ErrConflict, "approval %s has expired; whoever needs it must ask anew", a.ID)
	}
	return keys.Errorf(keys.ErrConflict, "approval %s is %s already, by %s", a.ID, state, clip(a.DecidedBy))
}

// settle decides a pending approval. Of two who decide at one time, one gets
// keys.ErrConflict.
func (s *Service) settle(ctx context.Context, a *keys.Approval, to keys.ApprovalState, by Request, note string) (*keys.Approval, error) {
	c := *a
	c.State, c.DecidedBy, c.DecidedAt, c.DecidedNote = to, by.Caller.ID, s.now(), note
	if err := s.store.PutApproval(ctx, &c, keys.ApprovalPending); err != nil {
		return nil, err
	}
	return &c, nil
}

// carryOut does an approved act, on behalf of who asked for it, and returns
// the approval after it. refused is why it was not done and is not to be
// done. After any other error the approval stays approved, and the act is
// taken up again by Approve or ResumeApprovals.
func (s *Service) carryOut(ctx context.Context, a *keys.Approval) (after *keys.Approval, refused, err error) {
	_, aerr := perform(ctx, s.lifecycle, rotation.Actor{Principal: a.RequestedBy, RequestID: a.RequestID}, a, a)
	ctx, cancel := s.detach(ctx)
	defer cancel()
	// The act and its approval are one write: whatever was answered, the row
	// tells whether the act is done.
	after, err = s.store.Approval(ctx, a.ID)
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
	if err := s.store.PutApproval(ctx, &failed, keys.ApprovalApproved); err != nil {
		return nil, nil, err
	}
	return &failed, aerr, nil
}

// Reject decides that an act will not happen. Whoever asked for it may do so
// too.
func (s *Service) Reject(ctx context.Context, req Request, id string, in api.DecisionRequest) (api.Approval, error) {
	var a *keys.Approval
	return changes(ctx, s.open(req, authz.ActionApprove, "", 0),
		func(ctx context.Context, o *op) (err error) {
			if a, err = s.store.Approval(ctx, clip(id)); err == nil && slices.Contains(a.RequestedAs, req.Caller.ID) {
				o.describeApproval(a)
				return nil // it is theirs to take back
			}
			a, err = o.fetchApproval(ctx, id)
			return err
		},
		func(ctx context.Context, o *op) (api.Approval, error) {
			if err := checkNote(in.Reason); err != nil {
				return api.Approval{}, err
			}
			if state := a.StateAt(o.now); state != keys.ApprovalPending {
				return api.Approval{}, decided(a, state)
			}
			o.rec.Reason = "rejected"
			o.detail("decision_note", in.Reason)
			a, err := own(ctx, o, func(ctx context.Context) (*keys.Approval, error) {
				return s.settle(ctx, a, keys.ApprovalRejected, req, in.Reason)
			})
			if err != nil {
				return api.Approval{}, err
			}
			return wire.Approval(a, req.Caller.Identities(), s.now()), nil
		})
}

// ResumeApprovals does the acts that were approved and interrupted. It is
// called once the gateway can act, and before it serves.
func (s *Service) ResumeApprovals(ctx context.Context) error {
	open, err := s.store.Approvals(ctx, store.ApprovalFilter{State: keys.ApprovalApproved})
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range slices.Backward(open) { // oldest first
		system := Request{ID: a.RequestID, Caller: authz.Principal{ID: audit.SystemPrincipal, Method: audit.SystemPrincipal}}
		o := s.open(system, authz.ActionApprove, a.Key, 0)
		o.describeApproval(a)
		o.detail("approved_by", a.DecidedBy)
		o.rec.Reason, o.rec.Source = "resumed", ""
		_, refused, err := s.carryOut(ctx, a)
		if refused != nil {
			o.rec.Outcome, o.rec.Reason = audit.OutcomeError, api.CodeOf(refused)
		}
		errs = append(errs, err, s.record(ctx, o.finish(err)))
	}
	return errors.Join(errs...)
}
