package keys_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // RSA-OAEP of RFC 7518, 4.3 is defined over SHA-1
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"strings"
	"sync"
	"testing"

	jose "github.com/go-jose/go-jose/v4"

	"keyhole/keys"
)

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// signRaw signs input as a token would: ECDSA as r||s.
func signRaw(t *testing.T, alg keys.Algorithm, key any, input []byte) []byte {
	t.Helper()
	var digest []byte
	if h := alg.Hash(); h != 0 {
		w := h.New()
		w.Write(input)
		digest = w.Sum(nil)
	}
	var sig []byte
	var err error
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, key, digest)
		width := (key.Params().BitSize + 7) / 8
		sig, err = append(r.FillBytes(make([]byte, width)), s.FillBytes(make([]byte, width))...), e
	case *rsa.PrivateKey:
		if alg.PSS() {
			sig, err = rsa.SignPSS(rand.Reader, key, alg.Hash(), digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			sig, err = rsa.SignPKCS1v15(nil, key, alg.Hash(), digest)
		}
	case ed25519.PrivateKey:
		sig = ed25519.Sign(key, input)
	case []byte:
		m := hmac.New(alg.Hash().New, key)
		m.Write(input)
		sig = m.Sum(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// go-jose, an independent implementation, accepts what SigningInput and
// CompactJWS make, attached and detached, and ParseJWS reads it back.
func TestJWSVerifiesInGoJOSE(t *testing.T) {
	t.Parallel()
	ec := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret := bytes.Repeat([]byte("k"), 64)
	id := keys.VersionID{Key: "payments", Number: 3}
	for _, tt := range []struct {
		alg keys.Algorithm
		key any
	}{
		{keys.ES256, ec(elliptic.P256())}, {keys.ES384, ec(elliptic.P384())}, {keys.ES512, ec(elliptic.P521())}, {keys.EdDSA, ed},
		{keys.RS256, rsaKey()}, {keys.RS384, rsaKey()}, {keys.RS512, rsaKey()}, {keys.PS256, rsaKey()}, {keys.PS384, rsaKey()},
		{keys.PS512, rsaKey()}, {keys.HS256, secret}, {keys.HS384, secret}, {keys.HS512, secret},
	} {
		for _, payload := range [][]byte{[]byte(`{"amount":1}`), {0, 255, '.'}} {
			input := keys.SigningInput(tt.alg, id, payload)
			sig := signRaw(t, tt.alg, tt.key, input)
			var public any = tt.key
			if s, ok := tt.key.(crypto.Signer); ok {
				public = s.Public()
			}
			algs := []jose.SignatureAlgorithm{jose.SignatureAlgorithm(tt.alg)}

			compact := keys.CompactJWS(input, sig, false)
			theirs, err := jose.ParseSignedCompact(compact, algs)
			if err != nil {
				t.Fatalf("%s: go-jose: %v", tt.alg, err)
			}
			if got, err := theirs.Verify(public); err != nil || !bytes.Equal(got, payload) {
				t.Errorf("%s: go-jose: %q, %v", tt.alg, got, err)
			}
			if kid := theirs.Signatures[0].Protected.KeyID; kid != "payments.v3" {
				t.Errorf("%s: kid %q", tt.alg, kid)
			}
			ours, err := keys.ParseJWS(compact, nil)
			if err != nil || ours.Header.Algorithm != string(tt.alg) || ours.Header.KeyID != id.String() ||
				!bytes.Equal(ours.Payload, payload) || !bytes.Equal(ours.Signature, sig) || !bytes.Equal(ours.SigningInput, input) {
				t.Errorf("%s: ParseJWS: %+v, %v", tt.alg, ours, err)
			}

			detached := keys.CompactJWS(input, sig, true)
			if !strings.Contains(detached, "..") {
				t.Errorf("%s: %s holds a payload", tt.alg, detached)
			}
			theirs, err = jose.ParseDetached(detached, payload, algs)
			if err != nil {
				t.Fatalf("%s: go-jose: %v", tt.alg, err)
			}
			if err := theirs.DetachedVerify(payload, public); err != nil {
				t.Errorf("%s: go-jose, detached: %v", tt.alg, err)
			}
			ours, err = keys.ParseJWS(detached, payload)
			if err != nil || !bytes.Equal(ours.SigningInput, input) {
				t.Errorf("%s: ParseJWS, detached: %+v, %v", tt.alg, ours, err)
			}
			if _, err := keys.ParseJWS(compact, payload); !errors.Is(err, keys.ErrInvalid) {
				t.Errorf("%s: a payload beside an attached one: %v", tt.alg, err)
			}
		}
	}
}

// A JWE that go-jose makes offline opens once its content key is unwrapped.
func TestJWEFromGoJOSEOpens(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		alg  jose.KeyAlgorithm
		hash func() hash.Hash
	}{{jose.RSA_OAEP_256, sha256.New}, {jose.RSA_OAEP, sha1.New}} {
		enc, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: tt.alg, Key: rsaKey().Public(), KeyID: "mail.v2"},
			(&jose.EncrypterOptions{}).WithType("JOSE").WithContentType("text/plain"))
		if err != nil {
			t.Fatal(err)
		}
		for _, plaintext := range []string{"hello", "", strings.Repeat("x", 1<<16)} {
			obj, err := enc.Encrypt([]byte(plaintext))
			if err != nil {
				t.Fatal(err)
			}
			compact, err := obj.CompactSerialize()
			if err != nil {
				t.Fatal(err)
			}
			jwe, err := keys.ParseJWE(compact)
			if err != nil {
				t.Fatal(err)
			}
			if jwe.Header.KeyID != "mail.v2" || jwe.Header.Algorithm != string(tt.alg) {
				t.Errorf("header %+v", jwe.Header)
			}
			cek, err := rsa.DecryptOAEP(tt.hash(), nil, rsaKey(), jwe.EncryptedKey, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := jwe.Open(cek); err != nil || string(got) != plaintext {
				t.Errorf("opened %.20q, %v", got, err)
			}
			tampered := map[string]func(j *keys.JWE){
				"tag":       func(j *keys.JWE) { j.Tag = flip(j.Tag) },
				"IV":        func(j *keys.JWE) { j.IV = flip(j.IV) },
				"protected": func(j *keys.JWE) { j.Protected = flip(j.Protected) },
				"longer":    func(j *keys.JWE) { j.Ciphertext = append(bytes.Clone(j.Ciphertext), 0) },
			}
			for name, change := range tampered {
				c := *jwe
				change(&c)
				if _, err := c.Open(cek); !errors.Is(err, keys.ErrDecrypt) {
					t.Errorf("%s changed: %v, want ErrDecrypt", name, err)
				}
			}
			for _, bad := range [][]byte{nil, cek[:16], keys.NewDataKey()} {
				if _, err := jwe.Open(bad); !errors.Is(err, keys.ErrDecrypt) {
					t.Errorf("another content key: %v, want ErrDecrypt", err)
				}
			}
		}
	}
}

