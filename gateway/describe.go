package gateway

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"time"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Key describes one key.
func (s *Service) Key(ctx context.Context, req Request, name string) (api.Key, error) {
	return guarded(ctx, s.open(req, authz.ActionRead, name, 0), func(_ context.Context, o *op) (api.Key, error) {
		if err := o.authorise(0); err != nil {
			return api.Key{}, err
		}
		return describe(o.key, o.now), nil
	})
}

// MaxPage is the most keys or rotations of one page; DefaultPage is what is
// returned unless asked otherwise.
const (
	MaxPage     = 1000
	DefaultPage = 100
)

// Keys describes the keys that the caller may see, in order of their names,
// from behind after. limit 0 means DefaultPage.
func (s *Service) Keys(ctx context.Context, req Request, after string, limit int) (api.KeyList, error) {
	return guarded(ctx, s.open(req, authz.ActionRead, "", 0), func(_ context.Context, o *op) (api.KeyList, error) {
		limit, err := pageSize(limit)
		if err != nil {
			return api.KeyList{}, err
		}
		snap, err := s.snapshots.Snapshot()
		if err != nil {
			return api.KeyList{}, err
		}
		list := api.KeyList{Keys: []api.Key{}}
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
			list.Keys = append(list.Keys, describe(k, o.now))
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

// JWKS returns the published public keys: of one key, or with name "" of all
// that the caller may see. An anonymous caller to whom the policy does not
// open them has failed to authenticate.
func (s *Service) JWKS(ctx context.Context, req Request, name string) (api.JWKS, error) {
	o := s.open(req, authz.ActionJWKS, name, 0)
	set, err := s.jwks(o, name)
	if err != nil && req.Caller.Method == authz.MethodAnonymous {
		if errors.Is(err, keys.ErrForbidden) || errors.Is(err, keys.ErrKeyNotFound) {
			_, err = s.Authenticate(ctx, req.ID, req.Source, authz.Credentials{})
		}
		return api.JWKS{}, cmp.Or(err, keys.ErrUnauthenticated)
	}
	if err != nil {
		if rerr := s.record(ctx, o.finish(err)); rerr != nil {
			return api.JWKS{}, rerr
		}
		return api.JWKS{}, err
	}
	return set, nil // reading public keys is no event for the audit log
}

func (s *Service) jwks(o *op, name string) (api.JWKS, error) {
	set := api.JWKS{Keys: []api.JWK{}}
	release, err := s.place(&o.req, o.rec.Action)
	if err != nil {
		return set, err
	}
	defer release()
	if name != "" {
		if err := o.authorise(0); err != nil {
			return set, err
		}
		set.Keys = published(set.Keys, o.key, o.now)
		return set, nil
	}
	snap, err := s.snapshots.Snapshot()
	if err != nil {
		return set, err
	}
	if err := o.decide(gatewayResource, ""); err != nil {
		return set, err
	}
	for _, name := range snap.Names() {
		if k, ok := snap.Key(name); ok && o.ask(authz.ActionJWKS, resourceOf(k), "").Allowed {
			set.Keys = published(set.Keys, k, o.now)
		}
	}
	return set, nil
}

// published appends the public keys of k that belong in a JWKS, newest first.
func published(set []api.JWK, k *keys.Key, now time.Time) []api.JWK {
	for _, v := range slices.Backward(k.Versions) {
		if v.CreatedAt.IsZero() || !k.StateAt(v, now).Published() {
			continue
		}
		if jwk := jwkOf(k, v); jwk != nil {
			set = append(set, *jwk)
		}
	}
	return set
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

// describe is a key as the API shows it. Versions that were reserved and
// never generated are not shown.
func describe(k *keys.Key, now time.Time) api.Key {
	out := api.Key{
		Name: k.Name, Purpose: string(k.Purpose), Algorithm: string(k.Algorithm), Bits: k.Bits,
		Description: k.Description, Tags: k.Tags, Token: k.Token, Epoch: k.Epoch, CreatedAt: api.At(k.CreatedAt),
		Policy: api.Policy{Period: api.Duration(k.Policy.Period)}, Versions: []api.Version{},
	}
	if active := k.ActiveAt(now); active != nil {
		out.ActiveVersion = active.Number
	}
	for _, v := range slices.Backward(k.Versions) {
		if v.CreatedAt.IsZero() {
			continue
		}
		d := api.Version{
			Version: v.Number, KeyID: k.ID(v).String(), State: string(k.StateAt(v, now)), Algorithm: string(v.Algorithm), Bits: v.Bits,
			CreatedAt: api.At(v.CreatedAt), AnnouncedAt: at(v.AnnouncedAt), ActivateAt: at(v.ActivateAt),
			DeactivatedAt: at(k.DeactivatedAt(v, now)), SuspendedAt: at(v.SuspendedAt), RevokedAt: at(v.RevokedAt),
			RevokeReason: v.RevokeReason, DestroyAt: at(v.DestroyAt), DestroyedAt: at(v.DestroyedAt), JWK: jwkOf(k, v),
			HSM: api.HSM{Token: k.Token, CKAID: v.ObjectID.String(), NeverExtractable: v.NeverExtractable, AlwaysSensitive: v.AlwaysSensitive},
		}
		if len(v.PublicKey) > 0 {
			d.PublicKey = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: v.PublicKey}))
		}
		out.Versions = append(out.Versions, d)
	}
	return out
}

func at(t time.Time) api.Time {
	if t.IsZero() {
		return api.Time{}
	}
	return api.At(t)
}

// jwkOf returns the public JWK of a version, or nil for secret keys.
func jwkOf(k *keys.Key, v *keys.Version) *api.JWK {
	if len(v.PublicKey) == 0 {
		return nil
	}
	pub, err := x509.ParsePKIXPublicKey(v.PublicKey)
	if err != nil {
		return nil
	}
	jwk := &api.JWK{Use: "sig", Algorithm: string(v.Algorithm), KeyID: k.ID(v).String()}
	if k.Purpose == keys.PurposeEncrypt {
		jwk.Use = "enc"
	}
	b64 := base64.RawURLEncoding.EncodeToString
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes() // 4 || X || Y
		if err != nil {
			return nil
		}
		width := (len(point) - 1) / 2
		jwk.KeyType, jwk.Curve = "EC", pub.Params().Name
		jwk.X, jwk.Y = b64(point[1:1+width]), b64(point[1+width:])
	case ed25519.PublicKey:
		jwk.KeyType, jwk.Curve, jwk.X = "OKP", "Ed25519", b64(pub)
	case *rsa.PublicKey:
		jwk.KeyType, jwk.N, jwk.E = "RSA", b64(pub.N.Bytes()), b64(big.NewInt(int64(pub.E)).Bytes())
	default:
		return nil
	}
	return jwk
}
