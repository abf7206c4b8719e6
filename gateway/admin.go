package gateway

import (
	"context"
	"errors"
	"unicode/utf8"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// Bounds of what administrators may write about a key, in bytes.
const (
	maxDescription = 500
	maxTags        = 50
	maxTag         = 100
	maxNote        = 200
	maxTokenName   = 64
)

// changes runs an act on a key. The engine records its intent and outcome;
// here a request that fails is recorded, for whatever reason.
func changes[R any](ctx context.Context, o *op, res func() (authz.Resource, error), act func(*op) (R, error)) (R, error) {
	var zero R
	refuse := func(err error) (R, error) {
		if rerr := o.s.record(ctx, o.finish(err)); rerr != nil {
			return zero, rerr
		}
		return zero, err
	}
	release, err := o.s.place(&o.req, o.rec.Action)
	if err != nil {
		return refuse(err)
	}
	defer release()
	if res == nil {
		err = o.authorise(o.rec.Version)
	} else {
		var r authz.Resource
		if r, err = res(); err == nil {
			err = o.decide(r, "")
		}
	}
	if err != nil {
		return refuse(err)
	}
	out, err := safely(ctx, o, func(ctx context.Context, o *op) (R, error) { return once(ctx, o, act) })
	if err != nil {
		return refuse(err)
	}
	return out, nil
}

// CreateKey makes a key and activates its version 1.
func (s *Service) CreateKey(ctx context.Context, req Request, in api.CreateKeyRequest) (api.Key, error) {
	var spec rotation.Spec
	return changes(ctx, s.open(req, authz.ActionCreateKey, clip(in.Name), 0),
		func() (authz.Resource, error) {
			var err error
			if spec, err = specOf(in); err != nil {
				return authz.Resource{}, err
			}
			return authz.Resource{Type: authz.TypeKey, Name: spec.Name, Purpose: string(spec.Algorithm.Purpose()), Tags: spec.Tags}, nil
		},
		func(o *op) (api.Key, error) { return s.described(o.lifecycle().CreateKey(ctx, o.actor(), spec)) })
}

func specOf(in api.CreateKeyRequest) (rotation.Spec, error) {
	spec := rotation.Spec{Name: in.Name, Bits: in.Bits, Description: in.Description, Tags: in.Tags, Token: in.Token}
	if err := keys.CheckNewName(in.Name); err != nil {
		return spec, err
	}
	if len(in.Token) > maxTokenName {
		return spec, keys.Errorf(keys.ErrInvalid, "the name of a token has %d bytes at most", maxTokenName)
	}
	if in.Policy != nil {
		spec.Policy = policyOf(*in.Policy)
	}
	var err error
	if spec.Algorithm, err = keys.ParseAlgorithm(in.Algorithm); err != nil {
		return spec, err
	}
	return spec, checkWords(&in.Description, &in.Tags)
}

func policyOf(p api.Policy) keys.Policy { return keys.Policy{Period: p.Period.Std()} }

// checkWords bounds what is stored and shown with a key.
func checkWords(description *string, tags *map[string]string) error {
	if description != nil && (len(*description) > maxDescription || !utf8.ValidString(*description)) {
		return keys.Errorf(keys.ErrInvalid, "the description must be UTF-8 of at most %d bytes", maxDescription)
	}
	if tags == nil {
		return nil
	}
	if len(*tags) > maxTags {
		return keys.Errorf(keys.ErrInvalid, "a key may have %d tags, not %d", maxTags, len(*tags))
	}
	for k, v := range *tags {
		if k == "" || len(k) > maxTag || len(v) > maxTag || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return keys.Errorf(keys.ErrInvalid, "tags must be UTF-8 of 1 to %d bytes, their values of at most %d", maxTag, maxTag)
		}
	}
	return nil
}

// UpdateKey changes a key's description, tags or policy. A caller who
// changes the tags needs the permission under the new ones too: tags decide
// who may do what.
func (s *Service) UpdateKey(ctx context.Context, req Request, name string, in api.UpdateKeyRequest) (api.Key, error) {
	return changes(ctx, s.open(req, authz.ActionUpdateKey, name, 0), nil, func(o *op) (api.Key, error) {
		if err := checkWords(in.Description, in.Tags); err != nil {
			return api.Key{}, err
		}
		if in.Tags != nil {
			res := resourceOf(o.key)
			res.Tags = *in.Tags
			if o.decide(res, "") != nil {
				return api.Key{}, keys.Errorf(keys.ErrForbidden, "policy does not let %s %s key %s under its new tags", clip(req.Caller.ID), o.rec.Action, name)
			}
		}
		u := rotation.Update{Description: in.Description, Tags: in.Tags, Epoch: in.Epoch}
		if in.Policy != nil {
			p := policyOf(*in.Policy)
			u.Policy = &p
		}
		return s.described(o.lifecycle().UpdateKey(ctx, o.actor(), name, u))
	})
}

