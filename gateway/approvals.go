package gateway

import (
	"context"
	"errors"
	"slices"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/twopeople"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/rotation/lease"
	"keyhole/store"
)

// requestApproval enters that an act waits for another person. Asking again
// for what waits already changes nothing.
func (o *op) requestApproval(ctx context.Context, act *keys.Approval) (*keys.Approval, error) {
	a, err := twopeople.Waiting(ctx, o.s.store, act, o.req.Caller, o.now)
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
				return api.Approval{}, twopeople.Decided(a, state)
			}
			o.detail("decision_note", in.Reason)
			a, err := own(ctx, o, func(ctx context.Context) (*keys.Approval, error) {
				done, err := s.carrying(ctx, a)
				if err != nil {
					return nil, err
				}
				defer done()
				if state == keys.ApprovalPending {
					var err error
					if a, err = twopeople.Settle(ctx, s.store, a, keys.ApprovalApproved, req.Caller.ID, in.Reason, s.now()); err != nil {
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
	snap, err := o.s.snapshots.Snapshot()
	if err != nil {
		return err
	}
	reason, err := twopeople.MayApprove(a, o.req.Caller, snap.Blocked)
	if err != nil {
		o.rec.Outcome, o.rec.Reason = audit.OutcomeDenied, reason
	}
	return err
}

// carryOut does an approved act on behalf of who asked for it. The results
// are those of twopeople.Conclude.
func (s *Service) carryOut(ctx context.Context, a *keys.Approval) (after *keys.Approval, refused, err error) {
	_, err = perform(ctx, s.lifecycle, rotation.Actor{Principal: a.RequestedBy, RequestID: a.RequestID}, a, a)
	ctx, cancel := s.detach(ctx)
	defer cancel()
	return twopeople.Conclude(ctx, s.store, a.ID, err)
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
				return api.Approval{}, twopeople.Decided(a, state)
			}
			o.rec.Reason = "rejected"
			o.detail("decision_note", in.Reason)
			a, err := own(ctx, o, func(ctx context.Context) (*keys.Approval, error) {
				return twopeople.Settle(ctx, s.store, a, keys.ApprovalRejected, req.Caller.ID, in.Reason, s.now())
			})
			if err != nil {
				return api.Approval{}, err
			}
			return wire.Approval(a, req.Caller.Identities(), s.now()), nil
		})
}

// carrying takes the lease under which an approved act is done: two gateways
// that do it at one time would be told that it is done already, which is no
// answer. Errors: keys.ErrConflict.
func (s *Service) carrying(ctx context.Context, a *keys.Approval) (done func(), err error) {
	_, done, err = s.leases.Try(ctx, "approval/"+a.ID)
	if errors.Is(err, lease.ErrTaken) {
		return nil, keys.Errorf(keys.ErrConflict, "approval %s is being decided or carried out at this moment; see in a moment what became of it", a.ID)
	}
	return done, err
}

// resumeEvery is how often RunApprovals looks.
const resumeEvery = 30 * time.Second

// RunApprovals is ResumeApprovals from time to time, until ctx ends: a gateway
// that did an act may have died, or the HSM have failed on the way.
func (s *Service) RunApprovals(ctx context.Context) error {
	t := time.NewTicker(resumeEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if s.ResumeApprovals(ctx) != nil { // ctx has ended
			return nil
		}
	}
}

// ResumeApprovals does the acts that were approved and interrupted, and that
// no other gateway is doing. It is called once the gateway can act, and before
// it serves. What cannot be done at the moment is logged and stays approved;
// the only error is that ctx has ended.
func (s *Service) ResumeApprovals(ctx context.Context) error {
	open, err := s.store.Approvals(ctx, store.ApprovalFilter{State: keys.ApprovalApproved})
	if err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "approved acts that were interrupted are not taken up yet", "err", err)
	}
	for _, a := range slices.Backward(open) { // oldest first
		if err := s.resume(ctx, a.ID); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "an approved act that was interrupted is not done yet", "approval", a.ID, "act", a.Action, "key", a.Key, "err", err)
		}
	}
	return ctx.Err()
}

// resume does an approved act, unless somebody else does.
func (s *Service) resume(ctx context.Context, id string) error {
	_, done, err := s.leases.Try(ctx, "approval/"+id)
	if errors.Is(err, lease.ErrTaken) {
		return nil
	}
	if err != nil {
		return err
	}
	defer done()
	a, err := s.store.Approval(ctx, id)
	if err != nil || a.State != keys.ApprovalApproved {
		return err
	}
	system := Request{ID: a.RequestID, Caller: authz.Principal{ID: audit.SystemPrincipal, Method: audit.SystemPrincipal}}
	o := s.open(system, authz.ActionApprove, a.Key, 0)
	o.describeApproval(a)
	o.detail("approved_by", a.DecidedBy)
	o.rec.Reason, o.rec.Source = "resumed", ""
	_, refused, err := s.carryOut(ctx, a)
	if refused != nil {
		o.rec.Outcome, o.rec.Reason = audit.OutcomeError, api.CodeOf(refused)
	}
	return errors.Join(err, s.record(ctx, o.finish(err)))
}
