package template

import (
	"bytes"
	"testing"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
)

// TestPrivateHalves: whatever the algorithm, the key never leaves, and may do
// one thing.
func TestPrivateHalves(t *testing.T) {
	t.Parallel()
	for _, alg := range keys.Algorithms() {
		tmpl := New(Spec{Alg: alg, Bits: 256, ID: []byte{1}, Label: "a.v1", Token: true, Curve: EdwardsCurves[0]})
		if (tmpl.Public != nil) != alg.Family().Asymmetric() {
			t.Errorf("%s: public half %v", alg, tmpl.Public)
		}
		got := map[uint][]byte{}
		for _, a := range tmpl.Private {
			if _, twice := got[a.Type]; twice {
				t.Errorf("%s: attribute %#x twice", alg, a.Type)
			}
			got[a.Type] = a.Value
		}
		for a, want := range map[uint]byte{pkcs11.CKA_TOKEN: 1, pkcs11.CKA_PRIVATE: 1, pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_EXTRACTABLE: 0, pkcs11.CKA_DERIVE: 0, pkcs11.CKA_UNWRAP: 0} {
			if !bytes.Equal(got[a], []byte{want}) {
				t.Errorf("%s: attribute %#x is %v, want %d", alg, a, got[a], want)
			}
		}
		sign, decrypt := bytes.Equal(got[pkcs11.CKA_SIGN], []byte{1}), bytes.Equal(got[pkcs11.CKA_DECRYPT], []byte{1})
		if sign == decrypt || sign != (alg.Purpose() == keys.PurposeSign) {
			t.Errorf("%s: may sign %v, decrypt %v", alg, sign, decrypt)
		}
	}
}

func TestMet(t *testing.T) {
	t.Parallel()
	attr := pkcs11.NewAttribute
	for name, c := range map[string]struct {
		want *pkcs11.Attribute
		got  []byte
		met  bool
		lack bool // may the token not know it
	}{
		"equal":                {attr(pkcs11.CKA_LABEL, "x"), []byte("x"), true, false},
		"different":            {attr(pkcs11.CKA_LABEL, "x"), []byte("y"), false, false},
		"not extractable":      {attr(pkcs11.CKA_EXTRACTABLE, false), []byte{0}, true, false},
		"extractable":          {attr(pkcs11.CKA_EXTRACTABLE, false), []byte{1}, false, false},
		"a usage not wanted":   {attr(pkcs11.CKA_SIGN_RECOVER, false), []byte{0}, true, true},
		"a usage wanted":       {attr(pkcs11.CKA_SIGN, true), []byte{1}, true, false},
		"the other spelling":   {attr(pkcs11.CKA_EC_PARAMS, EdwardsCurves[0]), EdwardsCurves[1], true, false},
		"another curve":        {attr(pkcs11.CKA_EC_PARAMS, EdwardsCurves[0]), curves[keys.ES256], false, false},
		"Ed25519 in its stead": {attr(pkcs11.CKA_EC_PARAMS, curves[keys.ES256]), EdwardsCurves[0], false, false},
	} {
		if Met(c.want, c.got) != c.met || MayLack(c.want) != c.lack {
			t.Errorf("%s: met %v, may lack %v", name, Met(c.want, c.got), MayLack(c.want))
		}
	}
}
