package keys_test

import (
	"crypto"
	"errors"
	"strings"
	"testing"

	"keyhole/keys"
)

func TestAlgorithms(t *testing.T) {
	t.Parallel()
	// Written out once more on purpose: RFC 7518, 3.1, 4.1, 5.1 and RFC 8037.
	tests := []struct {
		name    string
		purpose keys.Purpose
		family  keys.Family
		hash    crypto.Hash
		bits    int
		pss     bool
		digest  bool
	}{
		{"ES256", keys.PurposeSign, keys.FamilyEC, crypto.SHA256, 256, false, true},
		{"ES384", keys.PurposeSign, keys.FamilyEC, crypto.SHA384, 384, false, true},
		{"ES512", keys.PurposeSign, keys.FamilyEC, crypto.SHA512, 521, false, true},
		{"EdDSA", keys.PurposeSign, keys.FamilyEd25519, 0, 256, false, false},
		{"RS256", keys.PurposeSign, keys.FamilyRSA, crypto.SHA256, 3072, false, true},
		{"RS384", keys.PurposeSign, keys.FamilyRSA, crypto.SHA384, 3072, false, true},
		{"RS512", keys.PurposeSign, keys.FamilyRSA, crypto.SHA512, 3072, false, true},
		{"PS256", keys.PurposeSign, keys.FamilyRSA, crypto.SHA256, 3072, true, true},
		{"PS384", keys.PurposeSign, keys.FamilyRSA, crypto.SHA384, 3072, true, true},
		{"PS512", keys.PurposeSign, keys.FamilyRSA, crypto.SHA512, 3072, true, true},
		{"HS256", keys.PurposeSign, keys.FamilyHMAC, crypto.SHA256, 256, false, false},
		{"HS384", keys.PurposeSign, keys.FamilyHMAC, crypto.SHA384, 384, false, false},
		{"HS512", keys.PurposeSign, keys.FamilyHMAC, crypto.SHA512, 512, false, false},
		{"A256GCM", keys.PurposeEncrypt, keys.FamilyAES, 0, 256, false, false},
		{"RSA-OAEP-256", keys.PurposeEncrypt, keys.FamilyRSA, crypto.SHA256, 3072, false, false},
		{"RSA-OAEP", keys.PurposeEncrypt, keys.FamilyRSA, crypto.SHA1, 3072, false, false},
	}
	if len(tests) != len(keys.Algorithms()) {
		t.Errorf("%d algorithms are tested, %d exist", len(tests), len(keys.Algorithms()))
	}
	for _, tt := range tests {
		a, err := keys.ParseAlgorithm(tt.name)
		if err != nil {
			t.Error(err)
			continue
		}
		bits, err := a.KeyBits(0)
		if err != nil {
			t.Error(err)
		}
		if !a.Known() || a.Purpose() != tt.purpose || a.Family() != tt.family || a.Hash() != tt.hash ||
			bits != tt.bits || a.PSS() != tt.pss || a.TakesDigest() != tt.digest {
			t.Errorf("%s: %s %s %v %d pss=%v digest=%v", a, a.Purpose(), a.Family(), a.Hash(), bits, a.PSS(), a.TakesDigest())
		}
		asym := tt.family == keys.FamilyEC || tt.family == keys.FamilyRSA || tt.family == keys.FamilyEd25519
		if a.Family().Asymmetric() != asym {
			t.Errorf("%s: Asymmetric is %v", a, !asym)
		}
		if tt.hash != 0 && !tt.hash.Available() && tt.hash != crypto.SHA1 {
			t.Errorf("%s: %v is not linked in", a, tt.hash)
		}
	}
}

func TestParseAlgorithmRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "none", "None", "es256", "ES256 ", "RSA1_5", "ES256K", "Ed25519", "dir", strings.Repeat("x", 1<<16)} {
		a, err := keys.ParseAlgorithm(s)
		if !errors.Is(err, keys.ErrInvalid) || a != "" {
			t.Errorf("ParseAlgorithm(%.20q) = %q, %v, want ErrInvalid", s, a, err)
			continue
		}
		if !strings.Contains(err.Error(), "ES256, ES384") || len(err.Error()) > 300 {
			t.Errorf("the error should list the names and bound the input: %.400s", err)
		}
	}
	if keys.Algorithm("none").Known() || keys.Algorithm("none").TakesDigest() {
		t.Error("none is an algorithm")
	}
}

