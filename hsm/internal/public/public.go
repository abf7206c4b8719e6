// Package public is what Keyhole does with public keys, in software: read
// them from PKCS#11 attributes, encode them, verify signatures and encrypt
// by RSA-OAEP. It is pure Go; nothing here needs a token.
package public

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" //nolint:gosec // RSA-OAEP of tokens that have no other; OAEP does not need collision resistance
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"keyhole/keys"
)

// Curve returns the curve of an EC algorithm, or nil.
func Curve(alg keys.Algorithm) elliptic.Curve {
	switch alg {
	case keys.ES256:
		return elliptic.P256()
	case keys.ES384:
		return elliptic.P384()
	case keys.ES512:
		return elliptic.P521()
	}
	return nil
}

// FromECPoint makes the DER SubjectPublicKeyInfo of an EC key from its
// CKA_EC_POINT, which modules give as a DER OCTET STRING (as PKCS#11 says) or
// raw. A point that is not on the curve is refused.
func FromECPoint(alg keys.Algorithm, point []byte) ([]byte, error) {
	curve := Curve(alg)
	if curve == nil {
		return nil, fmt.Errorf("%q has no curve", alg)
	}
	size := 1 + 2*((curve.Params().BitSize+7)/8)
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, unwrapOctets(point, size))
	if err != nil {
		return nil, fmt.Errorf("CKA_EC_POINT of %d bytes: %w", len(point), err)
	}
	return x509.MarshalPKIXPublicKey(pub)
}

// FromEdPoint does the same for Ed25519.
func FromEdPoint(point []byte) ([]byte, error) {
	raw := unwrapOctets(point, ed25519.PublicKeySize)
	if len(raw) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("CKA_EC_POINT has %d bytes; an Ed25519 key has %d", len(raw), ed25519.PublicKeySize)
	}
	return x509.MarshalPKIXPublicKey(ed25519.PublicKey(raw))
}

// unwrapOctets removes the DER OCTET STRING around size bytes, if there is
// one. By its length: a raw point may begin with the tag's byte.
func unwrapOctets(b []byte, size int) []byte {
	var inner []byte
	if len(b) == size {
		return b
	}
	if rest, err := asn1.Unmarshal(b, &inner); err == nil && len(rest) == 0 {
		return inner
	}
	return b
}

// FromRSA makes the SubjectPublicKeyInfo from CKA_MODULUS and
// CKA_PUBLIC_EXPONENT, and refuses a modulus that has not exactly bits bits
// or an exponent other than 65537, or that the token's firmware made weak.
func FromRSA(modulus, exponent []byte, bits int) ([]byte, error) {
	n, e := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)
	if n.BitLen() != bits {
		return nil, fmt.Errorf("the RSA modulus has %d bits, not %d", n.BitLen(), bits)
	}
	if !e.IsInt64() || e.Int64() != 65537 {
		return nil, errors.New("the RSA public exponent is not 65537")
	}
	if keys.WeakModulus(n) {
		return nil, errors.New("the RSA modulus can be factored (ROCA, CVE-2017-15361): the token's firmware needs an update")
	}
	return x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: 65537})
}

// Key is a parsed public key of one algorithm.
type Key struct {
	alg keys.Algorithm
	pub crypto.PublicKey
}

// Parse reads a DER SubjectPublicKeyInfo, which must fit the algorithm.
func Parse(alg keys.Algorithm, spki []byte) (*Key, error) {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("parsing a public key: %w", err)
	}
	fits := false
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		fits = alg.Family() == keys.FamilyEC && p.Curve == Curve(alg)
	case ed25519.PublicKey:
		fits = alg.Family() == keys.FamilyEd25519
	case *rsa.PublicKey:
		fits = alg.Family() == keys.FamilyRSA
	}
	if !fits {
		return nil, fmt.Errorf("a public key of type %T is none of %s", pub, alg)
	}
	return &Key{alg: alg, pub: pub}, nil
}

// Size returns the size of an RSA key's modulus in bytes, else 0.
func (k *Key) Size() int {
	if p, ok := k.pub.(*rsa.PublicKey); ok {
		return p.Size()
	}
	return 0
}

// Verify judges a signature over a digest (EC, RSA) or message (Ed25519).
// ECDSA signatures are r||s of fixed width; whatever else is not valid.
func (k *Key) Verify(input, sig []byte) bool {
	switch p := k.pub.(type) {
	case *ecdsa.PublicKey:
		width := (p.Curve.Params().BitSize + 7) / 8
		if len(sig) != 2*width {
			return false
		}
		r, s := new(big.Int).SetBytes(sig[:width]), new(big.Int).SetBytes(sig[width:])
		return r.Sign() > 0 && s.Sign() > 0 && ecdsa.Verify(p, input, r, s)
	case ed25519.PublicKey:
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(p, input, sig)
	case *rsa.PublicKey:
		if len(sig) != p.Size() {
			return false
		}
		if k.alg.PSS() {
			return rsa.VerifyPSS(p, k.alg.Hash(), input, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(p, k.alg.Hash(), input, sig) == nil
	}
	return false
}

// Encrypt encrypts a short message by RSA-OAEP, with the algorithm's hash
// for OAEP and MGF1 and an empty label.
func (k *Key) Encrypt(message []byte) ([]byte, error) {
	p, ok := k.pub.(*rsa.PublicKey)
	if !ok || k.alg.Purpose() != keys.PurposeEncrypt {
		return nil, fmt.Errorf("keys of %s do not encrypt", k.alg)
	}
	return rsa.EncryptOAEP(k.alg.Hash().New(), rand.Reader, p, message, nil)
}

// digestInfo are the DER prefixes of RSASSA-PKCS1-v1_5 (RFC 8017, 9.2).
var digestInfo = map[crypto.Hash][]byte{
	crypto.SHA256: {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20},
	crypto.SHA384: {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30},
	crypto.SHA512: {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40},
}

// DigestInfo returns digest behind its DER prefix: what CKM_RSA_PKCS signs.
func DigestInfo(h crypto.Hash, digest []byte) []byte {
	prefix := digestInfo[h]
	out := make([]byte, 0, len(prefix)+len(digest))
	return append(append(out, prefix...), digest...)
}

// As returns the same key for another algorithm of its family.
func (k *Key) As(alg keys.Algorithm) *Key { return &Key{alg: alg, pub: k.pub} }