func flip(b []byte) []byte {
	c := bytes.Clone(b)
	c[0] ^= 1
	return c
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestRefusedHeaders(t *testing.T) {
	t.Parallel()
	jws := func(header string) error {
		_, err := keys.ParseJWS(b64(header)+"."+b64("x")+"."+b64("sig"), nil)
		return err
	}
	jwe := func(header string) error {
		_, err := keys.ParseJWE(b64(header) + ".a2V5." + b64("123456789012") + "." + b64("x") + "." + b64("1234567890123456"))
		return err
	}
	good := []string{
		`{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"a.v1"}`,
		`{"alg":"RSA-OAEP","enc":"A256GCM"}`,
		` { "alg" : "RSA-OAEP" , "enc" : "A256GCM" , "x5t" : "abc", "custom": {"alg":"none","alg":"b"} } `,
	}
	for _, h := range good {
		if err := jws(h); err != nil {
			t.Errorf("JWS %s: %v", h, err)
		}
		if err := jwe(h); err != nil {
			t.Errorf("JWE %s: %v", h, err)
		}
	}
	bad := map[string]string{
		"crit":               `{"alg":"RSA-OAEP","enc":"A256GCM","crit":["exp"]}`,
		"empty crit":         `{"alg":"RSA-OAEP","enc":"A256GCM","crit":null}`,
		"b64":                `{"alg":"RSA-OAEP","enc":"A256GCM","b64":false}`,
		"zip":                `{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF"}`,
		"jwk":                `{"alg":"RSA-OAEP","enc":"A256GCM","jwk":{"kty":"oct","k":"AA"}}`,
		"jku":                `{"alg":"RSA-OAEP","enc":"A256GCM","jku":"https://example.org"}`,
		"x5u":                `{"alg":"RSA-OAEP","enc":"A256GCM","x5u":"https://example.org"}`,
		"x5c":                `{"alg":"RSA-OAEP","enc":"A256GCM","x5c":[]}`,
		"escaped crit":       `{"alg":"RSA-OAEP","enc":"A256GCM","\u0063rit":["exp"]}`,
		"second alg":         `{"alg":"RSA-OAEP","enc":"A256GCM","alg":"none"}`,
		"second custom":      `{"alg":"RSA-OAEP","enc":"A256GCM","a":1,"a":2}`,
		"escaped second alg": `{"alg":"RSA-OAEP","enc":"A256GCM","\u0061lg":"none"}`,
		"ALG":                `{"ALG":"RSA-OAEP","enc":"A256GCM"}`,
		"alg and ALG":        `{"alg":"RSA-OAEP","enc":"A256GCM","ALG":"none"}`,
		"Kelvin sign in kid": `{"alg":"RSA-OAEP","enc":"A256GCM","` + "\u212a" + `id":"a.v1"}`,
		"alg a number":       `{"alg":1,"enc":"A256GCM"}`,
		"kid an object":      `{"alg":"RSA-OAEP","enc":"A256GCM","kid":{}}`,
		"array":              `["RSA-OAEP"]`,
		"string":             `"RSA-OAEP"`,
		"null":               `null`,
		"nothing":            ``,
		"cut":                `{"alg":"RSA-OAEP","enc":"A256GCM"`,
		"trailing object":    `{"alg":"RSA-OAEP","enc":"A256GCM"}{}`,
		"trailing text":      `{"alg":"RSA-OAEP","enc":"A256GCM"}x`,
		"not JSON":           `{alg:"RSA-OAEP","enc":"A256GCM"}`,
		"too long":           `{"alg":"RSA-OAEP","enc":"A256GCM","x":"` + strings.Repeat("x", 4096) + `"}`,
		"too deep":           `{"alg":"RSA-OAEP","enc":"A256GCM","x":` + strings.Repeat("[", 2900) + `}`,
	}
	for name, h := range bad {
		if err := jws(h); !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("JWS with %s: %v, want ErrInvalid", name, err)
		}
		if err := jwe(h); !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("JWE with %s: %v, want ErrInvalid", name, err)
		}
	}
	for name, h := range map[string]string{
		"RSA1_5": `{"alg":"RSA1_5","enc":"A256GCM"}`, "dir": `{"alg":"dir","enc":"A256GCM"}`, "no alg": `{"enc":"A256GCM"}`,
		"CBC": `{"alg":"RSA-OAEP","enc":"A256CBC-HS512"}`, "A128GCM": `{"alg":"RSA-OAEP","enc":"A128GCM"}`, "no enc": `{"alg":"RSA-OAEP"}`,
	} {
		if err := jwe(h); !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("JWE with %s: %v, want ErrInvalid", name, err)
		}
	}
}

