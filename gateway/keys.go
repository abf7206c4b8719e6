package gateway

import (
	"context"
	"slices"
	"time"
	"unicode/utf8"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
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

// Key describes one key.
func (s *Service) Key(ctx context.Context, req Request, name string) (api.Key, error) {
	return guarded(ctx, s.open(req, authz.ActionRead, name, 0), func(ctx context.Context, o *op) (api.Key, error) {
		if err := o.authorise(0); err != nil {
			return api.Key{}, err
		}
		return s.describe(ctx, o.key, o.now), nil
	})
}

// MaxPage is the most keys or rotations of one page; DefaultPage is what is
// returned unless asked otherwise.
const (
	MaxPage     = 1000
	DefaultPage = 100
)

// Keys describes the keys that the caller may see, in order of their names,
// from behind after. limit 0 means DefaultPage. The first page names those
// that are damaged.
func (s *Service) Keys(ctx context.Context, req Request, after string, limit int) (api.KeyList, error) {
	return guarded(ctx, s.open(req, authz.ActionRead, "", 0), func(ctx context.Context, o *op) (api.KeyList, error) {
		limit, err := pageSize(limit)
		if err != nil {
			return api.KeyList{}, err
		}
		snap, err := s.snapshots.Snapshot()
		if err != nil {
			return api.KeyList{}, err
		}
		list, running := api.KeyList{Keys: []api.Key{}}, s.runningRotations(ctx)
		names := snap.Names()
		i, found := slices.BinarySearch(names, after)
		if found {
			i++
		}
		for _, name := range names[i:] {
			k, ok := snap.Key(name)
			if !ok || !visible(k) || !o.ask(authz.ActionRead, resourceOf(k), "").Allowed {
				continue
			}
			if len(list.Keys) == limit {
				list.Next = list.Keys[limit-1].Name
				break
			}
			list.Keys = append(list.Keys, s.shown(k, o.now, running[k.Name]))
		}
		if after == "" {
			list.Damaged = o.damagedKeys(snap)
		}
		return list, nil
	})
}

func pageSize(limit int) (int, error) {
	switch {
	case limit == 0:
		return DefaultPage, nil
	case limit < 0 || limit > MaxPage:
		return 0, keys.Errorf(keys.ErrInvalid, "\"limit\" is %d; ask for 1 to %d", limit, MaxPage)
	}
	return limit, nil
}

// damagedKeys names the damaged keys that the caller may see.
func (o *op) damagedKeys(snap *store.Snapshot) []string {
	var names []string
	for _, name := range snap.Damaged() {
		if k, ok := snap.Key(name); ok && o.ask(authz.ActionRead, resourceOf(k), "").Allowed {
			names = append(names, name)
		}
	}
	return names
}

// runningRotations returns the ids of the rotations that run, by key. While
// the store cannot be read there are none.
func (s *Service) runningRotations(ctx context.Context) map[string]string {
	open, err := s.lifecycle.Rotations(ctx, store.RotationFilter{OpenOnly: true})
	if err != nil {
		s.log.WarnContext(ctx, "keys are described without their rotations", "err", err)
	}
	running := make(map[string]string, len(open))
	for _, r := range open {
		running[r.Key] = r.ID
	}
	return running
}

// describe is a key as the API shows it.
func (s *Service) describe(ctx context.Context, k *keys.Key, now time.Time) api.Key {
	// Without a version that was not active yet, there is none.
	if last := k.Latest(); last == nil || !last.ActivatedAt.IsZero() || !last.DestroyedAt.IsZero() {
		return s.shown(k, now, "")
	}
	open, err := s.lifecycle.Rotations(ctx, store.RotationFilter{Key: k.Name, OpenOnly: true, Limit: 1})
	if err != nil {
		s.log.WarnContext(ctx, "a key is described without its rotation", "key", k.Name, "err", err)
	}
	if len(open) == 0 {
		return s.shown(k, now, "")
	}
	return s.shown(k, now, open[0].ID)
}

func (s *Service) shown(k *keys.Key, now time.Time, rotation string) api.Key {
	out := wire.Key(k, now)
	out.Rotation, out.NextRotation = rotation, wire.Time(s.lifecycle.NextRotation(k))
	return out
}

// described is describe of what the lifecycle answers.
func (s *Service) described(ctx context.Context) func(*keys.Key, error) (api.Key, error) {
	return func(k *keys.Key, err error) (api.Key, error) {
		if err != nil {
			return api.Key{}, err
		}
		return s.describe(ctx, k, s.now()), nil
	}
}

// CreateKey makes a key and activates its version 1.
func (s *Service) CreateKey(ctx context.Context, req Request, in api.CreateKeyRequest) (api.Key, error) {
	var spec rotation.Spec
	return changes(ctx, s.open(req, authz.ActionCreateKey, clip(in.Name), 0),
		func(_ context.Context, o *op) error {
			var err error
			if spec, err = specOf(in); err != nil {
				return err
			}
			return o.decide(authz.Resource{Type: authz.TypeKey, Name: spec.Name, Purpose: string(spec.Algorithm.Purpose()), Tags: spec.Tags}, "")
		},
		func(ctx context.Context, o *op) (api.Key, error) {
			return s.described(ctx)(o.lifecycle().CreateKey(ctx, o.actor(), spec))
		})
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
		spec.Policy = wire.PolicyOf(*in.Policy)
	}
	var err error
	if spec.Algorithm, err = keys.ParseAlgorithm(in.Algorithm); err != nil {
		return spec, err
	}
	return spec, checkWords(&in.Description, &in.Tags)
}

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
	return changes(ctx, s.open(req, authz.ActionUpdateKey, name, 0), nil, func(ctx context.Context, o *op) (api.Key, error) {
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
			p := wire.PolicyOf(*in.Policy)
			u.Policy = &p
		}
		return s.described(ctx)(o.lifecycle().UpdateKey(ctx, o.actor(), name, u))
	})
}
