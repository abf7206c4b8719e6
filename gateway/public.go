package gateway

import (
	"cmp"
	"context"
	"errors"
	"time"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
)

// JWKS returns the published public keys: of one key, or with name "" of all
// that the caller may see. An anonymous caller to whom the policy does not
// open them has failed to authenticate.
func (s *Service) JWKS(ctx context.Context, req Request, name string) (api.JWKS, error) {
	set := api.JWKS{Keys: []api.JWK{}}
	err := s.public(ctx, req, name, func(k *keys.Key, now time.Time) { set.Keys = wire.AppendJWKS(set.Keys, k, now) })
	if err != nil {
		return api.JWKS{}, err
	}
	return set, nil
}

// Status says what has become of each version whose public key is or was
// published. It is open to whom JWKS is.
func (s *Service) Status(ctx context.Context, req Request, name string) (api.StatusSet, error) {
	set := api.StatusSet{Keys: []api.KeyStatus{}}
	err := s.public(ctx, req, name, func(k *keys.Key, now time.Time) { set.Keys = wire.AppendStatus(set.Keys, k, now) })
	if err != nil {
		return api.StatusSet{}, err
	}
	return set, nil
}

// public shows what is public about one key or about all that the caller may
// see. It is no event for the audit log, unless it is refused.
func (s *Service) public(ctx context.Context, req Request, name string, show func(*keys.Key, time.Time)) error {
	o := s.open(req, authz.ActionJWKS, name, 0)
	err := s.eachPublic(o, name, show)
	switch {
	case err == nil:
		return nil
	case req.Caller.Method == authz.MethodAnonymous:
		if errors.Is(err, keys.ErrForbidden) || errors.Is(err, keys.ErrKeyNotFound) {
			_, err = s.Authenticate(ctx, req.ID, req.Source, authz.Credentials{})
		}
		return cmp.Or(err, keys.ErrUnauthenticated)
	}
	if rerr := s.record(ctx, o.finish(err)); rerr != nil {
		return rerr
	}
	return err
}

func (s *Service) eachPublic(o *op, name string, show func(*keys.Key, time.Time)) error {
	release, err := s.place(&o.req, o.rec.Action)
	if err != nil {
		return err
	}
	defer release()
	if name != "" {
		if err := o.authorise(0); err != nil {
			return err
		}
		show(o.key, o.now)
		return nil
	}
	snap, err := s.snapshots.Snapshot()
	if err != nil {
		return err
	}
	if err := o.decide(gatewayResource, ""); err != nil {
		return err
	}
	for _, name := range snap.Names() {
		if k, ok := snap.Key(name); ok && o.ask(authz.ActionJWKS, resourceOf(k), "").Allowed {
			show(k, o.now)
		}
	}
	return nil
}

// UntilSwitch returns how long it is until the clock alone changes which
// version of the named key ("": of any key) is active; 0 if nothing is
// planned.
func (s *Service) UntilSwitch(name string) time.Duration {
	snap, err := s.snapshots.Snapshot()
	if err != nil {
		return 0
	}
	names := []string{name}
	if name == "" {
		names = snap.Names()
	}
	var least time.Duration
	now := s.now()
	for _, n := range names {
		k, ok := snap.Key(n)
		if !ok {
			continue
		}
		if at := k.NextSwitch(now); !at.IsZero() && (least == 0 || at.Sub(now) < least) {
			least = at.Sub(now)
		}
	}
	return least
}
