package public_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyhole/client/internal/public"
	"keyhole/gateway/api"
	"keyhole/keys"
)

var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newKey(t testing.TB, alg keys.Algorithm) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch bits, _ := alg.KeyBits(0); alg.Family() {
	case keys.FamilyEC:
		key, err = ecdsa.GenerateKey(map[int]elliptic.Curve{256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}[bits], rand.Reader)
	case keys.FamilyEd25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = rsaKey()
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// jwkOf writes a JWK by another implementation than the gateway's.
func jwkOf(t testing.TB, pub crypto.PublicKey, alg keys.Algorithm, kid string) api.JWK {
	t.Helper()
	use := "sig"
	if alg.Purpose() == keys.PurposeEncrypt {
		use = "enc"
	}
	b, err := json.Marshal(jose.JSONWebKey{Key: pub, KeyID: kid, Algorithm: string(alg), Use: use})
	if err != nil {
		t.Fatal(err)
	}
	var out api.JWK
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func opts(alg keys.Algorithm) crypto.SignerOpts {
	if alg.PSS() {
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: alg.Hash()}
	}
	return alg.Hash()
}

// Every asymmetric algorithm: its JWK is read, its signatures hold, and no
// others do.
func TestEveryAlgorithm(t *testing.T) {
	t.Parallel()
	for _, alg := range keys.Algorithms() {
		if !alg.Family().Asymmetric() {
			continue
		}
		key := newKey(t, alg)
		v, err := public.FromJWK(jwkOf(t, key.Public(), alg, "payments.v7"))
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if v.ID != (keys.VersionID{Key: "payments", Number: 7}) || v.Algorithm != alg || !v.Key.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s is read as %+v", alg, v)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if pub, err := public.ParsePEM(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), alg); err != nil || !v.Equal(&public.Version{ID: v.ID, Algorithm: alg, Key: pub}) {
			t.Errorf("%s as PEM: %v, %v", alg, pub, err)
		}
		if other := newKey(t, keys.ES256); v.Equal(&public.Version{ID: v.ID, Algorithm: alg, Key: other.Public()}) {
			t.Errorf("%s equals another key", alg)
		}
		if alg.Purpose() != keys.PurposeSign {
			continue
		}
		input := public.Input(alg, []byte("hello"))
		sig, err := key.Sign(rand.Reader, input, opts(alg))
		if err != nil {
			t.Fatal(err)
		}
		raw := sig
		if alg.Family() == keys.FamilyEC {
			raw = rawOf(t, sig, v.Key.(*ecdsa.PublicKey))
			if v.VerifyRaw(input, sig) || v.Verify(input, raw) || v.VerifyRaw(input, raw[1:]) || v.VerifyRaw(input, append([]byte{0}, raw...)) {
				t.Errorf("%s takes the one form for the other", alg)
			}
		}
		if !v.Verify(input, sig) || !v.VerifyRaw(input, raw) {
			t.Errorf("%s: its signature does not hold", alg)
		}
		if other := public.Input(alg, []byte("hullo")); v.Verify(other, sig) || v.VerifyRaw(other, raw) || v.Verify(input, nil) || v.VerifyRaw(input, nil) {
			t.Errorf("%s: the signature of something else holds", alg)
		}
	}
}

func rawOf(t *testing.T, der []byte, pub *ecdsa.PublicKey) []byte {
	t.Helper()
	r, s := new(big.Int), new(big.Int)
	// SEQUENCE { INTEGER, INTEGER } with lengths below 128, or with a P-521 one byte more.
	body := der[2:]
	if der[1] == 0x81 {
		body = der[3:]
	}
	r.SetBytes(body[2 : 2+body[1]])
	body = body[2+body[1]:]
	s.SetBytes(body[2 : 2+body[1]])
	width := (pub.Params().BitSize + 7) / 8
	out := make([]byte, 2*width)
	r.FillBytes(out[:width])
	s.FillBytes(out[width:])
	return out
}

