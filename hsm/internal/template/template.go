// Package template chooses the attributes of keys, each with its reason, and
// compares what a token made with them. It is data: nothing here calls a
// token.
package template

import (
	"bytes"
	"slices"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"keyhole/keys"
)

// PKCS#11 v3.0 names that miekg/pkcs11, which is v2.40, does not have.
const (
	CKMECEdwardsKeyPairGen = 0x1055
	CKMEdDSA               = 0x1057
	CKKECEdwards           = 0x40
)

// curves are CKA_EC_PARAMS: DER object identifiers of named curves.
var curves = map[keys.Algorithm][]byte{
	keys.ES256: {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}, // 1.2.840.10045.3.1.7
	keys.ES384: {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22},                   // 1.3.132.0.34
	keys.ES512: {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23},                   // 1.3.132.0.35
}

// EdwardsCurves are the spellings of Ed25519's CKA_EC_PARAMS. Modules take
// one, the other or both; the probe finds out.
var EdwardsCurves = [][]byte{
	{0x06, 0x03, 0x2b, 0x65, 0x70},                                           // 1.3.101.112 (RFC 8410)
	{0x13, 0x0c, 'e', 'd', 'w', 'a', 'r', 'd', 's', '2', '5', '5', '1', '9'}, // PrintableString (PKCS#11 v3.0, 2.3.5)
}

// Template is what a key is generated from.
type Template struct {
	Alg       keys.Algorithm
	Bits      int
	Mechanism uint                // CKM_*, of the generation
	Public    []*pkcs11.Attribute // nil for secret keys
	Private   []*pkcs11.Attribute // of the private or secret key
}

// Spec says what a template is for.
type Spec struct {
	Alg   keys.Algorithm
	Bits  int
	ID    []byte // of token objects
	Label string // of token objects
	Token bool   // a token object; false: a session object, for probes and the canary
	Curve []byte // CKA_EC_PARAMS of Ed25519: one of EdwardsCurves
}

// New is the one place where attributes of keys are chosen.
//
// What is left out on purpose: CKA_MODIFIABLE, CKA_COPYABLE and
// CKA_DESTROYABLE (tokens that know them differ in what they accept, and
// Keyhole never changes or copies an object), CKA_ALLOWED_MECHANISMS (NSS and
// opencryptoki refuse it), CKA_START_DATE and CKA_END_DATE (not enforced; the
// timeline says what is active).
func New(s Spec) Template {
	t := Template{Alg: s.Alg, Bits: s.Bits}
	keyType := uint(0)
	switch s.Alg.Family() {
	case keys.FamilyEC:
		keyType, t.Mechanism = pkcs11.CKK_EC, pkcs11.CKM_EC_KEY_PAIR_GEN
		t.Public = []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curves[s.Alg]), // the curve, by name: no explicit parameters
		}
	case keys.FamilyEd25519:
		keyType, t.Mechanism = CKKECEdwards, CKMECEdwardsKeyPairGen
		t.Public = []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, s.Curve),
		}
	case keys.FamilyRSA:
		keyType, t.Mechanism = pkcs11.CKK_RSA, pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN
		t.Public = []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, s.Bits),
			pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}), // 65537 (FIPS 186-5, A.1.1)
		}
	case keys.FamilyAES:
		keyType, t.Mechanism = pkcs11.CKK_AES, pkcs11.CKM_AES_KEY_GEN
	case keys.FamilyHMAC:
		keyType, t.Mechanism = pkcs11.CKK_GENERIC_SECRET, pkcs11.CKM_GENERIC_SECRET_KEY_GEN
	}
	if s.Alg.Family().Asymmetric() {
		t.Public = append(t.Public,
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
			pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false), // public: readable without a login, by monitoring too
		)
		t.Public = append(t.Public, usage(publicUses, publicUse(s.Alg))...)
		t.Private = append(t.Private, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))
		t.Private = append(t.Private, usage(privateUses, privateUse(s.Alg))...)
		t.Public = append(t.Public, common(s, keyType)...)
	} else {
		t.Private = append(t.Private,
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, s.Bits/8), // for HMAC the size of the hash (RFC 7518, 3.2)
		)
		t.Private = append(t.Private, usage(secretUses, privateUse(s.Alg))...)
	}
	t.Private = append(t.Private,
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),      // no use, and no sight of it, without a login
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),    // the value is never shown in plain
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false), // nor wrapped by another key: it never leaves
	)
	t.Private = append(t.Private, common(s, keyType)...)
	return t
}