func TestKeyBits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		alg  keys.Algorithm
		ask  int
		want int // 0: ErrInvalid
	}{
		{keys.RS256, 2048, 2048}, {keys.PS512, 4096, 4096}, {keys.RSAOAEP256, 3072, 3072},
		{keys.RS256, 1024, 0}, {keys.RS256, 8192, 0}, {keys.RS256, -1, 0}, {keys.RS256, 2047, 0},
		{keys.ES256, 256, 256}, {keys.ES512, 521, 521}, {keys.ES512, 512, 0}, {keys.ES256, 384, 0},
		{keys.A256GCM, 256, 256}, {keys.A256GCM, 128, 0}, {keys.HS384, 384, 384}, {keys.EdDSA, 255, 0},
	} {
		got, err := tt.alg.KeyBits(tt.ask)
		if got != tt.want || (tt.want == 0) != errors.Is(err, keys.ErrInvalid) {
			t.Errorf("%s.KeyBits(%d) = %d, %v, want %d", tt.alg, tt.ask, got, err, tt.want)
		}
	}
}

func TestParseHash(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]crypto.Hash{
		"sha-256": crypto.SHA256, "SHA-384": crypto.SHA384, "sha512": crypto.SHA512, "SHA256": crypto.SHA256,
	} {
		if got, err := keys.ParseHash(s); err != nil || got != want {
			t.Errorf("ParseHash(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "sha", "sha-", "sha-1", "sha1", "md5", "sha--256", "sha-256 ", "sha3-256", "none"} {
		if got, err := keys.ParseHash(s); !errors.Is(err, keys.ErrInvalid) || got != 0 {
			t.Errorf("ParseHash(%q) = %v, %v, want ErrInvalid", s, got, err)
		}
	}
}

func TestCheckDigest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		alg  keys.Algorithm
		hash string
		size int
		ok   bool
	}{
		{keys.ES256, "", 32, true},
		{keys.ES256, "sha-256", 32, true},
		{keys.ES384, "sha-384", 48, true},
		{keys.ES512, "", 64, true},
		{keys.RS512, "sha-512", 64, true},
		{keys.PS256, "sha256", 32, true},

		{keys.ES256, "", 0, false},
		{keys.ES256, "", 31, false},
		{keys.ES256, "", 33, false},
		{keys.ES256, "", 64, false},
		{keys.ES512, "", 66, false}, // as wide as the curve, but no SHA-512 digest
		{keys.ES256, "sha-384", 48, false},
		{keys.ES256, "sha-384", 32, false},
		{keys.RS256, "sha-1", 20, false},
		{keys.RS256, "md5", 16, false},
		{keys.RS256, "unknown", 32, false},
		{keys.EdDSA, "", 64, false},
		{keys.EdDSA, "sha-512", 64, false},
		{keys.HS256, "", 32, false},
		{keys.A256GCM, "", 32, false},
		{keys.RSAOAEP256, "sha-256", 32, false},
		{keys.Algorithm("none"), "", 0, false},
		{keys.Algorithm(""), "", 32, false},
	} {
		err := tt.alg.CheckDigest(tt.hash, make([]byte, tt.size))
		if tt.ok != (err == nil) || !tt.ok && !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("%s.CheckDigest(%q, %d bytes): %v, want ok=%v", tt.alg, tt.hash, tt.size, err, tt.ok)
		}
	}
	if err := keys.ES256.CheckDigest("", nil); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("a nil digest: %v", err)
	}
}

func TestReasonsAndPolicy(t *testing.T) {
	t.Parallel()
	if r, err := keys.ParseReason(""); r != keys.ReasonManual || err != nil {
		t.Errorf("no reason: %q, %v", r, err)
	}
	for _, s := range []string{"scheduled", "manual", "compromise", "personnel-change", "deployment", "usage-threshold"} {
		if r, err := keys.ParseReason(s); string(r) != s || err != nil {
			t.Errorf("ParseReason(%q) = %q, %v", s, r, err)
		}
	}
	for _, s := range []string{"initial", "Manual", "because", strings.Repeat("x", 1000)} { // initial is the engine's own
		if _, err := keys.ParseReason(s); !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("ParseReason(%.20q): %v, want ErrInvalid", s, err)
		}
	}
	limits := keys.DefaultLimits()
	for p, ok := range map[keys.Policy]bool{
		{}: true, {Period: limits.MinPeriod}: true, {Period: limits.MinPeriod - 1}: false, {Period: -limits.MinPeriod}: false,
	} {
		if err := p.Check(limits); ok != (err == nil) || !ok && !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for phase, done := range map[keys.Phase]bool{
		keys.PhaseReserved: false, keys.PhaseActivated: false, keys.PhaseCompleted: true, keys.PhaseAborted: true,
	} {
		if phase.Done() != done {
			t.Errorf("%s: Done is %v", phase, !done)
		}
	}
}
