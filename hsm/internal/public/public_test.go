package public

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"testing"

	"keyhole/keys"
)

func mustSPKI(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func octets(t testing.TB, b []byte) []byte {
	t.Helper()
	der, err := asn1.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestPoints(t *testing.T) {
	t.Parallel()
	for _, alg := range []keys.Algorithm{keys.ES256, keys.ES384, keys.ES512} {
		k, err := ecdsa.GenerateKey(Curve(alg), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := k.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		for _, point := range [][]byte{raw, octets(t, raw)} {
			got, err := FromECPoint(alg, point)
			if err != nil || !bytes.Equal(got, mustSPKI(t, &k.PublicKey)) {
				t.Errorf("%s: %v", alg, err)
			}
		}
		off := bytes.Clone(raw)
		off[len(off)-1] ^= 1
		for name, point := range map[string][]byte{
			"empty": nil, "off the curve": off, "cut": raw[:len(raw)-1], "doubly wrapped": octets(t, octets(t, raw)),
			"infinity": {0}, "with a tail": append(octets(t, raw), 0),
		} {
			if _, err := FromECPoint(alg, point); err == nil {
				t.Errorf("%s: %s is taken", alg, name)
			}
		}
	}
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// A raw point may look like the beginning of an OCTET STRING.
	for _, raw := range [][]byte{pub, append([]byte{4, 30}, pub[2:]...)} {
		for _, point := range [][]byte{raw, octets(t, raw)} {
			got, err := FromEdPoint(point)
			if err != nil || !bytes.Equal(got, mustSPKI(t, ed25519.PublicKey(raw))) {
				t.Errorf("%x: %v", point, err)
			}
		}
	}
	if _, err := FromEdPoint(pub[:31]); err == nil {
		t.Error("31 bytes are taken")
	}
}

func TestRSA(t *testing.T) {
	t.Parallel()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	modulus := k.N.Bytes()
	got, err := FromRSA(append([]byte{0}, modulus...), []byte{1, 0, 1}, 2048)
	if err != nil || !bytes.Equal(got, mustSPKI(t, &k.PublicKey)) {
		t.Errorf("%v", err)
	}
	if _, err := FromRSA(modulus, []byte{3}, 2048); err == nil {
		t.Error("exponent 3 is taken")
	}
	if _, err := FromRSA(modulus, []byte{1, 0, 1}, 3072); err == nil {
		t.Error("a short modulus is taken")
	}
	spki := mustSPKI(t, &k.PublicKey)
	sign, err := Parse(keys.RS256, spki)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	// What CKM_RSA_PKCS gets is what RSASSA-PKCS1-v1_5 pads.
	sig, err := rsa.SignPKCS1v15(nil, k, 0, DigestInfo(crypto.SHA256, digest[:]))
	if err != nil || !sign.Verify(digest[:], sig) {
		t.Errorf("DigestInfo: %v", err)
	}
	if sign.As(keys.PS256).Verify(digest[:], sig) {
		t.Error("a PKCS#1 v1.5 signature counts as PSS")
	}
	pss, err := rsa.SignPSS(rand.Reader, k, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: 20})
	if err != nil || sign.As(keys.PS256).Verify(digest[:], pss) {
		t.Errorf("a salt of another length is taken: %v", err)
	}
	if _, err := sign.Encrypt([]byte("x")); err == nil {
		t.Error("a signing key encrypts")
	}
	wrapped, err := sign.As(keys.RSAOAEP256).Encrypt([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := rsa.DecryptOAEP(sha256.New(), nil, k, wrapped, nil); err != nil || string(got) != "x" {
		t.Errorf("OAEP: %q, %v", got, err)
	}
}

func TestParseFits(t *testing.T) {
	t.Parallel()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki := mustSPKI(t, &k.PublicKey)
	for _, alg := range keys.Algorithms() {
		if _, err := Parse(alg, spki); (err == nil) != (alg == keys.ES256) {
			t.Errorf("a P-256 key as %s: %v", alg, err)
		}
	}
}

// FuzzVerify looks for a signature that is taken in two forms.
func FuzzVerify(f *testing.F) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	key, err := Parse(keys.ES256, mustSPKI(f, &k.PublicKey))
	if err != nil {
		f.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
	if err != nil {
		f.Fatal(err)
	}
	good := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	if !key.Verify(digest[:], good) {
		f.Fatal("a good signature is not taken")
	}
	negated := append(r.FillBytes(make([]byte, 32)), new(big.Int).Sub(elliptic.P256().Params().N, s).FillBytes(make([]byte, 32))...)
	f.Add(good)
	f.Add(make([]byte, 64))
	f.Add(append(good, 0))
	f.Fuzz(func(t *testing.T, sig []byte) {
		if key.Verify(digest[:], sig) && !bytes.Equal(sig, good) && !bytes.Equal(sig, negated) {
			t.Errorf("%x is taken", sig)
		}
	})
}

func FuzzFromECPoint(f *testing.F) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := k.PublicKey.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(octets(f, raw))
	f.Add([]byte{4, 0x80})
	f.Fuzz(func(t *testing.T, point []byte) {
		spki, err := FromECPoint(keys.ES256, point)
		if err != nil {
			return
		}
		if _, err := Parse(keys.ES256, spki); err != nil {
			t.Errorf("%x makes a key that does not parse: %v", point, err)
		}
	})
}
