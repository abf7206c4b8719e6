package hsm

import (
	"bytes"
	"context"
	"crypto/hmac"
	"fmt"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/mech"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/objects"
	"keyhole/keys"
)

// maxRandom bounds what Random asks of a token at once.
const maxRandom = 1 << 16

// Sign signs a digest (EC, RSA) or message (EdDSA, HMAC) by the version that
// ref names. ECDSA signatures are r||s of fixed width. It leaves at ctx's
// deadline. Errors: keys.ErrInvalid (a digest of the wrong length),
// ErrWrongPurpose, ErrOverloaded (no session came free), ErrTimeout (the
// token did not answer), ErrUnsupported, ErrHSM (everything else, also when
// the object is missing or is not the key that ref describes).
func (h *HSM) Sign(ctx context.Context, ref keys.Ref, input []byte) ([]byte, error) {
	t, o, err := h.resolve(&ref, keys.PurposeSign)
	if err != nil {
		return nil, err
	}
	if err := checkInput(ref.Algorithm, input); err != nil {
		return nil, err
	}
	input = bytes.Clone(input) // the call may outlast the caller
	return t.do(ctx, func(s *module.Session) ([]byte, error) {
		return t.objects.Use(s, o, func(k mech.Key) ([]byte, error) { return k.Sign(s, input) })
	})
}

// checkInput refuses a digest of another length than the algorithm's hash.
func checkInput(alg keys.Algorithm, input []byte) error {
	if alg.TakesDigest() && len(input) != alg.Hash().Size() {
		return alg.CheckDigest("", input)
	}
	return nil
}

// Verify judges a signature in the form that Sign returns. Signatures of
// public-key algorithms are verified in software; a MAC is made again by the
// token and compared in constant time. Errors as of Sign; a malformed
// signature is false, not an error.
func (h *HSM) Verify(ctx context.Context, ref keys.Ref, input, sig []byte) (bool, error) {
	_, o, err := h.resolve(&ref, keys.PurposeSign)
	if err != nil {
		return false, err
	}
	if err := checkInput(ref.Algorithm, input); err != nil {
		return false, err
	}
	if o.Public() != nil {
		return o.Public().Verify(input, sig), nil
	}
	mac, err := h.Sign(ctx, ref, input)
	if err != nil {
		return false, err
	}
	return hmac.Equal(mac, sig), nil
}

// Wrap encrypts a data key of 1 to 64 bytes. A256GCM: by the token, bound to
// aad. RSA-OAEP: in software, without an IV, and without aad: tokens lack the
// OAEP label, and a JWE made elsewhere has none; the payload layer binds it.
// Errors as of Sign.
func (h *HSM) Wrap(ctx context.Context, ref keys.Ref, key, aad []byte) (iv, wrapped []byte, err error) {
	t, o, err := h.resolve(&ref, keys.PurposeEncrypt)
	if err != nil {
		return nil, nil, err
	}
	if len(key) == 0 || len(key) > mech.MaxDataKey {
		return nil, nil, keys.Errorf(keys.ErrInvalid, "a data key has 1 to %d bytes, not %d", mech.MaxDataKey, len(key))
	}
	if o.Public() != nil {
		if wrapped, err = o.Public().Encrypt(key); err != nil {
			return nil, nil, fmt.Errorf("wrapping by %s: %w: %w", ref.Label, keys.ErrHSM, err)
		}
		return nil, wrapped, nil
	}
	key, aad = bytes.Clone(key), bytes.Clone(aad)                   // the call may outlast the caller
	out, err := t.do(ctx, func(s *module.Session) ([]byte, error) { // may run more than once: see module.Exec
		return t.objects.Use(s, o, func(k mech.Key) ([]byte, error) {
			iv, wrapped, err := k.Wrap(s, t.GCMIV, key, aad)
			return append(iv, wrapped...), err
		})
	})
	if ctx.Err() == nil { // else the call may still use it
		clear(key)
	}
	if err != nil {
		return nil, nil, err
	}
	n := len(out) - len(key) - mech.GCMTagSize
	return out[:n:n], out[n:], nil
}

// Unwrap undoes Wrap. Whatever does not open is keys.DecryptFailed(); other
// errors as of Sign.
func (h *HSM) Unwrap(ctx context.Context, ref keys.Ref, iv, wrapped, aad []byte) ([]byte, error) {
	t, o, err := h.resolve(&ref, keys.PurposeEncrypt)
	if err != nil {
		return nil, err
	}
	if o.Public() != nil {
		if len(iv) != 0 || len(wrapped) != o.Public().Size() {
			return nil, keys.DecryptFailed()
		}
	} else if !mech.IVFits(t.GCMIV, iv) || len(wrapped) <= mech.GCMTagSize || len(wrapped) > mech.MaxDataKey+mech.GCMTagSize {
		return nil, keys.DecryptFailed()
	}
	iv, wrapped, aad = bytes.Clone(iv), bytes.Clone(wrapped), bytes.Clone(aad) // the call may outlast the caller
	key, err := t.do(ctx, func(s *module.Session) ([]byte, error) {
		return t.objects.Use(s, o, func(k mech.Key) ([]byte, error) { return k.Unwrap(s, iv, wrapped, aad) })
	})
	if fault.DoesNotOpen(err) {
		return nil, keys.DecryptFailed()
	}
	return key, err
}

// Random returns n bytes from the named token ("": the default one). Errors:
// keys.ErrInvalid, ErrOverloaded, ErrTimeout, ErrHSM.
func (h *HSM) Random(ctx context.Context, token string, n int) ([]byte, error) {
	if token == "" {
		token = h.DefaultToken()
	}
	t, err := h.token(token)
	if err != nil {
		return nil, err
	}
	if n < 1 || n > maxRandom {
		return nil, keys.Errorf(keys.ErrInvalid, "%d random bytes were asked for; ask for 1 to %d", n, maxRandom)
	}
	return t.do(ctx, func(s *module.Session) ([]byte, error) { return s.Random(n) })
}

// resolve returns the token and the object of ref.
func (h *HSM) resolve(ref *keys.Ref, purpose keys.Purpose) (*token, *objects.Object, error) {
	t := h.tokens[ref.Token]
	switch {
	case t == nil:
		return nil, nil, fmt.Errorf("%s lives on a token %q, which is not configured: %w", ref.Label, ref.Token, keys.ErrHSM)
	case ref.Algorithm.Purpose() != purpose:
		return nil, nil, keys.Errorf(keys.ErrWrongPurpose, "keys of %s do not %s", ref.Algorithm, purpose)
	}
	o, err := t.objects.Object(ref)
	return t, o, err
}
