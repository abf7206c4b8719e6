package hsm

import (
	"context"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/probe"
	"keyhole/keys"
)

// Generate makes the objects of ref: it proves that neither the CKA_ID nor
// the label exists on the token, generates, reads the attributes back and
// compares them with what was asked for, and uses the key once. Whatever
// fails, also the caller's leaving, leaves nothing behind, unless the process
// dies in it or the token stops answering. Errors: keys.ErrInvalid,
// ErrUnsupported, ErrKeyExists, ErrOverloaded, ErrTimeout, ErrHSM.
func (h *HSM) Generate(ctx context.Context, ref keys.Ref) (keys.Generated, error) {
	t, err := h.token(ref.Token)
	if err != nil {
		return keys.Generated{}, err
	}
	if err := h.Capable(ref.Token, ref.Algorithm); err != nil {
		return keys.Generated{}, err
	}
	if ref.Bits, err = ref.Algorithm.KeyBits(ref.Bits); err != nil {
		return keys.Generated{}, err
	}
	if ref.Label == "" || ref.ID == (keys.ObjectID{}) {
		return keys.Generated{}, keys.Errorf(keys.ErrInvalid, "a key needs a label and a random id")
	}
	var made keys.Generated
	err = t.tok.Manage(ctx, func(s *module.Session, abandoned func() bool) error {
		var err error
		if made, err = t.objects.Generate(s, &ref); err == nil && abandoned() {
			t.objects.CleanUp(&ref)
			err = fault.Ended(ctx)
		}
		return err
	})
	if err != nil {
		return keys.Generated{}, err
	}
	return made, nil
}

// Destroy removes the objects of ref, known by CKA_ID and label, and checks
// that they are gone. It is idempotent: nil when there are none. An object
// that has the id but another label is left alone, and is an error. Errors:
// keys.ErrInvalid, ErrOverloaded, ErrTimeout, ErrHSM.
func (h *HSM) Destroy(ctx context.Context, ref keys.Ref) error {
	t, err := h.token(ref.Token)
	if err != nil {
		return err
	}
	return t.tok.Manage(ctx, func(s *module.Session, _ func() bool) error { return t.objects.Destroy(s, &ref) })
}

// Capable returns nil if a round trip has shown that the token can do alg.
// Otherwise the error is keys.ErrUnsupported and says what the token can, or
// keys.ErrInvalid when there is no such token.
func (h *HSM) Capable(token string, alg keys.Algorithm) error {
	t, err := h.token(token)
	if err != nil {
		return err
	}
	limit, probed := t.can[alg]
	switch {
	case !probed:
		return keys.Errorf(keys.ErrUnsupported, "there is no algorithm %q", alg)
	case limit == nil:
		return nil
	}
	return keys.Errorf(keys.ErrUnsupported, "the token %q does not do %s (%s); it does %s", token, alg, probe.Reason(limit), t.can)
}
