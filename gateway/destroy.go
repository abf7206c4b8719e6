package gateway

import (
	"context"
	"slices"
	"strings"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
	"keyhole/rotation"
)

// Destroy orders the destruction of a version. Where that needs another
// person, or if objections are overridden, the result is the approval that it
// waits for.
func (s *Service) Destroy(ctx context.Context, req Request, name string, n uint32, in api.DestroyRequest) (api.ActResult, error) {
	o := s.open(req, authz.ActionDestroy, name, 0)
	o.rec.Version = n
	return changes(ctx, o, nil, func(ctx context.Context, o *op) (api.ActResult, error) {
		v, err := o.version(n)
		if err != nil {
			return api.ActResult{}, err
		}
		o.name(v)
		return o.order(ctx, in)
	})
}

// DeleteKey orders the destruction of a key with all its versions. The result
// is as that of Destroy.
func (s *Service) DeleteKey(ctx context.Context, req Request, name string, in api.DestroyRequest) (api.ActResult, error) {
	return changes(ctx, s.open(req, authz.ActionDeleteKey, name, 0), nil, func(ctx context.Context, o *op) (api.ActResult, error) {
		return o.order(ctx, in)
	})
}

// order carries the operation's destruction out, or enters that it waits for
// another person.
func (o *op) order(ctx context.Context, in api.DestroyRequest) (api.ActResult, error) {
	if err := checkNote(in.Reason); err != nil {
		return api.ActResult{}, err
	}
	if in.Force && strings.TrimSpace(in.Reason) == "" {
		return api.ActResult{}, keys.Errorf(keys.ErrInvalid, "\"force\" needs a \"reason\": why what speaks against it does not count")
	}
	act := &keys.Approval{Action: o.rec.Action, Key: o.key.Name, Version: o.rec.Version, Force: in.Force, Note: in.Reason}
	if !in.Force && !slices.Contains(o.s.twoPeople, act.Action) {
		k, err := perform(ctx, o.lifecycle(), o.actor(), act, nil)
		if err != nil {
			return api.ActResult{}, err
		}
		shown := o.s.describe(ctx, k, o.s.now())
		return api.ActResult{Key: &shown}, nil
	}
	if err := o.orderable(ctx, act); err != nil {
		return api.ActResult{}, err
	}
	a, err := o.requestApproval(ctx, act)
	if err != nil {
		return api.ActResult{}, err
	}
	shown := wire.Approval(a, o.req.Caller.Identities(), o.s.now())
	return api.ActResult{Approval: &shown}, nil
}

// perform does an act that may need two people. approval is the approved row,
// or nil.
func perform(ctx context.Context, l Lifecycle, a rotation.Actor, act, approval *keys.Approval) (*keys.Key, error) {
	spec := rotation.DestroySpec{Note: act.Note, Force: act.Force, Approval: approval}
	switch act.Action {
	case authz.ActionDestroy:
		return l.Destroy(ctx, a, act.Key, act.Version, spec)
	case authz.ActionDeleteKey:
		return l.DeleteKey(ctx, a, act.Key, spec)
	}
	return nil, keys.Errorf(keys.ErrInternal, "no act of two people is called %q", act.Action)
}

// orderable refuses early what would be refused after the approval too; what
// has changed by then is judged again.
func (o *op) orderable(ctx context.Context, act *keys.Approval) error {
	if act.Action == authz.ActionDeleteKey {
		if keys.Reserved(o.key.Name) {
			return keys.Errorf(keys.ErrInvalid, "%q is Keyhole's own key and is not deleted; destroy single versions of it", o.key.Name)
		}
		if !o.key.DeleteAt.IsZero() {
			return keys.Errorf(keys.ErrVersionState, "key %q is to be deleted already", o.key.Name)
		}
		return nil
	}
	if _, err := o.key.Apply(act.Version, keys.EventScheduleDestroy, o.now.Add(o.key.Policy.Delay()), o.now); err != nil {
		return err
	}
	if act.Force {
		return nil
	}
	against, err := o.s.lifecycle.Objections(ctx, o.key, act.Version)
	if err != nil {
		return err
	}
	if len(against) > 0 {
		return keys.Errorf(keys.ErrInUse, "version %s is not destroyed: %s. Wait until that has passed, or force it and say why", o.rec.KeyID, strings.Join(against, "; "))
	}
	return nil
}
