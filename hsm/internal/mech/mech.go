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
	"keyhole/hsm/internal/public"
	"keyhole/hsm/internal/template"
	"keyhole/keys"
)

// What goes into C is small and of a checked size. miekg/pkcs11 asks for the
// size of an output first and allocates for the second call; what it
// allocated for a call that fails is never freed.
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

// signMechanisms is made once: one allocation less per signature.
var signMechanisms = map[keys.Algorithm][]*pkcs11.Mechanism{
	keys.ES256: mechanism(pkcs11.CKM_ECDSA, nil),
	keys.ES384: mechanism(pkcs11.CKM_ECDSA, nil),
	keys.ES512: mechanism(pkcs11.CKM_ECDSA, nil),
	keys.EdDSA: mechanism(template.CKMEdDSA, nil),
	keys.RS256: mechanism(pkcs11.CKM_RSA_PKCS, nil),
	keys.RS384: mechanism(pkcs11.CKM_RSA_PKCS, nil),
	keys.RS512: mechanism(pkcs11.CKM_RSA_PKCS, nil),
	keys.PS256: pssMechanism(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, crypto.SHA256),
	keys.PS384: pssMechanism(pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384, crypto.SHA384),
	keys.PS512: pssMechanism(pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512, crypto.SHA512),
	keys.HS256: mechanism(pkcs11.CKM_SHA256_HMAC, nil),
	keys.HS384: mechanism(pkcs11.CKM_SHA384_HMAC, nil),
	keys.HS512: mechanism(pkcs11.CKM_SHA512_HMAC, nil),
}

func mechanism(m uint, parameter any) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(m, parameter)}
}

// pssMechanism has a salt as long as the hash (RFC 7518, 3.5).
func pssMechanism(hash, mgf uint, h crypto.Hash) []*pkcs11.Mechanism {
	return mechanism(pkcs11.CKM_RSA_PKCS_PSS, pkcs11.NewPSSParams(hash, mgf, uint(h.Size())))
}

// Sign makes a signature or MAC. input is a digest of the right length for EC
// and RSA, else the message.
func (k Key) Sign(s *module.Session, input []byte) ([]byte, error) {
	if k.Alg.Family() == keys.FamilyRSA && !k.Alg.PSS() {
		input = public.DigestInfo(k.Alg.Hash(), input)
	}
	start := time.Now()
	if err := s.Ctx().SignInit(s.Handle(), signMechanisms[k.Alg], k.Handle); err != nil {
		return nil, s.Note(fault.OpSignInit, start, err)
	}
	sig, err := s.Ctx().Sign(s.Handle(), input)
	if err := s.Note(fault.OpSign, start, err); err != nil {
		return nil, err
	}
	if want := signatureSize(k.Alg, k.Bits); len(sig) != want {
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
	params := pkcs11.NewGCMParams(iv, aad, 8*GCMTagSize)
	defer params.Free()
	start := time.Now()
	if err := s.Ctx().EncryptInit(s.Handle(), mechanism(pkcs11.CKM_AES_GCM, params), k.Handle); err != nil {
		return nil, nil, s.Note(fault.OpEncryptInit, start, err)
	}
	out, err := s.Ctx().Encrypt(s.Handle(), dataKey)
	if err := s.Note(fault.OpEncrypt, start, err); err != nil {
		return nil, nil, err
	}
	if mode == IVHSMParam {
		iv = params.IV()
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
	if k.Public != nil {
		return k.decrypt(s, oaepMechanism(k.Alg), wrapped)
	}
	params := pkcs11.NewGCMParams(iv, aad, 8*GCMTagSize)
	defer params.Free()
	return k.decrypt(s, mechanism(pkcs11.CKM_AES_GCM, params), wrapped)
}

// oaepMechanism uses one hash for OAEP and MGF1, and an empty label.
func oaepMechanism(alg keys.Algorithm) []*pkcs11.Mechanism {
	hash, mgf := uint(pkcs11.CKM_SHA256), uint(pkcs11.CKG_MGF1_SHA256)
	if alg == keys.RSAOAEP {
		hash, mgf = pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1
	}
	return mechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(hash, mgf, pkcs11.CKZ_DATA_SPECIFIED, nil))
}

func (k Key) decrypt(s *module.Session, m []*pkcs11.Mechanism, ciphertext []byte) ([]byte, error) {
	start := time.Now()
	if err := s.Ctx().DecryptInit(s.Handle(), m, k.Handle); err != nil {
		return nil, s.Note(fault.OpDecryptInit, start, err)
	}
	plain, err := s.Ctx().Decrypt(s.Handle(), ciphertext)
	return plain, s.Note(fault.OpDecrypt, start, err)
}

// Random returns n bytes.
func Random(s *module.Session, n int) ([]byte, error) {
	start := time.Now()
	b, err := s.Ctx().GenerateRandom(s.Handle(), n)
	if err := s.Note(fault.OpRandom, start, err); err != nil {
		return nil, err
	}
	if len(b) != n {
		return nil, fmt.Errorf("the token made %d random bytes of %d: %w", len(b), n, keys.ErrHSM)
	}
	return b, nil
}

// Generate makes a key, and a pair of keys where the template has a public half;
// else pub is 0.
func Generate(s *module.Session, tmpl template.Template) (pub, key pkcs11.ObjectHandle, err error) {
	start := time.Now()
	if tmpl.Public != nil {
		pub, key, err = s.Ctx().GenerateKeyPair(s.Handle(), mechanism(tmpl.Mechanism, nil), tmpl.Public, tmpl.Private)
	} else {
		key, err = s.Ctx().GenerateKey(s.Handle(), mechanism(tmpl.Mechanism, nil), tmpl.Private)
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