// common are the attributes that both halves of a pair have.
func common(s Spec, keyType uint) []*pkcs11.Attribute {
	a := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, keyType),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, s.Token), // it outlives the session
	}
	if s.Token {
		a = append(a,
			pkcs11.NewAttribute(pkcs11.CKA_ID, s.ID),       // how Keyhole finds it: random, stored before generation
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, s.Label), // how people find it: the version id
		)
	}
	return a
}

// The usage attributes of each class. All are set, because modules differ in
// what they assume: SoftHSM takes an absent CKA_SIGN_RECOVER or CKA_WRAP for
// true. CKA_VERIFY of a secret key stays false too: a MAC is verified by
// computing it again and comparing here.
var (
	publicUses  = []uint{pkcs11.CKA_VERIFY, pkcs11.CKA_ENCRYPT, pkcs11.CKA_WRAP, pkcs11.CKA_VERIFY_RECOVER}
	privateUses = []uint{pkcs11.CKA_SIGN, pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP, pkcs11.CKA_SIGN_RECOVER, pkcs11.CKA_DERIVE}
	secretUses  = []uint{pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY, pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE}
)

// privateUse is what the private or secret key of an algorithm may do: one
// thing, and for AES the two directions of it.
func privateUse(alg keys.Algorithm) []uint {
	switch {
	case alg.Family() == keys.FamilyAES:
		return []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT}
	case alg.Purpose() == keys.PurposeEncrypt:
		return []uint{pkcs11.CKA_DECRYPT}
	}
	return []uint{pkcs11.CKA_SIGN}
}

func publicUse(alg keys.Algorithm) []uint {
	if alg.Purpose() == keys.PurposeEncrypt {
		return []uint{pkcs11.CKA_ENCRYPT}
	}
	return []uint{pkcs11.CKA_VERIFY}
}

// usage sets each of all, true only for those allowed.
func usage(all, allowed []uint) []*pkcs11.Attribute {
	a := make([]*pkcs11.Attribute, len(all))
	for i, u := range all {
		a[i] = pkcs11.NewAttribute(u, slices.Contains(allowed, u))
	}
	return a
}

// AttributeSet is a template half in the form that crypto11 takes. It fills
// in what it finds missing, usages too, so nothing may be missing.
func AttributeSet(half []*pkcs11.Attribute) crypto11.AttributeSet {
	set := crypto11.NewAttributeSet()
	set.AddIfNotPresent(half)
	return set
}

// Born are attributes that no template asks for but every private or secret
// key must have: its value was never in plain outside, not even before the
// attributes were set. Keys that were imported or unwrapped have neither, so
// that CKA_LOCAL would say nothing more; NSS does not keep it.
func Born() []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_ALWAYS_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_NEVER_EXTRACTABLE, true),
	}
}

// Met reports whether an attribute that a token reads back as got is what
// want asked for. The spellings of Ed25519's curve are the same.
func Met(want *pkcs11.Attribute, got []byte) bool {
	if want.Type == pkcs11.CKA_EC_PARAMS && isEdwards(want.Value) {
		return isEdwards(got)
	}
	return bytes.Equal(got, want.Value)
}

// MayLack reports whether a token may not know an attribute that want asked
// for: a usage that it does not know counts as false; and the modulus tells
// its length by itself.
func MayLack(want *pkcs11.Attribute) bool {
	if want.Type == pkcs11.CKA_MODULUS_BITS {
		return true
	}
	return bytes.Equal(want.Value, []byte{0}) && slices.Contains(slices.Concat(publicUses, privateUses, secretUses), want.Type)
}

func isEdwards(params []byte) bool {
	return slices.ContainsFunc(EdwardsCurves, func(c []byte) bool { return bytes.Equal(c, params) })
}
