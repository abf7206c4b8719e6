package forms

import (
	"errors"
	"testing"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// What is asked about a signature or a ciphertext is about the key that the
// path names, or is refused as invalid.
func FuzzParse(f *testing.F) {
	f.Add("payments", "eyJhbGciOiJFUzI1NiIsImtpZCI6InBheW1lbnRzLnYxIn0.eA.AAAA", []byte(nil), "", uint32(0), "raw")
	f.Add("payments", "", []byte{1}, "kh1:payments.v1:AAAA", uint32(1), "der")
	f.Add("orders", "eyJhbGciOiJub25lIiwia2lkIjoicGF5bWVudHMudjEifQ..", []byte{}, "kh1:payments.v1:AAAA", uint32(7), "")
	f.Fuzz(func(t *testing.T, key, compact string, sig []byte, ciphertext string, version uint32, format string) {
		if s, err := ParseSignature(key, &api.VerifyRequest{JWS: compact, Signature: sig, Version: version, Format: format}); err != nil {
			if !errors.Is(err, keys.ErrInvalid) {
				t.Fatal(err)
			}
		} else if s.Version == 0 || s.JWS != (compact != "") || s.JWS && version != 0 && s.Version != version {
			t.Fatalf("%+v", s)
		}
		for _, in := range []api.DecryptRequest{{Ciphertext: ciphertext}, {JWE: compact}, {Ciphertext: ciphertext, JWE: compact}} {
			c, err := ParseSealed(key, &in)
			if err != nil {
				if !errors.Is(err, keys.ErrInvalid) && !errors.Is(err, keys.ErrMalformed) {
					t.Fatal(err)
				}
				continue
			}
			if c.Version.Key != key || (c.Envelope == nil) == (c.JWE == nil) {
				t.Fatalf("%+v of key %q", c, key)
			}
		}
	})
}
