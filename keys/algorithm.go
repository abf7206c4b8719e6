package keys

import (
	"crypto"
	_ "crypto/sha256" // crypto.Hash.New for SHA-256
	_ "crypto/sha512" // and for SHA-384 and SHA-512
	"slices"
	"strings"
)

// Purpose says what a key does. It is fixed for the key's life; a key never
// does both (SP 800-57 Part 1, 5.2).
type Purpose string

// The purposes.
const (
	PurposeSign    Purpose = "sign"    // signatures and MACs
	PurposeEncrypt Purpose = "encrypt" // wrapping of per-message data keys
)

// Family is the kind of HSM object behind an algorithm.
type Family string

// The families, with their PKCS#11 key types.
const (
	FamilyEC      Family = "EC"      // CKK_EC, NIST curves
	FamilyEd25519 Family = "Ed25519" // CKK_EC_EDWARDS
	FamilyRSA     Family = "RSA"     // CKK_RSA
	FamilyHMAC    Family = "HMAC"    // CKK_GENERIC_SECRET
	FamilyAES     Family = "AES"     // CKK_AES
)

// Asymmetric reports whether the family has a public key.
func (f Family) Asymmetric() bool { return f == FamilyEC || f == FamilyEd25519 || f == FamilyRSA }

// Algorithm is a registered JOSE algorithm name (RFC 7518, RFC 8037).
type Algorithm string

// The algorithms.
const (
	ES256      Algorithm = "ES256"
	ES384      Algorithm = "ES384"
	ES512      Algorithm = "ES512"
	EdDSA      Algorithm = "EdDSA"
	RS256      Algorithm = "RS256"
	RS384      Algorithm = "RS384"
	RS512      Algorithm = "RS512"
	PS256      Algorithm = "PS256"
	PS384      Algorithm = "PS384"
	PS512      Algorithm = "PS512"
	HS256      Algorithm = "HS256"
	HS384      Algorithm = "HS384"
	HS512      Algorithm = "HS512"
	A256GCM    Algorithm = "A256GCM"
	RSAOAEP256 Algorithm = "RSA-OAEP-256"
	RSAOAEP    Algorithm = "RSA-OAEP" // OAEP with SHA-1, for tokens that have no other
)

// DefaultRSABits is the modulus length when none is asked for: 128-bit
// strength by SP 800-57 Part 1, table 2.
const DefaultRSABits = 3072

// MaxWraps is how often one A256GCM version may wrap with random 96-bit IVs
// (SP 800-38D, 8.3).
const MaxWraps = 1 << 32

type algorithmInfo struct {
	purpose Purpose
	family  Family
	hash    crypto.Hash // 0: the algorithm takes the message itself
	bits    int         // fixed key size; 0: the caller chooses (RSA)
	pss     bool
}

var algorithms = map[Algorithm]algorithmInfo{
	ES256:      {PurposeSign, FamilyEC, crypto.SHA256, 256, false},
	ES384:      {PurposeSign, FamilyEC, crypto.SHA384, 384, false},
	ES512:      {PurposeSign, FamilyEC, crypto.SHA512, 521, false},
	EdDSA:      {PurposeSign, FamilyEd25519, 0, 256, false},
	RS256:      {PurposeSign, FamilyRSA, crypto.SHA256, 0, false},
	RS384:      {PurposeSign, FamilyRSA, crypto.SHA384, 0, false},
	RS512:      {PurposeSign, FamilyRSA, crypto.SHA512, 0, false},
	PS256:      {PurposeSign, FamilyRSA, crypto.SHA256, 0, true},
	PS384:      {PurposeSign, FamilyRSA, crypto.SHA384, 0, true},
	PS512:      {PurposeSign, FamilyRSA, crypto.SHA512, 0, true},
	HS256:      {PurposeSign, FamilyHMAC, crypto.SHA256, 256, false},
	HS384:      {PurposeSign, FamilyHMAC, crypto.SHA384, 384, false},
	HS512:      {PurposeSign, FamilyHMAC, crypto.SHA512, 512, false},
	A256GCM:    {PurposeEncrypt, FamilyAES, 0, 256, false},
	RSAOAEP256: {PurposeEncrypt, FamilyRSA, crypto.SHA256, 0, false},
	RSAOAEP:    {PurposeEncrypt, FamilyRSA, crypto.SHA1, 0, false},
}

var rsaBits = []int{2048, 3072, 4096}

