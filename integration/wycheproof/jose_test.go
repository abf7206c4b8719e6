package wycheproof

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk is a JSON Web Key, and what it says of itself.
type jwk struct {
	key    any
	alg    string
	decide bool // Keyhole can have such a key
}

// readJWK reads a single key; ok is false for sets, and for keys that are
// none.
func readJWK(raw json.RawMessage) (k jwk, ok bool) {
	var said struct {
		Alg string `json:"alg"`
		Use string `json:"use"`
	}
	var parsed jose.JSONWebKey
	if json.Unmarshal(raw, &said) != nil || parsed.UnmarshalJSON(raw) != nil {
		return jwk{}, false
	}
	return jwk{key: parsed.Key, alg: said.Alg, decide: keys.Algorithm(said.Alg).Known()}, true
}

// ref puts a JWK on the token, or describes its public half. nil: Keyhole
// cannot have such a key.
func (fx *fixture) jwkRef(t *testing.T, k jwk) *keys.Ref {
	t.Helper()
	alg := keys.Algorithm(k.alg)
	if !k.decide {
		return nil
	}
	var ref keys.Ref
	var err error
	switch key := k.key.(type) {
	case []byte:
		if bits, berr := alg.KeyBits(0); berr != nil || alg.Family() != keys.FamilyHMAC || bits != 8*len(key) {
			return nil
		}
		ref, err = fx.secret(t, alg, key)
	case *rsa.PrivateKey:
		if alg == keys.RSAOAEP256 {
			return nil // the token of the tests has SHA-1 only
		}
		if len(key.Primes) == 0 {
			ref = fx.public(alg, key.N.BitLen(), spki(t, key.Public()))
			break
		}
		if ref, err = fx.rsaKey(t, alg, key); errors.Is(err, keys.ErrInvalid) {
			return nil // it can be factored
		}
	case *rsa.PublicKey:
		ref = fx.public(alg, key.N.BitLen(), spki(t, key))
	case *ecdsa.PrivateKey:
		ref = fx.public(alg, key.Params().BitSize, spki(t, key.Public()))
	case *ecdsa.PublicKey:
		ref = fx.public(alg, key.Params().BitSize, spki(t, key))
	default:
		return nil
	}
	must(t, err)
	return &ref
}

func spki(t *testing.T, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	must(t, err)
	return der
}

// jose judges each JWS as the gateway does, but for its kid, which is never
// one of a key of Keyhole: parse, compare the algorithm, verify. With its kid
// the gateway itself takes none. JWEs are parsed, their content key is
// unwrapped by the token, and the content opened.
func (fx *fixture) jose(t *testing.T, f *file, _ suite) (ran int) {
	for _, g := range f.Groups {
		var ref *keys.Ref
		raw := g.Private
		if raw == nil {
			raw = g.Public
		}
		if k, ok := readJWK(raw); ok {
			ref = fx.jwkRef(t, k)
		}
		name := ""
		if ref != nil {
			name = fx.serve(t, *ref)[0]
		}
		for _, v := range g.Vectors {
			ran++
			if v.JWE != "" {
				plain, err := fx.openJWE(t, ref, string(v.JWE))
				v.Message = v.Plaintext
				opened(t, v, "a JWE", plain, err)
				if !offered(string(v.JWE)) {
					v.Result = "invalid"
				}
				judge(t, f, v, err == nil)
				continue
			}
			judge(t, f, v, fx.verifyJWS(t, ref, string(v.JWS)))
			if name != "" && v.JWS != "" && fx.verify(t, name, api.VerifyRequest{JWS: string(v.JWS)}) {
				t.Errorf("%d: a foreign kid is accepted", v.ID)
			}
		}
	}
	return ran
}

// offered reports whether Keyhole has the algorithms of a JWE, on the token
// of the tests: RSA-OAEP with A256GCM. Whatever else is refused.
func offered(compact string) bool {
	first, _, _ := strings.Cut(compact, ".")
	raw, err := base64.RawURLEncoding.DecodeString(first)
	var header struct{ Alg, Enc string }
	return err == nil && json.Unmarshal(raw, &header) == nil && header.Alg == "RSA-OAEP" && header.Enc == "A256GCM"
}

