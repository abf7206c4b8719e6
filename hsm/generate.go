package hsm

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/public"
	"keyhole/hsm/internal/template"
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
	err = t.managed(ctx, func(s *session, abandoned func() bool) error {
		var err error
		if made, err = t.generate(s, &ref); err == nil && abandoned() {
			t.cleanUp(&ref)
			err = fault.Ended(ctx)
		}
		return err
	})
	if err != nil {
		return keys.Generated{}, err
	}
	return made, nil
}

func (t *token) generate(s *session, ref *keys.Ref) (keys.Generated, error) {
	if err := t.absent(s, ref); err != nil {
		return keys.Generated{}, err
	}
	tmpl := template.New(template.Spec{Alg: ref.Algorithm, Bits: ref.Bits, ID: ref.ID[:], Label: ref.Label, Token: true, Curve: t.edCurve})
	err := again(func() error {
		err := t.makeKey(s, tmpl)
		if err != nil {
			t.cleanUp(ref) // half a pair may be there
		}
		return err
	})
	if err != nil {
		return keys.Generated{}, err
	}
	made, err := t.inspect(s, ref, tmpl)
	if err != nil {
		t.cleanUp(ref)
		return keys.Generated{}, err
	}
	return made, nil
}

// absent proves that no key has the id, and no object at all the label.
func (t *token) absent(s *session, ref *keys.Ref) error {
	byID, err := t.keysByID(s, ref.ID)
	if err != nil {
		return err
	}
	byLabel, err := t.find(s, 1, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, ref.Label))
	if err != nil {
		return err
	}
	if len(byID)+len(byLabel) > 0 {
		return keys.Errorf(keys.ErrKeyExists, "the token %q has an object with the id or the label of %s", t.Name, ref.Label)
	}
	return nil
}

// cleanUp removes what a failed generation left, on a session of its own: the
// one that failed may be dead.
func (t *token) cleanUp(ref *keys.Ref) {
	s := &session{rw: true}
	err := t.ready(s)
	if err == nil {
		err = t.destroy(s, ref)
		t.drop(s)
	}
	if err != nil {
		t.log.Error("objects of a failed generation may be left on the token", "label", ref.Label, "cka_id", ref.ID, "err", err)
	}
}

// makeKey generates a token object: by crypto11 what it can.
func (t *token) makeKey(s *session, tmpl template.Template) error {
	if tmpl.Alg.Family() == keys.FamilyEd25519 {
		_, _, err := t.generateOn(s, tmpl)
		return err
	}
	err := t.makeByCrypto11(tmpl)
	if c := fault.Of(err); c != fault.Session && c != fault.Login && c != fault.Handle {
		return err
	}
	// crypto11 keeps dead sessions for ever: it gets a new context.
	if err := t.renew(); err != nil {
		return err
	}
	return t.makeByCrypto11(tmpl)
}

// renew replaces the crypto11 context.
func (t *token) renew() error {
	t.loginMu.Lock()
	defer t.loginMu.Unlock()
	t.gen.Add(1)
	return t.configure()
}

func (t *token) makeByCrypto11(tmpl template.Template) (err error) {
	t.contexts.mu.Lock()
	c := t.contexts.current
	t.contexts.mu.Unlock()
	if c == nil {
		return fmt.Errorf("token %q is not open: %w", t.Name, keys.ErrHSM)
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in crypto11: %v: %w", r, keys.ErrHSM)
		}
	}()
	start := time.Now()
	switch tmpl.Alg.Family() {
	case keys.FamilyEC:
		_, err = c.GenerateECDSAKeyPairWithAttributes(template.AttributeSet(tmpl.Public), template.AttributeSet(tmpl.Private), public.Curve(tmpl.Alg))
	case keys.FamilyRSA:
		_, err = c.GenerateRSAKeyPairWithAttributes(template.AttributeSet(tmpl.Public), template.AttributeSet(tmpl.Private), tmpl.Bits)
	case keys.FamilyAES:
		_, err = c.GenerateSecretKeyWithAttributes(template.AttributeSet(tmpl.Private), tmpl.Bits, crypto11.CipherAES)
	case keys.FamilyHMAC:
		_, err = c.GenerateSecretKeyWithAttributes(template.AttributeSet(tmpl.Private), tmpl.Bits, crypto11.CipherGeneric)
	}
	return t.note(fault.OpGenerate, start, err)
}