// What is not exactly a public key of its algorithm is refused.
func TestRefused(t *testing.T) {
	t.Parallel()
	ec := jwkOf(t, newKey(t, keys.ES256).Public(), keys.ES256, "payments.v1")
	rs := jwkOf(t, newKey(t, keys.RS256).Public(), keys.RS256, "payments.v1")
	ed := jwkOf(t, newKey(t, keys.EdDSA).Public(), keys.EdDSA, "payments.v1")
	for name, tt := range map[string]struct {
		from   api.JWK
		change func(*api.JWK)
	}{
		"no kid":               {ec, func(j *api.JWK) { j.KeyID = "" }},
		"another kid":          {ec, func(j *api.JWK) { j.KeyID = "payments" }},
		"no algorithm":         {ec, func(j *api.JWK) { j.Algorithm = "" }},
		"none":                 {ec, func(j *api.JWK) { j.Algorithm = "none" }},
		"a MAC":                {ec, func(j *api.JWK) { j.Algorithm = "HS256" }},
		"another use":          {ec, func(j *api.JWK) { j.Use = "enc" }},
		"another curve's":      {ec, func(j *api.JWK) { j.Algorithm = "ES384" }},
		"another type's":       {ec, func(j *api.JWK) { j.Algorithm = "RS256" }},
		"an unknown type":      {ec, func(j *api.JWK) { j.KeyType = "oct" }},
		"an unknown curve":     {ec, func(j *api.JWK) { j.Curve = "secp256k1" }},
		"not on the curve":     {ec, func(j *api.JWK) { j.X = j.Y }},
		"a short x":            {ec, func(j *api.JWK) { j.X = j.X[2:] }},
		"a padded x":           {ec, func(j *api.JWK) { j.X += "=" }},
		"a broken x":           {ec, func(j *api.JWK) { j.X += "\n" }},
		"no y":                 {ec, func(j *api.JWK) { j.Y = "" }},
		"a short modulus":      {rs, func(j *api.JWK) { j.N = j.N[:100] }},
		"an even modulus":      {rs, func(j *api.JWK) { j.N = j.N[:len(j.N)-2] + "AA" }},
		"a long modulus":       {rs, func(j *api.JWK) { j.N = strings.Repeat("_", 2000) }},
		"zeros before":         {rs, func(j *api.JWK) { j.E = "AAEAAQ" }},
		"no exponent":          {rs, func(j *api.JWK) { j.E = "" }},
		"the exponent 1":       {rs, func(j *api.JWK) { j.E = "AQ" }},
		"the exponent 2":       {rs, func(j *api.JWK) { j.E = "Ag" }},
		"a large exponent":     {rs, func(j *api.JWK) { j.E = "_____w" }},
		"another OKP":          {ed, func(j *api.JWK) { j.Curve = "X25519" }},
		"a short Ed25519 key":  {ed, func(j *api.JWK) { j.X = j.X[:40] }},
		"Ed25519 for another":  {ed, func(j *api.JWK) { j.Algorithm = "ES256" }},
		"RSA keys for OAEP":    {rs, func(j *api.JWK) { j.Algorithm = "RSA-OAEP" }},
		"an algorithm's case":  {rs, func(j *api.JWK) { j.Algorithm = "rs256" }},
		"a modulus of nothing": {rs, func(j *api.JWK) { j.N = "" }},
	} {
		jwk := tt.from
		tt.change(&jwk)
		if v, err := public.FromJWK(jwk); err == nil {
			t.Errorf("%s: taken as %+v", name, v)
		}
	}
	for name, text := range map[string]string{"nothing": "", "no key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if _, err := public.ParsePEM(text, keys.ES256); err == nil {
			t.Errorf("%s is taken as PEM", name)
		}
	}
}

// Whatever is read is a key that the standard library can write.
func FuzzJWK(f *testing.F) {
	for _, alg := range []keys.Algorithm{keys.ES256, keys.ES512, keys.EdDSA, keys.RS256, keys.RSAOAEP} {
		b, err := json.Marshal(jwkOf(f, newKey(f, alg).Public(), alg, "payments.v1"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var jwk api.JWK
		if json.Unmarshal(text, &jwk) != nil {
			return
		}
		v, err := public.FromJWK(jwk)
		if err != nil {
			return
		}
		if _, err := x509.MarshalPKIXPublicKey(v.Key); err != nil || v.ID.String() != jwk.KeyID {
			t.Fatalf("%s was read as %+v, %v", text, v, err)
		}
		v.Verify(public.Input(v.Algorithm, text), text)
		v.VerifyRaw(public.Input(v.Algorithm, text), text)
	})
}
