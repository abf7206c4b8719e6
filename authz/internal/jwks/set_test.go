package jwks_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"

	"keyhole/authz/authztest"
	"keyhole/authz/internal/jwks"
)

// FuzzParse: a set holds no key that is not of the algorithm it is for.
func FuzzParse(f *testing.F) {
	i := authztest.NewIssuer(f, "corp", "ES256")
	i.AddKey(f, "2", "RS256")
	i.AddKey(f, "3", "EdDSA")
	f.Add(i.JWKS(f), "2")
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"1"},{"kty":"EC"},7,null]}`), "1")
	f.Fuzz(func(t *testing.T, data []byte, kid string) {
		set, warnings, err := jwks.Parse(data, jwks.Algorithms())
		if (set == nil) != (err != nil) || err != nil && warnings != nil {
			t.Fatalf("set %v, warnings %q, %v", set, warnings, err)
		}
		if err != nil {
			return
		}
		for _, alg := range append(jwks.Algorithms(), "HS256", "none", "") {
			for _, named := range []bool{true, false} {
				found, err := set.Find(kid, named, alg)
				known := errors.Is(err, jwks.ErrUnknownKey) || errors.Is(err, jwks.ErrKeyRequired) || errors.Is(err, jwks.ErrAlgorithm)
				if (len(found) > 0) == (err != nil) || err != nil && !known {
					t.Errorf("%d keys for %q and %v", len(found), alg, err)
				}
				for _, k := range found {
					if !fits(k, alg) {
						t.Errorf("a %T for %q", k, alg)
					}
				}
			}
		}
	})
}

func fits(k crypto.PublicKey, alg string) bool {
	switch k := k.(type) {
	case *ecdsa.PublicKey:
		return map[string]int{"ES256": 256, "ES384": 384, "ES512": 521}[alg] == k.Curve.Params().BitSize
	case ed25519.PublicKey:
		return alg == "EdDSA" && len(k) == ed25519.PublicKeySize
	case *rsa.PublicKey:
		return (strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")) && k.N.BitLen() >= 2048
	}
	return false
}
