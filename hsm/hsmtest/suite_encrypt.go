package hsmtest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"slices"
	"testing"

	"keyhole/keys"
)

func (s *suite) testEncryption(t *testing.T, c testCase) {
	ref := s.generate(t, c.alg, c.bits)
	key, aad := random(keys.DataKeySize), random(32)
	before := bytes.Clone(key)
	iv, wrapped := s.wrap(t, ref, key, aad)
	if !bytes.Equal(key, before) {
		t.Error("Wrap changed the data key")
	}
	if got, err := s.b.Unwrap(t.Context(), ref, iv, wrapped, aad); err != nil || !bytes.Equal(got, key) {
		t.Fatalf("Unwrap: %d bytes, %v", len(got), err)
	}
	if bytes.Contains(wrapped, key) {
		t.Error("the wrapped key shows the key")
	}
	iv2, wrapped2 := s.wrap(t, ref, key, aad)
	if bytes.Equal(wrapped, wrapped2) || len(iv) > 0 && bytes.Equal(iv, iv2) {
		t.Error("wrapping twice gives the same")
	}

	s.notUnwrapped(t, ref, "cut short or extended", iv, aad, resized(wrapped)...)
	s.notUnwrapped(t, ref, "changed", iv, aad, flipped(wrapped)...)
	s.notUnwrapped(t, ref, "of another wrap", iv2, aad, slices.Concat(wrapped[:len(wrapped)-1], wrapped2[len(wrapped)-1:]))
	if c.alg.Family() == keys.FamilyAES {
		s.aesForm(t, ref, iv, wrapped, iv2, aad)
	} else {
		s.oaepForm(t, ref, iv, wrapped)
	}
	s.otherPurpose(t, ref)
	s.works(t, ref)

	if c.bits > 2048 && c.alg.Family() == keys.FamilyRSA {
		return // a second key takes long, and says nothing more
	}
	second := s.generate(t, c.alg, c.bits)
	s.notUnwrapped(t, second, "of another key", iv, aad, wrapped)
	if bytes.Equal(ref.Check, second.Check) {
		t.Error("two keys have the same check value")
	}
}

func (s *suite) wrap(t *testing.T, ref keys.Ref, key, aad []byte) (iv, wrapped []byte) {
	t.Helper()
	iv, wrapped, err := s.b.Wrap(t.Context(), ref, key, aad)
	if err != nil {
		t.Fatalf("Wrap by %s: %v", ref.Algorithm, err)
	}
	return iv, wrapped
}

func (s *suite) notUnwrapped(t *testing.T, ref keys.Ref, what string, iv, aad []byte, wrapped ...[]byte) {
	t.Helper()
	for _, w := range wrapped {
		if key, err := s.b.Unwrap(t.Context(), ref, iv, w, aad); !errors.Is(err, keys.ErrDecrypt) || key != nil {
			t.Errorf("Unwrap of a wrapped key %s (%d bytes, IV of %d): %d bytes, %v, want ErrDecrypt", what, len(w), len(iv), len(key), err)
		}
	}
}

func resized(wrapped []byte) [][]byte {
	n := len(wrapped)
	return [][]byte{
		nil, {}, wrapped[:1], wrapped[:15], wrapped[:16], wrapped[:17], wrapped[:n-1], wrapped[1:],
		append(bytes.Clone(wrapped), 0), append([]byte{0}, wrapped...), slices.Concat(wrapped, wrapped),
		make([]byte, n), bytes.Repeat([]byte{0xff}, n), random(1 << 10), random(64 << 10),
	}
}

// flipped changes one bit in each of some bytes, the first and last among
// them.
func flipped(b []byte) [][]byte {
	var all [][]byte
	for i := 0; i < len(b); i += max(1, len(b)/16) {
		all = append(all, flip(b, i))
	}
	return append(all, flip(b, len(b)-1))
}

func flip(b []byte, i int) []byte {
	c := bytes.Clone(b)
	c[i] ^= 0x80 >> (i % 8)
	return c
}

func (s *suite) aesForm(t *testing.T, ref keys.Ref, iv, wrapped, iv2, aad []byte) {
	t.Helper()
	if len(iv) < 12 || len(iv) > 16 {
		t.Errorf("an IV of %d bytes; the envelope takes 12 to 16", len(iv))
	}
	if len(wrapped) != keys.DataKeySize+16 {
		t.Errorf("a wrapped key of %d bytes, want key and tag", len(wrapped))
	}
	for _, bad := range append(flipped(iv), nil, []byte{}, iv[:1], iv[:len(iv)-1], append(bytes.Clone(iv), 0), iv2, make([]byte, len(iv)), random(64), random(4<<10)) {
		s.notUnwrapped(t, ref, "with a wrong IV", bad, aad, wrapped)
	}
	for _, bad := range append(flipped(aad), nil, []byte{}, aad[1:], append(bytes.Clone(aad), 0), random(4<<10)) {
		s.notUnwrapped(t, ref, "with a wrong aad", iv, bad, wrapped)
	}
}

// oaepForm plays the JOSE library that has nothing but the published key.
func (s *suite) oaepForm(t *testing.T, ref keys.Ref, iv, wrapped []byte) {
	t.Helper()
	if len(iv) != 0 || len(wrapped) != ref.Bits/8 {
		t.Errorf("an IV of %d bytes and a wrapped key of %d, want 0 and %d", len(iv), len(wrapped), ref.Bits/8)
	}
	s.notUnwrapped(t, ref, "with an IV", random(12), nil, wrapped)
	parsed, err := x509.ParsePKIXPublicKey(ref.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pub, ok := parsed.(*rsa.PublicKey)
	if !ok {
		t.Fatalf("a public key of type %T", parsed)
	}
	key := random(keys.DataKeySize)
	made, err := rsa.EncryptOAEP(ref.Algorithm.Hash().New(), rand.Reader, pub, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.b.Unwrap(t.Context(), ref, nil, made, nil); err != nil || !bytes.Equal(got, key) {
		t.Errorf("Unwrap of what Go wrapped: %d bytes, %v", len(got), err)
	}
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA512} {
		if h == ref.Algorithm.Hash() {
			continue
		}
		other, err := rsa.EncryptOAEP(h.New(), rand.Reader, pub, key, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.notUnwrapped(t, ref, "with "+h.String(), nil, nil, other)
	}
	labelled, err := rsa.EncryptOAEP(ref.Algorithm.Hash().New(), rand.Reader, pub, key, []byte("label"))
	if err != nil {
		t.Fatal(err)
	}
	s.notUnwrapped(t, ref, "with a label", nil, nil, labelled)

	// One wrapped key of 256 begins with a zero, and without it is the same number.
	for made[0] != 0 {
		if made, err = rsa.EncryptOAEP(ref.Algorithm.Hash().New(), rand.Reader, pub, key, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.notUnwrapped(t, ref, "without its leading zero", nil, nil, made[1:])
}
