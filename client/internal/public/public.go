// Package public is the public half of versions: reading it from what the
// gateway publishes, and verifying by it in software.
package public

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes that keys.Algorithm names
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// Version is an asymmetric version: what its users see of it.
type Version struct {
	ID        keys.VersionID
	Algorithm keys.Algorithm
	Key       crypto.PublicKey // *ecdsa.PublicKey, ed25519.PublicKey or *rsa.PublicKey
}

// ParsePEM reads a SubjectPublicKeyInfo that fits the algorithm.
func ParsePEM(text string, alg keys.Algorithm) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return key, fits(key, alg)
}

// fits refuses a key that is none of the algorithm's.
func fits(key crypto.PublicKey, alg keys.Algorithm) error {
	ok := false
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		bits, _ := alg.KeyBits(0)
		ok = alg.Family() == keys.FamilyEC && key.Params().BitSize == bits
	case *rsa.PublicKey:
		ok = alg.Family() == keys.FamilyRSA
	case ed25519.PublicKey:
		ok = alg.Family() == keys.FamilyEd25519
	}
	if !ok {
		return fmt.Errorf("a %T does not go with %s", key, alg)
	}
	return nil
}

// Equal reports whether v and w are one version with one public key.
func (v *Version) Equal(w *Version) bool {
	same, ok := v.Key.(interface{ Equal(crypto.PublicKey) bool })
	return ok && v.ID == w.ID && v.Algorithm == w.Algorithm && same.Equal(w.Key)
}

// Verify reports whether sig is v's over input: a digest or, for Ed25519, a
// message. ECDSA signatures are ASN.1 DER.
func (v *Version) Verify(input, sig []byte) bool {
	switch key := v.Key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, input, sig)
	case ed25519.PublicKey:
		return ed25519.Verify(key, input, sig)
	case *rsa.PublicKey:
		if v.Algorithm.PSS() {
			return rsa.VerifyPSS(key, v.Algorithm.Hash(), input, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(key, v.Algorithm.Hash(), input, sig) == nil
	}
	return false
}

// VerifyRaw is Verify for ECDSA signatures as r||s, each as wide as the
// curve: the form of JWS. Other signatures have one form only.
func (v *Version) VerifyRaw(input, sig []byte) bool {
	key, ok := v.Key.(*ecdsa.PublicKey)
	if !ok {
		return v.Verify(input, sig)
	}
	width := (key.Params().BitSize + 7) / 8
	if len(sig) != 2*width {
		return false
	}
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:width]), new(big.Int).SetBytes(sig[width:])})
	return err == nil && ecdsa.VerifyASN1(key, input, der)
}

// Input returns what the algorithm signs of a message: its digest, or the
// message itself.
func Input(alg keys.Algorithm, message []byte) []byte {
	if !alg.TakesDigest() {
		return message
	}
	h := alg.Hash().New()
	h.Write(message)
	return h.Sum(nil)
}

// FromJWK reads one key of a JWK Set.
func FromJWK(jwk api.JWK) (*Version, error) {
	id, err := keys.ParseVersionID(jwk.KeyID)
	if err != nil {
		return nil, err
	}
	v := &Version{ID: id, Algorithm: keys.Algorithm(jwk.Algorithm)}
	if !v.Algorithm.Known() || !v.Algorithm.Family().Asymmetric() {
		return nil, fmt.Errorf("%s has the algorithm %.32q, which this client does not know", id, jwk.Algorithm)
	}
	if use := map[keys.Purpose]string{keys.PurposeSign: "sig", keys.PurposeEncrypt: "enc"}[v.Algorithm.Purpose()]; jwk.Use != use {
		return nil, fmt.Errorf("%s has the algorithm %s and the use %.16q", id, v.Algorithm, jwk.Use)
	}
	if v.Key, err = keyOf(jwk); err == nil {
		err = fits(v.Key, v.Algorithm)
	}
	if err != nil {
		return nil, fmt.Errorf("the public key of %s: %w", id, err)
	}
	return v, nil
}
