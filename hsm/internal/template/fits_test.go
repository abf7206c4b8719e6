package template

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
)

// TestFitsWhatKeyholeMakes: an object that was made for an algorithm is known
// to serve it, and nothing of another kind or purpose.
func TestFitsWhatKeyholeMakes(t *testing.T) {
	t.Parallel()
	for _, alg := range keys.Algorithms() {
		bits, err := alg.KeyBits(0)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := New(Spec{Alg: alg, Bits: bits, ID: []byte{1}, Label: "a.v1", Token: true, Curve: EdwardsCurves[1]})
		for class, half := range map[keys.ObjectClass][]*pkcs11.Attribute{keys.ClassPublic: tmpl.Public, keys.ClassPrivate: tmpl.Private} {
			if half == nil {
				continue
			}
			got := map[uint][]byte{}
			for _, a := range slices.Concat(tmpl.Public, half) { // tokens tell the curve of private keys too
				got[a.Type] = a.Value
			}
			f := Facts{
				Class: class, KeyType: uint(binary.NativeEndian.Uint64(got[pkcs11.CKA_KEY_TYPE])), Curve: got[pkcs11.CKA_EC_PARAMS],
				May: func(use uint) bool {
					return slices.ContainsFunc(half, func(a *pkcs11.Attribute) bool { return a.Type == use && bytes.Equal(a.Value, []byte{1}) })
				},
			}
			if !alg.Family().Asymmetric() {
				f.Class, f.ValueLen = keys.ClassSecret, bits/8
			}
			if alg.Family() == keys.FamilyRSA {
				f.Modulus = append([]byte{0x80}, make([]byte, bits/8-1)...)
			}
			fit, size := Fits(f)
			if !slices.Contains(fit, alg) || size != bits {
				t.Errorf("a %s key of %s with %d bits fits %v with %d", class, alg, bits, fit, size)
			}
			for _, other := range fit {
				if other.Family() != alg.Family() || other.Purpose() != alg.Purpose() {
					t.Errorf("a %s key of %s fits %s", class, alg, other)
				}
			}
			f.May = func(uint) bool { return false }
			if fit, _ := Fits(f); len(fit) > 0 {
				t.Errorf("a %s key of %s that may do nothing fits %v", class, alg, fit)
			}
		}
	}
}

// TestFitsNothing: what Keyhole has no use for.
func TestFitsNothing(t *testing.T) {
	t.Parallel()
	may := func(uint) bool { return true }
	for name, f := range map[string]Facts{
		"AES-128":              {Class: keys.ClassSecret, KeyType: pkcs11.CKK_AES, ValueLen: 16, May: may},
		"no length":            {Class: keys.ClassSecret, KeyType: pkcs11.CKK_AES, May: may},
		"a negative length":    {Class: keys.ClassSecret, KeyType: pkcs11.CKK_GENERIC_SECRET, ValueLen: -1, May: may},
		"3DES":                 {Class: keys.ClassSecret, KeyType: pkcs11.CKK_DES3, ValueLen: 32, May: may},
		"RSA-1024":             {Class: keys.ClassPrivate, KeyType: pkcs11.CKK_RSA, Modulus: append([]byte{0x80}, make([]byte, 127)...), May: may},
		"RSA without modulus":  {Class: keys.ClassPrivate, KeyType: pkcs11.CKK_RSA, May: may},
		"an unknown curve":     {Class: keys.ClassPrivate, KeyType: pkcs11.CKK_EC, Curve: []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a}, May: may},
		"Ed448":                {Class: keys.ClassPrivate, KeyType: CKKECEdwards, Curve: []byte{0x06, 0x03, 0x2b, 0x65, 0x71}, May: may},
		"a secret RSA key":     {Class: keys.ClassSecret, KeyType: pkcs11.CKK_RSA, ValueLen: 32, May: may},
		"a MAC key of SHA-1":   {Class: keys.ClassSecret, KeyType: 0x28, ValueLen: 32, May: may},
		"SHA-384's, too short": {Class: keys.ClassSecret, KeyType: ckkSHA384HMAC, ValueLen: 32, May: may},
	} {
		if fit, bits := Fits(f); len(fit) > 0 {
			t.Errorf("%s fits %v with %d bits", name, fit, bits)
		}
	}
	if fit, _ := Fits(Facts{Class: keys.ClassSecret, KeyType: ckkSHA256HMAC, ValueLen: 32, May: may}); !slices.Equal(fit, []keys.Algorithm{keys.HS256}) {
		t.Errorf("a key of CKK_SHA256_HMAC fits %v", fit)
	}
}
