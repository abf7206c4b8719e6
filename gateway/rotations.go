package gateway

import (
	"context"
	"errors"
	"time"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// Rotate makes the next version. It is active when this returns, or the
// rotation goes on by itself: see api.RotateRequest.
func (s *Service) Rotate(ctx context.Context, req Request, name string, in api.RotateRequest) (api.Rotation, error) {
	return changes(ctx, s.open(req, authz.ActionRotate, name, 0), nil, func(ctx context.Context, o *op) (api.Rotation, error) {
		spec, err := rotateSpec(in)
		if err != nil {
			return api.Rotation{}, err
		}
		r, err := o.lifecycle().Rotate(ctx, o.actor(), name, spec)
		if err != nil {
			return api.Rotation{}, err
		}
		return s.acted(ctx, r), nil
	})
}

func rotateSpec(in api.RotateRequest) (rotation.RotateSpec, error) {
	spec := rotation.RotateSpec{Note: in.Note, Bits: in.Bits, ActivateAt: in.ActivateAt.Time, Announce: (*time.Duration)(in.Announce)}
	if err := checkNote(in.Note); err != nil {
		return spec, err
	}
	var err error
	if spec.Reason, err = keys.ParseReason(in.Reason); err == nil && in.Algorithm != "" {
		spec.Algorithm, err = keys.ParseAlgorithm(in.Algorithm)
	}
	return spec, err
}

// ActivateRotation orders the switch, without waiting any longer.
func (s *Service) ActivateRotation(ctx context.Context, req Request, id string, in api.RotationActRequest) (api.Rotation, error) {
	return s.rotationAct(ctx, req, authz.ActionActivate, id, in, Lifecycle.ActivateRotation)
}

// AbortRotation gives a rotation up before its switch.
func (s *Service) AbortRotation(ctx context.Context, req Request, id string, in api.RotationActRequest) (api.Rotation, error) {
	return s.rotationAct(ctx, req, authz.ActionAbort, id, in, Lifecycle.AbortRotation)
}

func (s *Service) rotationAct(ctx context.Context, req Request, action, id string, in api.RotationActRequest,
	act func(Lifecycle, context.Context, rotation.Actor, string, string) (*keys.Rotation, error),
) (api.Rotation, error) {
	var r *keys.Rotation
	return changes(ctx, s.open(req, action, "", 0),
		func(ctx context.Context, o *op) (err error) {
			r, err = o.ofRotation(ctx, id)
			return err
		},
		func(ctx context.Context, o *op) (api.Rotation, error) {
			if err := checkNote(in.Reason); err != nil {
				return api.Rotation{}, err
			}
			r, err := act(o.lifecycle(), ctx, o.actor(), r.ID, in.Reason)
			if err != nil {
				return api.Rotation{}, err
			}
			return s.acted(ctx, r), nil
		})
}

// Rotation describes one rotation of a key that the caller may see.
func (s *Service) Rotation(ctx context.Context, req Request, id string) (api.Rotation, error) {
	return guarded(ctx, s.open(req, authz.ActionListRotations, "", 0), func(ctx context.Context, o *op) (api.Rotation, error) {
		r, err := o.ofRotation(ctx, id)
		if err != nil {
			return api.Rotation{}, err
		}
		return s.rotation(ctx, r, true)
	})
}

// ofRotation returns the rotation with an id, and authorises the operation on
// its key. Who may not see it is told that there is none.
func (o *op) ofRotation(ctx context.Context, id string) (*keys.Rotation, error) {
	r, err := o.s.lifecycle.Rotation(ctx, clip(id)) // a clipped id is no id
	if err == nil {
		o.rec.Key, o.rec.Rotation = r.Key, r.ID
		err = o.authorise(0)
	}
	if errors.Is(err, keys.ErrForbidden) && o.rec.Action != authz.ActionListRotations && o.seesRotations(r.Key) {
		return nil, err
	}
	for _, unseen := range []error{keys.ErrNotFound, keys.ErrKeyNotFound, keys.ErrForbidden} {
		if errors.Is(err, unseen) {
			return nil, keys.Errorf(keys.ErrNotFound, "there is no rotation %q here, or you may not see it", clip(id))
		}
	}
	return r, err
}

// seesRotations reports whether the caller may see the rotations of a key.
func (o *op) seesRotations(key string) bool {
	snap, err := o.s.snapshots.Snapshot()
	if err != nil {
		return false
	}
	k, ok := snap.Key(key)
	return ok && o.ask(authz.ActionListRotations, resourceOf(k), "").Allowed
}

// Rotations describes rotations, newest first, from before the id given, of
// one key or of all that the caller may see, with the progress of those that
// run. limit 0 means DefaultPage.
func (s *Service) Rotations(ctx context.Context, req Request, key, before string, limit int) (api.RotationList, error) {
	return guarded(ctx, s.open(req, authz.ActionListRotations, key, 0), func(ctx context.Context, o *op) (api.RotationList, error) {
		list := api.RotationList{Rotations: []api.Rotation{}}
		limit, err := pageSize(limit)
		if err != nil {
			return list, err
		}
		if key != "" {
			if err := o.authorise(0); err != nil {
				return list, err
			}
		}
		snap, err := s.snapshots.Snapshot()
		if err != nil {
			return list, err
		}
		may := map[string]bool{}
		for _, k := range snap.Keys() {
			if (key == "" || key == k.Name) && o.ask(authz.ActionListRotations, resourceOf(k), "").Allowed {
				may[k.Name] = true
			}
		}
		filter := store.RotationFilter{Key: key, Before: before, Limit: limit + 1}
		for len(may) > 0 {
			page, err := s.lifecycle.Rotations(ctx, filter)
			if err != nil {
				return list, err
			}
			for _, r := range page {
				switch {
				case !may[r.Key]:
				case len(list.Rotations) == limit:
					list.Next = list.Rotations[limit-1].ID // one that the caller has seen
					return list, nil
				default:
					shown, err := s.rotation(ctx, r, !r.Phase.Done())
					if err != nil {
						return list, err
					}
					list.Rotations = append(list.Rotations, shown)
				}
			}
			if len(page) < filter.Limit {
				break
			}
			filter.Before, filter.Limit = page[len(page)-1].ID, MaxPage
		}
		return list, nil
	})
}

// rotation describes r, with its progress or without.
func (s *Service) rotation(ctx context.Context, r *keys.Rotation, progress bool) (api.Rotation, error) {
	if !progress {
		return wire.Rotation(r, nil), nil
	}
	p, err := s.lifecycle.Progress(ctx, r)
	if err != nil {
		return api.Rotation{}, err
	}
	return wire.Rotation(r, &p), nil
}

// acted describes a rotation after an act on it, which stands whether or not
// its progress can be read.
func (s *Service) acted(ctx context.Context, r *keys.Rotation) api.Rotation {
	out, err := s.rotation(ctx, r, true)
	if err != nil {
		s.log.WarnContext(ctx, "a rotation is described without its progress", "rotation", r.ID, "err", err)
		return wire.Rotation(r, nil)
	}
	return out
}
