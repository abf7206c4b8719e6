package gateway

import (
	"context"
	"errors"
	"slices"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
)

// Subscribe has the caller counted in a key's acknowledgements.
func (s *Service) Subscribe(ctx context.Context, req Request, key string) (api.Subscription, error) {
	return guarded(ctx, s.open(req, authz.ActionSubscribe, key, 0), func(ctx context.Context, o *op) (api.Subscription, error) {
		if err := o.authorise(0); err != nil {
			return api.Subscription{}, err
		}
		sub, err := s.store.Subscribe(ctx, keys.Subscription{Key: o.key.Name, Principal: req.Caller.ID, Since: o.now})
		if err != nil {
			return api.Subscription{}, err
		}
		acks, err := s.store.Acks(ctx, o.key.Name, 0, req.Caller.ID)
		if err != nil {
			return api.Subscription{}, err
		}
		return o.subscription(sub, o.key, acks), nil
	})
}

// Unsubscribe undoes Subscribe. Who is no longer allowed to subscribe can
// still do so: rotations would wait for them.
func (s *Service) Unsubscribe(ctx context.Context, req Request, key string) error {
	_, err := guarded(ctx, s.open(req, authz.ActionSubscribe, key, 0), func(ctx context.Context, o *op) (struct{}, error) {
		err := o.authorise(0)
		if errors.Is(err, keys.ErrForbidden) || errors.Is(err, keys.ErrKeyNotFound) {
			subs, serr := s.store.Subscriptions(ctx, o.rec.Key, req.Caller.ID)
			if serr != nil {
				return struct{}{}, serr
			}
			if len(subs) > 0 {
				err, o.rec.Outcome, o.rec.Reason = nil, "", ""
			}
		}
		if err != nil {
			return struct{}{}, err
		}
		o.detail("act", "unsubscribe")
		return struct{}{}, s.store.Unsubscribe(ctx, o.rec.Key, req.Caller.ID)
	})
	return err
}

// Subscriptions lists the caller's subscriptions to keys that the caller may
// see, in order of their keys.
func (s *Service) Subscriptions(ctx context.Context, req Request) (api.SubscriptionList, error) {
	return guarded(ctx, s.open(req, authz.ActionSubscribe, "", 0), func(ctx context.Context, o *op) (api.SubscriptionList, error) {
		list := api.SubscriptionList{Subscriptions: []api.Subscription{}}
		snap, err := s.snapshots.Snapshot()
		if err != nil {
			return list, err
		}
		subs, err := s.store.Subscriptions(ctx, "", req.Caller.ID)
		if err != nil {
			return list, err
		}
		acks, err := s.store.Acks(ctx, "", 0, req.Caller.ID)
		if err != nil {
			return list, err
		}
		for _, sub := range subs {
			k, ok := snap.Key(sub.Key)
			if ok && (o.ask(authz.ActionSubscribe, resourceOf(k), "").Allowed || o.ask(authz.ActionRead, resourceOf(k), "").Allowed) {
				list.Subscriptions = append(list.Subscriptions, o.subscription(sub, k, acks))
			}
		}
		return list, nil
	})
}

// subscription describes sub. acks are the caller's.
func (o *op) subscription(sub keys.Subscription, k *keys.Key, acks []keys.Ack) api.Subscription {
	out := api.Subscription{Key: sub.Key, Since: wire.Time(sub.Since), Waiting: []uint32{}}
	for _, v := range k.Versions {
		acked := slices.ContainsFunc(acks, func(a keys.Ack) bool { return a.Key == k.Name && a.Version == v.Number })
		if !acked && o.acknowledgeable(k, v) == nil {
			out.Waiting = append(out.Waiting, v.Number)
		}
	}
	return out
}

// Acknowledge enters that the caller has a version. Doing so again changes
// nothing.
func (s *Service) Acknowledge(ctx context.Context, req Request, key string, n uint32) (api.Ack, error) {
	return guarded(ctx, s.open(req, authz.ActionSubscribe, key, 0), func(ctx context.Context, o *op) (api.Ack, error) {
		if err := o.authorise(n); err != nil {
			return api.Ack{}, err
		}
		v, err := o.version(n)
		if err != nil {
			return api.Ack{}, err
		}
		o.name(v)
		o.detail("act", "acknowledge")
		if err := o.acknowledgeable(o.key, v); err != nil {
			return api.Ack{}, err
		}
		ack, err := s.store.Acknowledge(ctx, keys.Ack{Key: o.key.Name, Version: n, Principal: req.Caller.ID, At: o.now})
		if errors.Is(err, keys.ErrNotSubscribed) {
			return api.Ack{}, keys.Errorf(keys.ErrNotSubscribed, "you are not subscribed to key %q: nobody waits for your acknowledgement", o.key.Name)
		}
		if err != nil {
			return api.Ack{}, err
		}
		return wire.Ack(ack), nil
	})
}

// acknowledgeable refuses versions that nobody can have: never announced, or
// no longer published.
func (o *op) acknowledgeable(k *keys.Key, v *keys.Version) error {
	state := k.StateAt(v, o.now)
	switch {
	case v.CreatedAt.IsZero() || state == keys.PreActivation && v.AnnouncedAt.IsZero():
		return keys.Errorf(keys.ErrVersionState, "version %s was not announced yet", k.ID(v))
	case !state.Published():
		return keys.Errorf(keys.ErrVersionState, "version %s is %s; it is not published any more", k.ID(v), state)
	}
	return nil
}