// Rotate makes and activates the next version.
func (s *Service) Rotate(ctx context.Context, req Request, name string, in api.RotateRequest) (api.Rotation, error) {
	return changes(ctx, s.open(req, authz.ActionRotate, name, 0), nil, func(o *op) (api.Rotation, error) {
		spec := rotation.RotateSpec{Bits: in.Bits}
		var err error
		if spec.Reason, err = keys.ParseReason(in.Reason); err == nil && in.Algorithm != "" {
			spec.Algorithm, err = keys.ParseAlgorithm(in.Algorithm)
		}
		if err != nil {
			return api.Rotation{}, err
		}
		r, err := o.lifecycle().Rotate(ctx, o.actor(), name, spec)
		if err != nil {
			return api.Rotation{}, err
		}
		return describeRotation(r), nil
	})
}

// Suspend takes a version out of use until Resume.
func (s *Service) Suspend(ctx context.Context, req Request, name string, n uint32, in api.VersionActRequest) (api.Key, error) {
	return s.versionAct(ctx, req, authz.ActionSuspend, name, n, in, Lifecycle.Suspend)
}

// Resume undoes Suspend.
func (s *Service) Resume(ctx context.Context, req Request, name string, n uint32, in api.VersionActRequest) (api.Key, error) {
	return s.versionAct(ctx, req, authz.ActionResume, name, n, in, Lifecycle.Resume)
}

// Revoke declares a version compromised, for good. If it was the active one,
// a successor takes its place.
func (s *Service) Revoke(ctx context.Context, req Request, name string, n uint32, in api.VersionActRequest) (api.Key, error) {
	return s.versionAct(ctx, req, authz.ActionRevoke, name, n, in, Lifecycle.Revoke)
}

func (s *Service) versionAct(ctx context.Context, req Request, action, name string, n uint32, in api.VersionActRequest,
	act func(Lifecycle, context.Context, rotation.Actor, string, uint32, string) (*keys.Key, error),
) (api.Key, error) {
	o := s.open(req, action, name, 0)
	o.rec.Version = n
	return changes(ctx, o, nil, func(o *op) (api.Key, error) {
		if len(in.Reason) > maxNote || !utf8.ValidString(in.Reason) {
			return api.Key{}, keys.Errorf(keys.ErrInvalid, "the reason must be UTF-8 of at most %d bytes", maxNote)
		}
		if v, err := o.key.Version(n); err == nil && v.CreatedAt.IsZero() {
			return api.Key{}, keys.Errorf(keys.ErrVersionNotFound, "key %q has no version %d", name, n)
		}
		return s.described(act(o.lifecycle(), ctx, o.actor(), name, n, in.Reason))
	})
}

// Rotation describes one rotation of a key that the caller may see.
func (s *Service) Rotation(ctx context.Context, req Request, id string) (api.Rotation, error) {
	return guarded(ctx, s.open(req, authz.ActionListRotations, "", 0), func(ctx context.Context, o *op) (api.Rotation, error) {
		r, err := s.lifecycle.Rotation(ctx, clip(id)) // a clipped id is no id
		if err == nil {
			o.rec.Key = r.Key
			err = o.authorise(0)
		}
		for _, unseen := range []error{keys.ErrNotFound, keys.ErrKeyNotFound, keys.ErrForbidden} {
			if errors.Is(err, unseen) {
				return api.Rotation{}, keys.Errorf(keys.ErrNotFound, "there is no rotation %q here, or you may not see it", clip(id))
			}
		}
		if err != nil {
			return api.Rotation{}, err
		}
		return describeRotation(r), nil
	})
}

// Rotations describes rotations, newest first, from before the id given, of
// one key or of all that the caller may see. limit 0 means DefaultPage.
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
					list.Rotations = append(list.Rotations, describeRotation(r))
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

func (s *Service) described(k *keys.Key, err error) (api.Key, error) {
	if err != nil {
		return api.Key{}, err
	}
	return describe(k, s.now()), nil
}

func describeRotation(r *keys.Rotation) api.Rotation {
	return api.Rotation{
		ID: r.ID, Key: r.Key, From: r.From, To: r.To, Reason: string(r.Reason), Phase: string(r.Phase),
		StartedBy: r.StartedBy, RequestID: r.RequestID, StartedAt: at(r.StartedAt), CompletedAt: at(r.CompletedAt), Error: r.Error,
	}
}