func (fx *fixture) verifyJWS(t *testing.T, ref *keys.Ref, compact string) bool {
	t.Helper()
	var detached []byte
	jws, err := keys.ParseJWS(compact, detached)
	if err != nil {
		if !errors.Is(err, keys.ErrInvalid) {
			t.Error(err)
		}
		return false
	}
	if ref == nil || jws.Header.Algorithm != string(ref.Algorithm) {
		return false
	}
	input := jws.SigningInput
	if ref.Algorithm.TakesDigest() {
		h := ref.Algorithm.Hash().New()
		h.Write(input)
		input = h.Sum(nil)
	}
	valid, err := fx.hsm.Verify(t.Context(), *ref, input, jws.Signature)
	if err != nil && !errors.Is(err, keys.ErrHSM) {
		t.Error(err)
	}
	return err == nil && valid
}

func (fx *fixture) openJWE(t *testing.T, ref *keys.Ref, compact string) ([]byte, error) {
	t.Helper()
	jwe, err := keys.ParseJWE(compact)
	if err != nil {
		if !errors.Is(err, keys.ErrInvalid) {
			t.Error(err)
		}
		return nil, keys.DecryptFailed()
	}
	if ref == nil || jwe.Header.Algorithm != string(ref.Algorithm) {
		return nil, keys.DecryptFailed()
	}
	cek, err := fx.hsm.Unwrap(t.Context(), *ref, nil, jwe.EncryptedKey, nil)
	if err != nil {
		return nil, err
	}
	return jwe.Open(cek)
}

// keySets gives each set to the gateway as that of a token issuer. A vector
// counts as accepted if a good token by a key of the set is: the vectors' own
// signatures are over texts that are no claims, and are refused with any key.
func (fx *fixture) keySets(t *testing.T, f *file, _ suite) (ran int) {
	for _, g := range f.Groups {
		set := g.Public
		if set == nil {
			set = g.Private
		}
		path := filepath.Join(t.TempDir(), "jwks.json")
		must(t, os.WriteFile(path, set, 0o600))
		a, err := authz.NewAuthenticator(t.Context(), authz.Config{
			Issuers: []authz.Issuer{{Name: "w", Issuer: "https://w.example", Audience: []string{"keyhole"}, JWKSFile: path}},
			Log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		must(t, err)
		good := false
		for _, text := range tokens(t, g) {
			_, err := a.Authenticate(t.Context(), authz.Credentials{Token: text})
			good = good || err == nil
		}
		for _, v := range g.Vectors {
			ran++
			if _, err := a.Authenticate(t.Context(), authz.Credentials{Token: string(v.JWS)}); !errors.Is(err, keys.ErrUnauthenticated) {
				t.Errorf("%d: the vector itself: %v", v.ID, err)
			}
			judge(t, f, v, good)
		}
	}
	return ran
}

// tokens makes a token by each private key of a group that can sign at all,
// by each algorithm that goes with it.
func tokens(t *testing.T, g *group) []string {
	t.Helper()
	var set struct{ Keys []json.RawMessage }
	must(t, json.Unmarshal(g.Private, &set))
	now := time.Now()
	claims := jwt.MapClaims{"iss": "https://w.example", "aud": "keyhole", "sub": "s", "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix()}
	var all []string
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) != nil {
			continue
		}
		var said struct {
			Kid string `json:"kid"`
		}
		must(t, json.Unmarshal(raw, &said))
		for _, name := range slices.Sorted(maps.Keys(methods)) {
			token := jwt.NewWithClaims(methods[name], claims)
			token.Header["kid"] = said.Kid
			if text, err := token.SignedString(k.Key); err == nil {
				all = append(all, text)
			}
		}
	}
	return all
}

var methods = map[string]jwt.SigningMethod{
	"HS256": jwt.SigningMethodHS256, "HS384": jwt.SigningMethodHS384, "HS512": jwt.SigningMethodHS512,
	"RS256": jwt.SigningMethodRS256, "PS256": jwt.SigningMethodPS256, "ES256": jwt.SigningMethodES256,
}
