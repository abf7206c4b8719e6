package hsm

import (
	"crypto"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/public"
	"keyhole/hsm/internal/template"
	"keyhole/keys"
)

// What goes into C is small and of a checked size. miekg/pkcs11 asks for the
// size of an output first and allocates for the second call; what it
// allocated for a call that fails is never freed.
const (
	maxDataKey = 64 // bytes of a key that is wrapped
	gcmIVSize  = 12
	gcmTagSize = 16
	maxGCMIV   = 16 // of tokens that make their own
	rsaMaxSize = 512
)

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

// sign makes a signature or MAC. input is a digest of the right length for EC
// and RSA, else the message.
func (t *token) sign(s *session, key pkcs11.ObjectHandle, alg keys.Algorithm, bits int, input []byte) ([]byte, error) {
	if alg.Family() == keys.FamilyRSA && !alg.PSS() {
		input = public.DigestInfo(alg.Hash(), input)
	}
	start := time.Now()
	if err := t.mod.ctx.SignInit(s.h, signMechanisms[alg], key); err != nil {
		return nil, t.note(fault.OpSignInit, start, err)
	}
	sig, err := t.mod.ctx.Sign(s.h, input)
	if err := t.note(fault.OpSign, start, err); err != nil {
		return nil, err
	}
	if want := signatureSize(alg, bits); len(sig) != want {
		return nil, fmt.Errorf("the token made a signature of %d bytes by %s, not %d: %w", len(sig), alg, want, keys.ErrHSM)
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

// wrapKey encrypts a data key by AES-GCM, with an IV from whoever makes it.
func (t *token) wrapKey(s *session, key pkcs11.ObjectHandle, dataKey, aad []byte) (iv, wrapped []byte, err error) {
	switch t.GCMIV {
	case GCMIVCaller:
		iv = make([]byte, gcmIVSize)
		rand.Read(iv) // never fails (Go 1.24)
	case GCMIVHSMParam:
		iv = make([]byte, gcmIVSize) // room for the token's
	}
	params := pkcs11.NewGCMParams(iv, aad, 8*gcmTagSize)
	defer params.Free()
	start := time.Now()
	if err := t.mod.ctx.EncryptInit(s.h, mechanism(pkcs11.CKM_AES_GCM, params), key); err != nil {
		return nil, nil, t.note(fault.OpEncryptInit, start, err)
	}
	out, err := t.mod.ctx.Encrypt(s.h, dataKey)
	if err := t.note(fault.OpEncrypt, start, err); err != nil {
		return nil, nil, err
	}
	if t.GCMIV == GCMIVHSMParam {
		iv = params.IV()
	}
	return splitGCM(t.GCMIV, iv, out, len(dataKey)+gcmTagSize)
}

// splitGCM checks what the token returned, and takes the IV from where it is.
func splitGCM(mode string, iv, out []byte, want int) (_, wrapped []byte, err error) {
	if mode == GCMIVHSMAppended && len(out) > want {
		iv, out = out[want:], out[:want]
	}
	zero := true
	for _, b := range iv {
		zero = zero && b == 0
	}
	if len(out) != want || !ivFits(mode, iv) || zero {
		return nil, nil, fmt.Errorf("AES-GCM made %d bytes and an IV of %d where gcm_iv is %q: does the token make its own IV? %w", len(out), len(iv), mode, keys.ErrHSM)
	}
	return iv, out, nil
}

func ivFits(mode string, iv []byte) bool {
	return len(iv) == gcmIVSize || mode == GCMIVHSMAppended && len(iv) == maxGCMIV
}

// unwrapKey undoes wrapKey. The caller has checked the sizes.
func (t *token) unwrapKey(s *session, key pkcs11.ObjectHandle, iv, wrapped, aad []byte) ([]byte, error) {
	params := pkcs11.NewGCMParams(iv, aad, 8*gcmTagSize)
	defer params.Free()
	return t.decrypt(s, key, mechanism(pkcs11.CKM_AES_GCM, params), wrapped)
}

// oaepMechanism uses one hash for OAEP and MGF1, and an empty label.
func oaepMechanism(alg keys.Algorithm) []*pkcs11.Mechanism {
	hash, mgf := uint(pkcs11.CKM_SHA256), uint(pkcs11.CKG_MGF1_SHA256)
	if alg == keys.RSAOAEP {
		hash, mgf = pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1
	}
	return mechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(hash, mgf, pkcs11.CKZ_DATA_SPECIFIED, nil))
}

func (t *token) decrypt(s *session, key pkcs11.ObjectHandle, m []*pkcs11.Mechanism, ciphertext []byte) ([]byte, error) {
	start := time.Now()
	if err := t.mod.ctx.DecryptInit(s.h, m, key); err != nil {
		return nil, t.note(fault.OpDecryptInit, start, err)
	}
	plain, err := t.mod.ctx.Decrypt(s.h, ciphertext)
	return plain, t.note(fault.OpDecrypt, start, err)
}

func (t *token) random(s *session, n int) ([]byte, error) {
	start := time.Now()
	b, err := t.mod.ctx.GenerateRandom(s.h, n)
	if err := t.note(fault.OpRandom, start, err); err != nil {
		return nil, err
	}
	if len(b) != n {
		return nil, fmt.Errorf("the token made %d random bytes of %d: %w", len(b), n, keys.ErrHSM)
	}
	return b, nil
}