// generateOn generates by miekg/pkcs11, on s; pub is 0 for secret keys.
func (t *token) generateOn(s *session, tmpl template.Template) (pub, key pkcs11.ObjectHandle, err error) {
	start := time.Now()
	if tmpl.Public != nil {
		pub, key, err = t.mod.ctx.GenerateKeyPair(s.h, mechanism(tmpl.Mechanism, nil), tmpl.Public, tmpl.Private)
	} else {
		key, err = t.mod.ctx.GenerateKey(s.h, mechanism(tmpl.Mechanism, nil), tmpl.Private)
	}
	return pub, key, t.note(fault.OpGenerate, start, err)
}

// inspect finds a fresh key, reads back what it is, and uses it once.
func (t *token) inspect(s *session, ref *keys.Ref, tmpl template.Template) (keys.Generated, error) {
	key, err := t.findKey(s, ref.ID, ref.Algorithm)
	if err != nil {
		return keys.Generated{}, err
	}
	if err := t.readBack(s, key, slices.Concat(tmpl.Private, template.Born())); err != nil {
		return keys.Generated{}, err
	}
	made := keys.Generated{NeverExtractable: true, AlwaysSensitive: true}
	h := handle{key: key, alg: ref.Algorithm, bits: ref.Bits}
	if tmpl.Public != nil {
		pub, err := t.findOne(s, ref.ID, pkcs11.CKO_PUBLIC_KEY)
		if err != nil {
			return keys.Generated{}, err
		}
		if err := t.readBack(s, pub, tmpl.Public); err != nil {
			return keys.Generated{}, err
		}
		if made.PublicKey, h.pub, err = t.export(s, pub, ref.Algorithm, ref.Bits); err != nil {
			return keys.Generated{}, err
		}
	}
	if made.Check, err = t.makeCheck(s, h, made.PublicKey); err != nil {
		return keys.Generated{}, err
	}
	o, err := newObject(&keys.Ref{Label: ref.Label, Algorithm: ref.Algorithm, Bits: ref.Bits, PublicKey: made.PublicKey, Check: made.Check})
	if err != nil {
		return keys.Generated{}, err
	}
	o.found.Store(&found{key, s.gen}) // proved just now
	t.objects.Store(ref.ID, o)
	return made, nil
}

// readBack compares an object's attributes with those wanted.
func (t *token) readBack(s *session, o pkcs11.ObjectHandle, want []*pkcs11.Attribute) error {
	for _, w := range want {
		got, err := t.bytesOf(s, o, w.Type)
		unknown := fault.Of(err) == fault.Caller
		if err != nil && !unknown {
			return err
		}
		same := template.Met(w, got)
		if unknown {
			same = template.MayLack(w)
		}
		if !same {
			return fmt.Errorf("token %q made a key whose attribute 0x%X is %X, not %X; the key is not used: %w", t.Name, w.Type, got, w.Value, keys.ErrHSM)
		}
	}
	return nil
}

// export reads a public key object.
func (t *token) export(s *session, o pkcs11.ObjectHandle, alg keys.Algorithm, bits int) (spki []byte, pub *public.Key, err error) {
	if alg.Family() == keys.FamilyRSA {
		modulus, err := t.bytesOf(s, o, pkcs11.CKA_MODULUS)
		if err != nil {
			return nil, nil, err
		}
		exponent, err := t.bytesOf(s, o, pkcs11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return nil, nil, err
		}
		spki, err = public.FromRSA(modulus, exponent, bits)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", keys.ErrHSM, err)
		}
	} else {
		point, err := t.bytesOf(s, o, pkcs11.CKA_EC_POINT)
		if err != nil {
			return nil, nil, err
		}
		if alg == keys.EdDSA {
			spki, err = public.FromEdPoint(point)
		} else {
			spki, err = public.FromECPoint(alg, point)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", keys.ErrHSM, err)
		}
	}
	if pub, err = public.Parse(alg, spki); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", keys.ErrHSM, err)
	}
	return spki, pub, nil
}
