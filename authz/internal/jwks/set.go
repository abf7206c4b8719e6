// Package jwks holds the public keys of a token issuer: read from a file or
// fetched from a URL, kept while the issuer cannot be reached, and refreshed
// for an unknown key id at a bounded rate.
//
// It reads single keys with jwkset but does without its HTTP storage, which
// looks keys up under a lock, reads answers of any size, and bounds the
// fetch for an unknown key id by the same duration as the wait for its rate
// limit, so that the limit cannot be short and the fetch succeed.
package jwks

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/MicahParks/jwkset"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"keyhole/keys"
)

// MaxBytes is the largest key set that is read.
const MaxBytes = 1 << 20

// Why no key was found for a token.
var (
	ErrUnknownKey  = errors.New("no key with this id")
	ErrKeyRequired = errors.New("the token names no key and the set has several")
	ErrAlgorithm   = errors.New("the key is not for this algorithm")
)

// Algorithms returns the signature algorithms that a token may use: only
// asymmetric ones.
func Algorithms() []string {
	return []string{"ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"}
}

// Set is an immutable set of public keys.
type Set struct {
	keys map[string][]key // by kid; "" holds keys without one
	n    int
	sum  [sha256.Size]byte // of the document
}

type key struct {
	public     crypto.PublicKey
	algorithms []string
}

// Len returns the number of usable keys.
func (s *Set) Len() int { return s.n }

// Find returns the keys that may have signed a token: those with its key id
// that its algorithm is for. A token without a key id (named is false) is
// taken only if the set has exactly one key. The error is one of the above.
func (s *Set) Find(kid string, named bool, alg string) ([]crypto.PublicKey, error) {
	candidates := s.keys[kid]
	if !named {
		if s.n != 1 {
			return nil, ErrKeyRequired
		}
		for _, only := range s.keys {
			candidates = only
		}
	}
	if len(candidates) == 0 || named && kid == "" {
		return nil, ErrUnknownKey
	}
	var found []crypto.PublicKey
	for _, k := range candidates {
		if slices.Contains(k.algorithms, alg) {
			found = append(found, k.public)
		}
	}
	if len(found) == 0 {
		return nil, ErrAlgorithm
	}
	return found, nil
}

// Parse reads a JWK Set (RFC 7517) and keeps the public keys that verify
// signatures by one of the algorithms. Other keys are left out; warnings
// tell of those whose presence is a mistake, private keys before all. The
// error tells of a document that is no JWK Set, or has a member twice.
func Parse(data []byte, algorithms []string) (set *Set, warnings []string, err error) {
	if len(data) > MaxBytes {
		return nil, nil, fmt.Errorf("the key set has more than %d bytes", MaxBytes)
	}
	var doc struct {
		Keys *[]jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, nil, fmt.Errorf("the key set is no JSON object with \"keys\": %w", err)
	}
	if doc.Keys == nil {
		return nil, nil, errors.New("the key set has no member \"keys\"")
	}
	set = &Set{keys: map[string][]key{}, sum: sha256.Sum256(data)}
	for i, raw := range *doc.Keys {
		kid, k, warning := parseKey(raw, algorithms)
		if warning != "" {
			warnings = append(warnings, fmt.Sprintf("key %d (kid %.64q) left out: %s", i, kid, warning))
		}
		if k != nil {
			set.keys[kid] = append(set.keys[kid], *k)
			set.n++
		}
	}
	return set, warnings, nil
}

// parseKey returns nil for a key that is left out.
func parseKey(raw jsontext.Value, algorithms []string) (kid string, k *key, warning string) {
	var m jwkset.JWKMarshal
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", nil, "it is not of the form of RFC 7517"
	}
	switch {
	case m.K != "" || m.KTY == jwkset.KtyOct:
		return m.KID, nil, "it is a symmetric key, and a secret now known to whoever can read the set; replace it"
	case m.D != "" || m.P != "" || m.Q != "" || m.DP != "" || m.DQ != "" || m.QI != "" || len(m.OTH) > 0:
		return m.KID, nil, "it is a private key, now known to whoever can read the set; replace it"
	case m.USE != "" && m.USE != jwkset.UseSig,
		m.KEYOPS != nil && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify):
		return m.KID, nil, "" // for encryption, say
	}
	// The certificates beside a key are of no concern: trust comes from
	// where the set was read.
	m.X5C, m.X5T, m.X5TS256, m.X5U = nil, "", "", ""
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if errors.Is(err, jwkset.ErrUnsupportedKey) {
		return m.KID, nil, ""
	}
	if err != nil {
		return m.KID, nil, "its numbers are not those of a public key"
	}
	fits, warning := algorithmsOf(jwk.Key())
	if warning != "" {
		return m.KID, nil, warning
	}
	if m.ALG != "" {
		if !slices.Contains(fits, string(m.ALG)) {
			return m.KID, nil, fmt.Sprintf("its alg %.32q does not go with a key of this type", m.ALG)
		}
		fits = []string{string(m.ALG)}
	}
	fits = slices.DeleteFunc(slices.Clone(fits), func(a string) bool { return !slices.Contains(algorithms, a) })
	if len(fits) == 0 {
		return m.KID, nil, ""
	}
	return m.KID, &key{public: jwk.Key(), algorithms: fits}, ""
}

// algorithmsOf returns the algorithms that a key's type and curve allow.
func algorithmsOf(public any) (algorithms []string, warning string) {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return []string{"ES256"}, ""
		case 384:
			return []string{"ES384"}, ""
		case 521:
			return []string{"ES512"}, ""
		}
	case ed25519.PublicKey:
		return []string{"EdDSA"}, ""
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 8192 {
			return nil, fmt.Sprintf("its modulus has %d bits; 2048 to 8192 are accepted", bits)
		}
		if k.E < 3 || k.E%2 == 0 {
			return nil, "its exponent is even or below 3"
		}
		if keys.WeakModulus(k.N) {
			return nil, "its modulus can be factored (ROCA, CVE-2017-15361); replace it"
		}
		return []string{"PS256", "PS384", "PS512", "RS256", "RS384", "RS512"}, ""
	}
	return nil, "tokens cannot be signed with a key of this type"
}