// Algorithms returns all names, sorted.
func Algorithms() []Algorithm {
	all := make([]Algorithm, 0, len(algorithms))
	for a := range algorithms {
		all = append(all, a)
	}
	slices.Sort(all)
	return all
}

// ParseAlgorithm reads a registered name, exactly as registered. The error
// is ErrInvalid and lists what there is.
func ParseAlgorithm(s string) (Algorithm, error) {
	if _, ok := algorithms[Algorithm(s)]; ok {
		return Algorithm(s), nil
	}
	names := make([]string, 0, len(algorithms))
	for _, a := range Algorithms() {
		names = append(names, string(a))
	}
	if len(s) > 32 {
		s = s[:32]
	}
	return "", Errorf(ErrInvalid, "unknown algorithm %q; use one of %s", s, strings.Join(names, ", "))
}

// Known reports whether a is one of the algorithms above.
func (a Algorithm) Known() bool { _, ok := algorithms[a]; return ok }

// Purpose returns what keys of this algorithm do.
func (a Algorithm) Purpose() Purpose { return algorithms[a].purpose }

// Family returns the kind of HSM object.
func (a Algorithm) Family() Family { return algorithms[a].family }

// Hash returns the digest that the algorithm signs (for HMAC, the hash it is
// built on; for OAEP, the hash of OAEP and of MGF1), or 0 for EdDSA and
// A256GCM.
func (a Algorithm) Hash() crypto.Hash { return algorithms[a].hash }

// PSS reports whether RSA signatures use PSS (salt length = hash length,
// RFC 7518, 3.5).
func (a Algorithm) PSS() bool { return algorithms[a].pss }

// TakesDigest reports whether a caller may hand in a digest in place of the
// message: not for EdDSA (pure Ed25519) and not for MACs.
func (a Algorithm) TakesDigest() bool {
	f := a.Family()
	return a.Purpose() == PurposeSign && (f == FamilyEC || f == FamilyRSA)
}

// KeyBits returns the key size for a request of bits, 0 meaning the default.
// Only RSA leaves a choice: 2048, 3072 (default) or 4096. The error is
// ErrInvalid.
func (a Algorithm) KeyBits(bits int) (int, error) {
	fixed := algorithms[a].bits
	switch {
	case fixed != 0 && (bits == 0 || bits == fixed):
		return fixed, nil
	case fixed != 0:
		return 0, Errorf(ErrInvalid, "%s keys have %d bits; leave \"bits\" out", a, fixed)
	case bits == 0:
		return DefaultRSABits, nil
	case slices.Contains(rsaBits, bits):
		return bits, nil
	}
	return 0, Errorf(ErrInvalid, "%s keys may have 2048, 3072 or 4096 bits, not %d", a, bits)
}

// hashNames are the IANA "Hash Function Textual Names" that requests use.
var hashNames = map[string]crypto.Hash{
	"sha-256": crypto.SHA256, "sha-384": crypto.SHA384, "sha-512": crypto.SHA512,
}

// ParseHash reads "sha-256", "sha-384" or "sha-512" (the form "sha256" is
// also taken). The error is ErrInvalid.
func ParseHash(s string) (crypto.Hash, error) {
	name := strings.ToLower(s)
	if rest, ok := strings.CutPrefix(name, "sha"); ok && !strings.HasPrefix(rest, "-") {
		name = "sha-" + rest
	}
	if h, ok := hashNames[name]; ok {
		return h, nil
	}
	if len(s) > 32 {
		s = s[:32]
	}
	return 0, Errorf(ErrInvalid, "unknown hash %q; use sha-256, sha-384 or sha-512", s)
}

// CheckDigest refuses a digest that the algorithm cannot sign: a wrong
// length, a hash other than the algorithm's own, or an algorithm that signs
// messages only. hash may be empty, meaning the algorithm's own. The error
// is ErrInvalid.
func (a Algorithm) CheckDigest(hash string, digest []byte) error {
	if !a.TakesDigest() {
		return Errorf(ErrInvalid, "%s takes the message itself; send \"payload\", not \"digest\"", a)
	}
	want := a.Hash()
	if hash != "" {
		h, err := ParseHash(hash)
		if err != nil {
			return err
		}
		if h != want {
			return Errorf(ErrInvalid, "%s signs %s digests, not %s", a, want, h)
		}
	}
	if len(digest) != want.Size() {
		return Errorf(ErrInvalid, "the digest has %d bytes; %s (%s) needs %d", len(digest), a, want, want.Size())
	}
	return nil
}