func TestCompactFormsRefused(t *testing.T) {
	t.Parallel()
	h := b64(`{"alg":"ES256"}`)
	for name, text := range map[string]string{
		"empty": "", "one part": h, "two parts": h + ".e", "four parts": h + ".e30.e30.e30", "padded header": h + "=.e30.e30",
		"padded payload": h + ".eQ==.e30", "standard base64": h + ".+/+/.e30", "line break": h + ".e3\n0.e30", "spare bits": h + ".eR.e30",
		"space": h + ". e30.e30", "JSON form": `{"payload":"e30","signature":"e30"}`, "bad signature": h + ".e30.!",
	} {
		if jws, err := keys.ParseJWS(text, nil); !errors.Is(err, keys.ErrInvalid) || jws != nil {
			t.Errorf("JWS, %s: %v, want ErrInvalid", name, err)
		}
	}
	h = b64(`{"alg":"RSA-OAEP","enc":"A256GCM"}`)
	iv, tag := b64("123456789012"), b64("1234567890123456")
	for name, text := range map[string]string{
		"four parts": h + ".e30." + iv + ".e30", "six parts": h + ".e30." + iv + ".e30." + tag + ".e30",
		"short IV": h + ".e30.e30.e30." + tag, "short tag": h + ".e30." + iv + ".e30.e30", "no tag": h + ".e30." + iv + ".e30.",
		"long key": h + "." + b64(strings.Repeat("k", 513)) + "." + iv + ".e30." + tag,
		"bad key":  h + ".***." + iv + ".e30." + tag,
	} {
		if jwe, err := keys.ParseJWE(text); !errors.Is(err, keys.ErrInvalid) || jwe != nil {
			t.Errorf("JWE, %s: %v, want ErrInvalid", name, err)
		}
	}
}

