package template

import (
	"bytes"
	"math/big"
	"slices"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
)

// Facts are what a token says of a key object that somebody made.
type Facts struct {
	Class    keys.ObjectClass
	KeyType  uint   // CKK_*
	Curve    []byte // CKA_EC_PARAMS
	Modulus  []byte // CKA_MODULUS
	ValueLen int    // CKA_VALUE_LEN, bytes
	// May reports whether a usage attribute (CKA_SIGN, ...) is there and true.
	May func(use uint) bool
}

// The key types that are made for one MAC only. Keyhole makes
// CKK_GENERIC_SECRET; other tools may make these.
const (
	ckkSHA256HMAC = 0x2B
	ckkSHA384HMAC = 0x2C
	ckkSHA512HMAC = 0x2D
)

// Fits returns the algorithms that the object can serve, and its size in
// bits: none if Keyhole has no use for it.
func Fits(f Facts) (fit []keys.Algorithm, bits int) {
	bits = f.bits()
	for _, alg := range keys.Algorithms() {
		want, err := alg.KeyBits(bits)
		if err != nil || bits == 0 || want != bits || !f.isOf(alg) {
			continue
		}
		if !slices.ContainsFunc(uses(f.Class, alg), func(u uint) bool { return !f.May(u) }) {
			fit = append(fit, alg)
		}
	}
	return fit, bits
}

func (f Facts) bits() int {
	switch f.KeyType {
	case pkcs11.CKK_EC:
		for alg, curve := range curves {
			if bytes.Equal(curve, f.Curve) {
				bits, _ := alg.KeyBits(0) // fixed for each curve
				return bits
			}
		}
		return 0
	case CKKECEdwards:
		if isEdwards(f.Curve) {
			return 256
		}
		return 0
	case pkcs11.CKK_RSA:
		return new(big.Int).SetBytes(f.Modulus).BitLen()
	}
	return 8 * f.ValueLen
}

// isOf reports whether the object's kind is the one of alg's keys.
func (f Facts) isOf(alg keys.Algorithm) bool {
	if alg.Family().Asymmetric() != (f.Class != keys.ClassSecret) {
		return false
	}
	switch alg.Family() {
	case keys.FamilyEC:
		return f.KeyType == pkcs11.CKK_EC && bytes.Equal(f.Curve, curves[alg])
	case keys.FamilyEd25519:
		return f.KeyType == CKKECEdwards
	case keys.FamilyRSA:
		return f.KeyType == pkcs11.CKK_RSA
	case keys.FamilyAES:
		return f.KeyType == pkcs11.CKK_AES
	case keys.FamilyHMAC:
		own := map[keys.Algorithm]uint{keys.HS256: ckkSHA256HMAC, keys.HS384: ckkSHA384HMAC, keys.HS512: ckkSHA512HMAC}
		return f.KeyType == pkcs11.CKK_GENERIC_SECRET || f.KeyType == own[alg]
	}
	return false
}

// uses are what an object of a class must be allowed to do for alg.
func uses(class keys.ObjectClass, alg keys.Algorithm) []uint {
	if class == keys.ClassPublic {
		return publicUse(alg)
	}
	return privateUse(alg)
}
