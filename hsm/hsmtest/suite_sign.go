package hsmtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"keyhole/keys"
)

// checkGenerated judges what Generate reports, apart from the key's use.
func checkGenerated(t *testing.T, ref keys.Ref, made keys.Generated) {
	t.Helper()
	if !made.NeverExtractable || !made.AlwaysSensitive {
		t.Errorf("%s: never extractable %v, always sensitive %v", ref.Algorithm, made.NeverExtractable, made.AlwaysSensitive)
	}
	if len(made.Check) == 0 {
		t.Errorf("%s: no check value", ref.Algorithm)
	}
	if !ref.Algorithm.Family().Asymmetric() {
		if len(made.PublicKey) != 0 {
			t.Errorf("%s: a secret key has a public half", ref.Algorithm)
		}
		return
	}
	if !bytes.Equal(made.Check, keys.PublicKeyCheck(made.PublicKey)) {
		t.Errorf("%s: the check value is not that of the public key", ref.Algorithm)
	}
	pub, err := x509.ParsePKIXPublicKey(made.PublicKey)
	if err != nil {
		t.Fatalf("%s: the public key does not parse: %v", ref.Algorithm, err)
	}
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if ref.Algorithm.Family() != keys.FamilyEC || pub.Curve != curveOf(ref.Algorithm) {
			t.Errorf("%s: a key on %s", ref.Algorithm, pub.Params().Name)
		}
	case ed25519.PublicKey:
		if ref.Algorithm.Family() != keys.FamilyEd25519 {
			t.Errorf("%s: an Ed25519 key", ref.Algorithm)
		}
	case *rsa.PublicKey:
		if ref.Algorithm.Family() != keys.FamilyRSA || pub.N.BitLen() != ref.Bits || pub.E != 65537 {
			t.Errorf("%s: an RSA key of %d bits and exponent %d, want %d and 65537", ref.Algorithm, pub.N.BitLen(), pub.E, ref.Bits)
		}
	default:
		t.Errorf("%s: a public key of type %T", ref.Algorithm, pub)
	}
}

// independently verifies with Go's cryptography and the public key alone. It
// takes a MAC for good: its key is in the token.
func independently(t *testing.T, ref keys.Ref, in, sig []byte) bool {
	t.Helper()
	if ref.Algorithm.Family() == keys.FamilyHMAC {
		return true
	}
	pub, err := x509.ParsePKIXPublicKey(ref.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		return verifyEC(pub, in, sig)
	case ed25519.PublicKey:
		return ed25519.Verify(pub, in, sig)
	case *rsa.PublicKey:
		return verifyRSA(pub, ref.Algorithm, in, sig)
	}
	return false
}

// signatureSizes are the widths of RFC 7518 and RFC 8037 where the algorithm
// alone gives them.
var signatureSizes = map[keys.Algorithm]int{
	keys.ES256: 64, keys.ES384: 96, keys.ES512: 132, keys.EdDSA: 64, keys.HS256: 32, keys.HS384: 48, keys.HS512: 64,
}

func (s *suite) testSigning(t *testing.T, c testCase) {
	ref := s.generate(t, c.alg, c.bits)
	width := signatureSizes[c.alg]
	if width == 0 {
		width = c.bits / 8
	}
	inputs := [][]byte{input(c.alg, "hello")}
	if !c.alg.TakesDigest() {
		inputs = append(inputs, []byte{}, []byte{0}, bytes.Repeat([]byte("0123456789abcdef"), 8<<10))
	}
	for _, in := range inputs {
		before := bytes.Clone(in)
		sig := s.sign(t, ref, in)
		if len(sig) != width {
			t.Errorf("a signature of %d bytes, want %d", len(sig), width)
		}
		if !s.verify(t, ref, in, sig) || !independently(t, ref, in, sig) {
			t.Errorf("a signature over %d bytes does not verify", len(in))
		}
		if !bytes.Equal(in, before) {
			t.Error("Sign changed its input")
		}
	}
	in := inputs[0]
	sig, other := s.sign(t, ref, in), input(c.alg, "hullo")
	if randomised := c.alg.PSS() || c.alg.Family() == keys.FamilyEC; randomised == bytes.Equal(sig, s.sign(t, ref, in)) {
		t.Errorf("two signatures are equal: %v", !randomised)
	}
	if s.verify(t, ref, other, sig) {
		t.Error("a signature verifies over another input")
	}
	for name, bad := range badSignatures(t, c.alg, sig) {
		if s.verify(t, ref, in, bad) {
			t.Errorf("verifies: %s", name)
		}
	}
	s.wrongDigests(t, ref, sig)
	s.otherPurpose(t, ref)
	s.works(t, ref)

	if c.bits > 2048 && c.alg.Family() == keys.FamilyRSA {
		return // a second key takes long, and says nothing more
	}
	second := s.generate(t, c.alg, c.bits)
	if s.verify(t, second, in, sig) {
		t.Error("a signature of another key verifies")
	}
	if bytes.Equal(ref.Check, second.Check) {
		t.Error("two keys have the same check value")
	}
}