func FuzzParseJWS(f *testing.F) {
	f.Add(keys.CompactJWS(keys.SigningInput(keys.ES256, keys.VersionID{Key: "a", Number: 1}, []byte("x")), []byte("sig"), false), []byte(nil))
	f.Add(keys.CompactJWS(keys.SigningInput(keys.ES256, keys.VersionID{Key: "a", Number: 1}, []byte("x")), []byte("sig"), true), []byte("x"))
	f.Add(b64(`{"alg":"ES256","crit":["a"]}`)+".e30.e30", []byte(nil))
	f.Add("..", []byte(nil))
	f.Fuzz(func(t *testing.T, s string, payload []byte) {
		jws, err := keys.ParseJWS(s, payload)
		if err != nil {
			if !errors.Is(err, keys.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		detached := strings.Contains(s, "..")
		if got := keys.CompactJWS(jws.SigningInput, jws.Signature, detached); got != s {
			t.Fatalf("%q came back as %q", s, got)
		}
		if detached && !bytes.Equal(jws.Payload, payload) {
			t.Fatalf("payload %q became %q", payload, jws.Payload)
		}
	})
}

func FuzzParseJWE(f *testing.F) {
	h := b64(`{"alg":"RSA-OAEP","enc":"A256GCM","kid":"a.v1"}`)
	f.Add(h + ".e30." + b64("123456789012") + ".e30." + b64("1234567890123456"))
	f.Add("....")
	f.Fuzz(func(t *testing.T, s string) {
		jwe, err := keys.ParseJWE(s)
		if err != nil {
			if !errors.Is(err, keys.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		parts := []string{string(jwe.Protected)}
		for _, b := range [][]byte{jwe.EncryptedKey, jwe.IV, jwe.Ciphertext, jwe.Tag} {
			parts = append(parts, base64.RawURLEncoding.EncodeToString(b))
		}
		if got := strings.Join(parts, "."); got != s {
			t.Fatalf("%q came back as %q", s, got)
		}
		if _, err := jwe.Open(make([]byte, 32)); !errors.Is(err, keys.ErrDecrypt) {
			t.Fatalf("opened with the zero key: %v", err)
		}
	})
}
