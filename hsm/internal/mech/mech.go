// Package mech is what Keyhole has tokens do with keys: one call each for
// signing, wrapping, unwrapping, random bytes, generation and export of public
// keys, with the mechanism and its parameters; and, built of these, the proof
// that a handle is the key that it should be. It checks what tokens return.
package mech

import (
	"crypto"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/p11call"
	"keyhole/hsm/internal/public"
	"keyhole/hsm/internal/template"
	"keyhole/keys"
)

// What goes into C is small and of a checked size.
const (
	MaxDataKey = 64 // bytes of a key that is wrapped
	gcmIVSize  = 12
	GCMTagSize = 16
	maxGCMIV   = 16 // of tokens that make their own
)

// Ways in which a token gets the IV of AES-GCM.
const (
	IVCaller      = "caller"       // Keyhole makes it
	IVHSMParam    = "hsm-param"    // the token writes it into the mechanism's parameter (CloudHSM)
	IVHSMAppended = "hsm-appended" // the token appends it to the ciphertext (Luna in FIPS mode)
)

// Key is an object that was found, with what it must be.
type Key struct {
	Handle pkcs11.ObjectHandle // of the private or secret key
	Alg    keys.Algorithm
	Bits   int
	Public *public.Key // nil for secret keys
}

// signMechanisms are what tokens sign with.
var signMechanisms = map[keys.Algorithm]p11call.Mechanism{
	keys.ES256: p11call.Plain(pkcs11.CKM_ECDSA),
	keys.ES384: p11call.Plain(pkcs11.CKM_ECDSA),
	keys.ES512: p11call.Plain(pkcs11.CKM_ECDSA),
	keys.EdDSA: p11call.Plain(template.CKMEdDSA),
	keys.RS256: p11call.Plain(pkcs11.CKM_RSA_PKCS),
	keys.RS384: p11call.Plain(pkcs11.CKM_RSA_PKCS),
	keys.RS512: p11call.Plain(pkcs11.CKM_RSA_PKCS),
	keys.PS256: pss(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, crypto.SHA256),
	keys.PS384: pss(pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384, crypto.SHA384),
	keys.PS512: pss(pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512, crypto.SHA512),
	keys.HS256: p11call.Plain(pkcs11.CKM_SHA256_HMAC),
	keys.HS384: p11call.Plain(pkcs11.CKM_SHA384_HMAC),
	keys.HS512: p11call.Plain(pkcs11.CKM_SHA512_HMAC),
}

// pss has a salt as long as the hash (RFC 7518, 3.5).
func pss(hash, mgf uint, h crypto.Hash) p11call.Mechanism { return p11call.PSS(hash, mgf, h.Size()) }

// Sign makes a signature or MAC. input is a digest of the right length for EC
// and RSA, else the message.
func (k Key) Sign(s *module.Session, input []byte) ([]byte, error) {
	if k.Alg.Family() == keys.FamilyRSA && !k.Alg.PSS() {
		input = public.DigestInfo(k.Alg.Hash(), input)
	}
	m, want := signMechanisms[k.Alg], signatureSize(k.Alg, k.Bits)
	sig, err := s.Do(p11call.Sign, &m, k.Handle, input, want)
	if err != nil {
		return nil, err
	}
	if len(sig) != want {
		return nil, fmt.Errorf("the token made a signature of %d bytes by %s, not %d: %w", len(sig), k.Alg, want, keys.ErrHSM)
	}
	return sig, nil
}

// signatureSize is the fixed size of an algorithm's signatures.
func signatureSize(alg keys.Algorithm, bits int) int {
	switch alg.Family() {
	case keys.FamilyEC:
		return 2 * ((bits + 7) / 8)
	case keys.FamilyEd25519:
		return 64
	case keys.FamilyRSA:
		return bits / 8
	}
	return alg.Hash().Size()
}

