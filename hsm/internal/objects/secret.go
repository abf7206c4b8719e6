package objects

import (
	"fmt"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/mech"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/template"
	"keyhole/keys"
)

// Labelled returns the secret keys with a label: there should be one, or none.
func (k *Keys) Labelled(s *module.Session, label string) ([]pkcs11.ObjectHandle, error) {
	return s.Find(maxByID,
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
}

// MAC makes a MAC of message by a secret key that was found by its label, and
// that must be one that Generate has made, for one of algs. Errors:
// keys.ErrHSM.
func (k *Keys) MAC(s *module.Session, h pkcs11.ObjectHandle, label string, algs []keys.Algorithm, message []byte) ([]byte, error) {
	f := Found{h, keys.ClassSecret}
	d, err := k.describe(s, f)
	if err != nil {
		return nil, err
	}
	for _, alg := range algs {
		if bits, err := alg.KeyBits(0); err != nil || bits != d.object.Bits {
			continue
		}
		tmpl := template.New(template.Spec{Alg: alg, Bits: d.object.Bits, ID: d.object.ID, Label: label, Token: true})
		if err := k.readBack(s, h, append(tmpl.Private, template.Born()...)); err != nil {
			return nil, err
		}
		return mech.Key{Handle: h, Alg: alg, Bits: d.object.Bits}.Sign(s, message)
	}
	return nil, fmt.Errorf("the key %s on the token %q has %d bits, and was not made by Keyhole: %w", label, k.token, d.object.Bits, keys.ErrHSM)
}
