package objects

import (
	"fmt"
	"slices"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/mech"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/public"
	"keyhole/hsm/internal/template"
	"keyhole/keys"
)

// Generate makes the objects of ref: it proves that neither the CKA_ID nor
// the label exists on the token, generates, reads the attributes back and
// compares them with what was asked for, and uses the key once. A failure
// leaves nothing behind, unless the token stops answering. Errors:
// keys.ErrKeyExists, ErrUnsupported, ErrHSM.
func (k *Keys) Generate(s *module.Session, ref *keys.Ref) (keys.Generated, error) {
	if err := k.absent(s, ref); err != nil {
		return keys.Generated{}, err
	}
	tmpl := template.New(template.Spec{Alg: ref.Algorithm, Bits: ref.Bits, ID: ref.ID[:], Label: ref.Label, Token: true, Curve: k.curve})
	err := fault.Again(func() error {
		err := k.makeKey(s, tmpl)
		if err != nil {
			k.CleanUp(ref) // half a pair may be there
		}
		return err
	})
	if err != nil {
		return keys.Generated{}, err
	}
	made, err := k.inspect(s, ref, tmpl)
	if err != nil {
		k.CleanUp(ref)
		return keys.Generated{}, err
	}
	return made, nil
}

// absent proves that no key has the id, and no object at all the label.
func (k *Keys) absent(s *module.Session, ref *keys.Ref) error {
	byID, err := keysByID(s, ref.ID)
	if err != nil {
		return err
	}
	byLabel, err := s.Find(1, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, ref.Label))
	if err != nil {
		return err
	}
	if len(byID)+len(byLabel) > 0 {
		return keys.Errorf(keys.ErrKeyExists, "the token %q has an object with the id or the label of %s", k.token, ref.Label)
	}
	return nil
}

// CleanUp removes what a failed or unwanted generation left, on a session of its
// own: the one that failed may be dead. The caller is inside the module.
func (k *Keys) CleanUp(ref *keys.Ref) {
	s := &module.Session{RW: true}
	err := k.tok.Ready(s)
	if err == nil {
		err = k.Destroy(s, ref)
		s.Drop()
	}
	if err != nil {
		k.log.Error("objects of a failed generation may be left on the token", "label", ref.Label, "cka_id", ref.ID, "err", err)
	}
}

// makeKey generates a token object: by crypto11 what it can.
func (k *Keys) makeKey(s *module.Session, tmpl template.Template) error {
	if tmpl.Alg.Family() == keys.FamilyEd25519 {
		_, _, err := mech.Generate(s, tmpl)
		return err
	}
	return k.tok.Crypto11(fault.OpGenerate, func(c *crypto11.Context) (err error) {
		private, pub := template.AttributeSet(tmpl.Private), template.AttributeSet(tmpl.Public)
		switch tmpl.Alg.Family() {
		case keys.FamilyEC:
			_, err = c.GenerateECDSAKeyPairWithAttributes(pub, private, public.Curve(tmpl.Alg))
		case keys.FamilyRSA:
			_, err = c.GenerateRSAKeyPairWithAttributes(pub, private, tmpl.Bits)
		case keys.FamilyAES:
			_, err = c.GenerateSecretKeyWithAttributes(private, tmpl.Bits, crypto11.CipherAES)
		case keys.FamilyHMAC:
			_, err = c.GenerateSecretKeyWithAttributes(private, tmpl.Bits, crypto11.CipherGeneric)
		}
		return err
	})
}

// inspect finds a fresh key, reads back what it is, and uses it once.
func (k *Keys) inspect(s *module.Session, ref *keys.Ref, tmpl template.Template) (keys.Generated, error) {
	h, err := k.findKey(s, ref.ID, ref.Algorithm, freshAttempts)
	if err != nil {
		return keys.Generated{}, err
	}
	if err := k.readBack(s, h, slices.Concat(tmpl.Private, template.Born())); err != nil {
		return keys.Generated{}, err
	}
	made := keys.Generated{NeverExtractable: true, AlwaysSensitive: true}
	key := mech.Key{Handle: h, Alg: ref.Algorithm, Bits: ref.Bits}
	if tmpl.Public != nil {
		pub, err := k.findOne(s, ref.ID, pkcs11.CKO_PUBLIC_KEY, freshAttempts)
		if err != nil {
			return keys.Generated{}, err
		}
		if err := k.readBack(s, pub, tmpl.Public); err != nil {
			return keys.Generated{}, err
		}
		if made.PublicKey, key.Public, err = mech.Export(s, pub, ref.Algorithm, ref.Bits); err != nil {
			return keys.Generated{}, err
		}
	}
	if made.Check, err = key.Check(s, k.mode, made.PublicKey); err != nil {
		return keys.Generated{}, err
	}
	o, err := newObject(&keys.Ref{ID: ref.ID, Label: ref.Label, Algorithm: ref.Algorithm, Bits: ref.Bits, PublicKey: made.PublicKey, Check: made.Check})
	if err != nil {
		return keys.Generated{}, err
	}
	if s.Outdated() { // what was read may be another key's
		return keys.Generated{}, fault.ErrOutdated
	}
	o.found.Store(&found{h, s.Generation()}) // proved just now
	k.known.Store(ref.ID, o)
	return made, nil
}

// readBack compares an object's attributes with those wanted.
func (k *Keys) readBack(s *module.Session, o pkcs11.ObjectHandle, want []*pkcs11.Attribute) error {
	for _, w := range want {
		got, err := s.Attribute(o, w.Type)
		unknown := fault.Of(err) == fault.Caller
		if err != nil && !unknown {
			return err
		}
		same := template.Met(w, got)
		if unknown {
			same = template.MayLack(w)
		}
		if !same {
			return fmt.Errorf("token %q made a key whose attribute 0x%X is %X, not %X; the key is not used: %w", k.token, w.Type, got, w.Value, keys.ErrHSM)
		}
	}
	return nil
}