// Wrap encrypts a data key by AES-GCM, with an IV from whoever makes it: mode
// is one of the IV constants.
func (k Key) Wrap(s *module.Session, mode string, dataKey, aad []byte) (iv, wrapped []byte, err error) {
	switch mode {
	case IVCaller:
		iv = make([]byte, gcmIVSize)
		rand.Read(iv) // never fails (Go 1.24)
	case IVHSMParam:
		iv = make([]byte, gcmIVSize) // room for the token's
	}
	m := p11call.GCM(iv, aad, GCMTagSize)
	out, err := s.Do(p11call.Encrypt, &m, k.Handle, dataKey, len(dataKey)+GCMTagSize+maxGCMIV)
	if err != nil {
		return nil, nil, err
	}
	return splitGCM(mode, iv, out, len(dataKey)+GCMTagSize)
}

// splitGCM checks what the token returned, and takes the IV from where it is.
func splitGCM(mode string, iv, out []byte, want int) (_, wrapped []byte, err error) {
	if mode == IVHSMAppended && len(out) > want {
		iv, out = out[want:], out[:want]
	}
	zero := true
	for _, b := range iv {
		zero = zero && b == 0
	}
	if len(out) != want || !IVFits(mode, iv) || zero {
		return nil, nil, fmt.Errorf("AES-GCM made %d bytes and an IV of %d where gcm_iv is %q: does the token make its own IV? %w", len(out), len(iv), mode, keys.ErrHSM)
	}
	return iv, out, nil
}

// IVFits reports whether a token that gets its IVs in that mode makes such ones.
func IVFits(mode string, iv []byte) bool {
	return len(iv) == gcmIVSize || mode == IVHSMAppended && len(iv) == maxGCMIV
}

// Unwrap decrypts a data key: by AES-GCM what Wrap made, by RSA-OAEP what was
// encrypted to the public key. The caller has checked the sizes. For the error
// of what does not open see fault.DoesNotOpen.
func (k Key) Unwrap(s *module.Session, iv, wrapped, aad []byte) ([]byte, error) {
	m := p11call.GCM(iv, aad, GCMTagSize)
	switch {
	case k.Public == nil:
	case k.Alg == keys.RSAOAEP: // one hash for OAEP and MGF1
		m = p11call.OAEP(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1)
	default:
		m = p11call.OAEP(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256)
	}
	return s.Do(p11call.Decrypt, &m, k.Handle, wrapped, len(wrapped))
}

// Generate makes a key, and a pair of keys where the template has a public half;
// else pub is 0.
func Generate(s *module.Session, tmpl template.Template) (pub, key pkcs11.ObjectHandle, err error) {
	start := time.Now()
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(tmpl.Mechanism, nil)}
	if tmpl.Public != nil {
		pub, key, err = s.Ctx().GenerateKeyPair(s.Handle(), mechanism, tmpl.Public, tmpl.Private)
	} else {
		key, err = s.Ctx().GenerateKey(s.Handle(), mechanism, tmpl.Private)
	}
	return pub, key, s.Note(fault.OpGenerate, start, err)
}

// Export reads a public key object.
func Export(s *module.Session, o pkcs11.ObjectHandle, alg keys.Algorithm, bits int) (spki []byte, pub *public.Key, err error) {
	wanted := []uint{pkcs11.CKA_EC_POINT}
	if alg.Family() == keys.FamilyRSA {
		wanted = []uint{pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT}
	}
	known := map[uint][]byte{}
	for _, a := range wanted {
		if known[a], err = s.Attribute(o, a); err != nil {
			return nil, nil, err
		}
	}
	if spki, err = Encode(alg, bits, known); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", keys.ErrHSM, err)
	}
	if pub, err = public.Parse(alg, spki); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", keys.ErrHSM, err)
	}
	return spki, pub, nil
}

// Encode makes the DER SubjectPublicKeyInfo of a key of alg from the
// attributes of its public half, or, for RSA, of its private one.
func Encode(alg keys.Algorithm, bits int, attributes map[uint][]byte) ([]byte, error) {
	switch alg.Family() {
	case keys.FamilyRSA:
		return public.FromRSA(attributes[pkcs11.CKA_MODULUS], attributes[pkcs11.CKA_PUBLIC_EXPONENT], bits)
	case keys.FamilyEd25519:
		return public.FromEdPoint(attributes[pkcs11.CKA_EC_POINT])
	}
	return public.FromECPoint(alg, attributes[pkcs11.CKA_EC_POINT])
}