func (s *suite) sign(t *testing.T, ref keys.Ref, in []byte) []byte {
	t.Helper()
	sig, err := s.b.Sign(t.Context(), ref, in)
	if err != nil {
		t.Fatalf("Sign %d bytes by %s: %v", len(in), ref.Algorithm, err)
	}
	return sig
}

// verify fails the test on an error: a bad signature is false, no error.
func (s *suite) verify(t *testing.T, ref keys.Ref, in, sig []byte) bool {
	t.Helper()
	ok, err := s.b.Verify(t.Context(), ref, in, sig)
	if err != nil {
		t.Errorf("Verify of %d bytes by %s: %v", len(sig), ref.Algorithm, err)
	}
	return ok
}

// badSignatures returns what must not verify where sig does.
func badSignatures(t *testing.T, alg keys.Algorithm, sig []byte) map[string][]byte {
	t.Helper()
	bad := map[string][]byte{
		"nothing":              nil,
		"no bytes":             {},
		"one byte":             sig[:1],
		"the first half":       sig[:len(sig)/2],
		"one byte short":       sig[:len(sig)-1],
		"without the first":    sig[1:],
		"a zero behind":        append(bytes.Clone(sig), 0),
		"a zero before":        append([]byte{0}, sig...),
		"twice":                slices.Concat(sig, sig),
		"zeros":                make([]byte, len(sig)),
		"ones":                 bytes.Repeat([]byte{0xff}, len(sig)),
		"64 KiB":               bytes.Repeat([]byte{1}, 64<<10),
		"the hexadecimal form": []byte(strings.Repeat("ab", len(sig))),
	}
	for name, i := range map[string]int{"first": 0, "middle": len(sig) / 2, "last": len(sig) - 1} {
		flipped := bytes.Clone(sig)
		flipped[i] ^= 1
		bad["a changed bit in the "+name+" byte"] = flipped
	}
	if alg.Family() == keys.FamilyEC {
		n := len(sig) / 2
		der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])})
		if err != nil {
			t.Fatal(err)
		}
		bad["the DER form"] = der
		bad["r and s exchanged"] = slices.Concat(sig[n:], sig[:n])
		bad["r is zero"] = slices.Concat(make([]byte, n), sig[n:])
		bad["s is zero"] = slices.Concat(sig[:n], make([]byte, n))
	}
	return bad
}

// wrongDigests shows that a token does not become an oracle for raw
// signatures: only digests of the algorithm's own length are signed.
func (s *suite) wrongDigests(t *testing.T, ref keys.Ref, sig []byte) {
	t.Helper()
	if !ref.Algorithm.TakesDigest() {
		return
	}
	n := ref.Algorithm.Hash().Size()
	for _, size := range []int{0, 1, 20, n - 1, n + 1, 2 * n, ref.Bits / 8} {
		if size == n {
			continue
		}
		digest := make([]byte, size)
		if got, err := s.b.Sign(t.Context(), ref, digest); !errors.Is(err, keys.ErrInvalid) || got != nil {
			t.Errorf("Sign of a digest of %d bytes: %d bytes, %v, want ErrInvalid", size, len(got), err)
		}
		if ok, err := s.b.Verify(t.Context(), ref, digest, sig); ok || err != nil && !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("Verify of a digest of %d bytes: %v, %v, want false or ErrInvalid", size, ok, err)
		}
	}
}

// otherPurpose shows that a key does one thing only.
func (s *suite) otherPurpose(t *testing.T, ref keys.Ref) {
	t.Helper()
	if ref.Algorithm.Purpose() == keys.PurposeEncrypt {
		if sig, err := s.b.Sign(t.Context(), ref, make([]byte, 32)); err == nil {
			t.Errorf("%s signs: %d bytes", ref.Algorithm, len(sig))
		}
		if ok, err := s.b.Verify(t.Context(), ref, make([]byte, 32), make([]byte, 64)); ok || err == nil {
			t.Errorf("%s verifies: %v, %v, want an error", ref.Algorithm, ok, err)
		}
		return
	}
	if _, wrapped, err := s.b.Wrap(t.Context(), ref, make([]byte, keys.DataKeySize), nil); err == nil {
		t.Errorf("%s wraps: %d bytes", ref.Algorithm, len(wrapped))
	}
	if key, err := s.b.Unwrap(t.Context(), ref, make([]byte, 12), make([]byte, 48), nil); err == nil {
		t.Errorf("%s unwraps: %d bytes", ref.Algorithm, len(key))
	}
}
