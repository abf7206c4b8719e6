package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keyhole/keys"
)

// Spec describes a key to be made.
type Spec struct {
	Name        string
	Algorithm   keys.Algorithm
	Bits        int
	Description string
	Tags        map[string]string
	Token       string // "": the default token
	Policy      keys.Policy
}

// CreateKey makes a key with an active version 1 and returns it. Errors:
// keys.ErrInvalid, ErrUnsupported, ErrKeyExists, ErrKeyRetired, ErrHSM,
// ErrAudit, ErrStore. A key whose first version could not be generated does
// not exist afterwards. After ErrStore, or when the undoing fails too, the
// rotation stays open: Recover and Run finish it, and the key exists then.
func (e *Engine) CreateKey(ctx context.Context, actor Actor, s Spec) (*keys.Key, error) {
	if err := keys.CheckNewName(s.Name); err != nil {
		return nil, err
	}
	return e.create(ctx, actor, s)
}

// auditKeyPeriod is how long a version of the audit key signs checkpoints,
// unless its policy is changed.
const auditKeyPeriod = 365 * 24 * time.Hour

// EnsureAuditKey makes the key that signs checkpoints of the audit log, if
// there is none: Ed25519 where the default token can, else ECDSA on P-256. Of
// several gateways that start at once one makes it, and the others wait for
// it. Errors as CreateKey.
func (e *Engine) EnsureAuditKey(ctx context.Context) error {
	ctx, cancel := detach(ctx)
	defer cancel()
	for {
		k, err := e.store.Key(ctx, keys.AuditKeyName)
		switch {
		case errors.Is(err, keys.ErrKeyNotFound):
			err = e.createAuditKey(ctx)
			if !errors.Is(err, keys.ErrKeyExists) && !errors.Is(err, keys.ErrRotationRunning) {
				return err
			}
			continue // another gateway was faster
		case err != nil:
			return err
		case !inTheMaking(k):
			return nil
		}
		r, err := e.openRotation(ctx, k.Name)
		if err != nil || r == nil {
			return err // Reconcile finds out what became of it
		}
		if err := e.advanceSoon(ctx, systemActor, r.ID); err != nil {
			return err
		}
	}
}

// inTheMaking reports whether no version of k was ever generated.
func inTheMaking(k *keys.Key) bool {
	return !slices.ContainsFunc(k.Versions, func(v *keys.Version) bool { return !v.CreatedAt.IsZero() })
}

func (e *Engine) createAuditKey(ctx context.Context) error {
	s := Spec{
		Name: keys.AuditKeyName, Algorithm: keys.EdDSA, Description: "Signs checkpoints of the audit log, and nothing else.",
		Token: e.token.DefaultToken(), Policy: keys.Policy{Period: auditKeyPeriod},
	}
	if e.token.Capable(s.Token, s.Algorithm) != nil {
		s.Algorithm = keys.ES256
	}
	_, err := e.create(ctx, systemActor, s)
	return err
}

// vouches reports whether checkpoints can be signed by an algorithm. A single
// version of another one would be in the way of all later checkpoints.
func vouches(alg keys.Algorithm) bool { return alg == keys.EdDSA || alg == keys.ES256 }

func (e *Engine) create(ctx context.Context, actor Actor, s Spec) (*keys.Key, error) {
	if _, err := keys.ParseAlgorithm(string(s.Algorithm)); err != nil {
		return nil, err
	}
	bits, err := s.Algorithm.KeyBits(s.Bits)
	if err != nil {
		return nil, err
	}
	if err := e.CheckPolicy(s.Policy); err != nil {
		return nil, err
	}
	if s.Token == "" {
		s.Token = e.token.DefaultToken()
	}
	if !e.token.HasToken(s.Token) {
		return nil, keys.Errorf(keys.ErrInvalid, "no token is configured under the name %q", s.Token)
	}
	if s, err = e.offered(s); err != nil {
		return nil, err
	}
	ctx, cancel := detach(ctx)
	defer cancel()
	k := &keys.Key{
		Name: s.Name, Purpose: s.Algorithm.Purpose(), Algorithm: s.Algorithm, Bits: bits,
		Description: s.Description, Tags: s.Tags, Token: s.Token, Policy: s.Policy, CreatedAt: e.clock(),
	}
	r := &keys.Rotation{Reason: keys.ReasonInitial}
	v := &keys.Version{Algorithm: s.Algorithm, Bits: bits}
	b, err := e.begin(ctx, actor, k, v, r)
	if err != nil {
		return nil, err
	}
	defer b.done()
	if r, err = e.advance(b.ctx, actor, b.id); err != nil {
		return nil, err
	}
	return e.store.Key(ctx, r.Key)
}

// oaepNote is added to the description of a key that asked for more than its
// token can do.
const oaepNote = "[RSA-OAEP with SHA-1 (and MGF1 with SHA-1) in place of RSA-OAEP-256: the token %q does not do OAEP with SHA-256.]"

// offered returns s with an algorithm that its token has. Where a round trip
// has shown that the token does OAEP with SHA-1 only, a key that asks for
// RSA-OAEP-256 gets RSA-OAEP, and its description says so. Everything else
// that the token cannot do is keys.ErrUnsupported.
func (e *Engine) offered(s Spec) (Spec, error) {
	err := e.token.Capable(s.Token, s.Algorithm)
	if s.Algorithm != keys.RSAOAEP256 || !errors.Is(err, keys.ErrUnsupported) || e.token.Capable(s.Token, keys.RSAOAEP) != nil {
		return s, err
	}
	s.Algorithm = keys.RSAOAEP
	if s.Description != "" {
		s.Description += " "
	}
	s.Description += fmt.Sprintf(oaepNote, s.Token)
	return s, nil
}
