package hsmtest

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // RSA-OAEP
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/big"

	"keyhole/keys"
)

// material is a secret or private key. A kind of key implements what it can
// do and inherits the refusal of the rest from cannot.
type material interface {
	sign(alg keys.Algorithm, input []byte) ([]byte, error)
	verify(alg keys.Algorithm, input, sig []byte) (bool, error)
	wrap(alg keys.Algorithm, key, aad []byte) (iv, wrapped []byte, err error)
	unwrap(alg keys.Algorithm, iv, wrapped, aad []byte) ([]byte, error)
}

type cannot struct{}

func wrongPurpose(alg keys.Algorithm, what string) error {
	return keys.Errorf(keys.ErrWrongPurpose, "keys of %s do not %s", alg, what)
}

func (cannot) sign(alg keys.Algorithm, _ []byte) ([]byte, error) {
	return nil, wrongPurpose(alg, "sign")
}

func (cannot) verify(alg keys.Algorithm, _, _ []byte) (bool, error) {
	return false, wrongPurpose(alg, "verify")
}

func (cannot) wrap(alg keys.Algorithm, _, _ []byte) (iv, wrapped []byte, err error) {
	return nil, nil, wrongPurpose(alg, "encrypt")
}

func (cannot) unwrap(alg keys.Algorithm, _, _, _ []byte) ([]byte, error) {
	return nil, wrongPurpose(alg, "decrypt")
}

// generate makes a key, its public half (DER SubjectPublicKeyInfo, or empty)
// and its check value.
func generate(alg keys.Algorithm, bits int) (m material, public, check []byte, err error) {
	switch alg.Family() {
	case keys.FamilyEC:
		k, err := ecdsa.GenerateKey(curveOf(alg), rand.Reader)
		if err != nil {
			return nil, nil, nil, err
		}
		return asymmetric(ecKey{key: k}, k.Public())
	case keys.FamilyEd25519:
		pub, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, nil, err
		}
		return asymmetric(edKey{key: k}, pub)
	case keys.FamilyRSA:
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			return nil, nil, nil, err
		}
		if alg.Purpose() == keys.PurposeEncrypt {
			return asymmetric(oaepKey{key: k}, k.Public())
		}
		return asymmetric(rsaKey{key: k}, k.Public())
	case keys.FamilyHMAC:
		k := hmacKey{key: random(bits / 8)}
		return k, nil, k.mac(crypto.SHA256, []byte("keyhole check value"))[:16], nil
	case keys.FamilyAES:
		raw := random(bits / 8)
		block, err := aes.NewCipher(raw)
		if err != nil {
			return nil, nil, nil, err
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			return nil, nil, nil, err
		}
		sum := sha256.Sum256(append([]byte("keyhole check value"), raw...))
		return aesKey{gcm: gcm}, nil, sum[:16], nil
	}
	return nil, nil, nil, keys.Errorf(keys.ErrUnsupported, "no keys of %q", alg)
}

func asymmetric(m material, pub crypto.PublicKey) (material, []byte, []byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, nil, nil, err
	}
	return m, spki, keys.PublicKeyCheck(spki), nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails (Go 1.24)
	return b
}

func curveOf(alg keys.Algorithm) elliptic.Curve {
	switch alg {
	case keys.ES256:
		return elliptic.P256()
	case keys.ES384:
		return elliptic.P384()
	}
	return elliptic.P521()
}

type ecKey struct {
	cannot
	key *ecdsa.PrivateKey
}

func (k ecKey) sign(_ keys.Algorithm, digest []byte) ([]byte, error) {
	r, s, err := ecdsa.Sign(rand.Reader, k.key, digest)
	if err != nil {
		return nil, err
	}
	n := (k.key.Params().BitSize + 7) / 8
	sig := make([]byte, 2*n)
	r.FillBytes(sig[:n])
	s.FillBytes(sig[n:])
	return sig, nil
}

func (k ecKey) verify(_ keys.Algorithm, digest, sig []byte) (bool, error) {
	return verifyEC(&k.key.PublicKey, digest, sig), nil
}

// verifyEC judges a signature r||s of fixed width.
func verifyEC(pub *ecdsa.PublicKey, digest, sig []byte) bool {
	n := (pub.Params().BitSize + 7) / 8
	if len(sig) != 2*n {
		return false
	}
	return ecdsa.Verify(pub, digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
}

type edKey struct {
	cannot
	key ed25519.PrivateKey
}

func (k edKey) sign(_ keys.Algorithm, message []byte) ([]byte, error) {
	return ed25519.Sign(k.key, message), nil
}

func (k edKey) verify(_ keys.Algorithm, message, sig []byte) (bool, error) {
	pub := ed25519.PublicKey(k.key[ed25519.SeedSize:])
	return len(sig) == ed25519.SignatureSize && ed25519.Verify(pub, message, sig), nil
}

type rsaKey struct {
	cannot
	key *rsa.PrivateKey
}

func (k rsaKey) sign(alg keys.Algorithm, digest []byte) ([]byte, error) {
	var opts crypto.SignerOpts = alg.Hash()
	if alg.PSS() {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: alg.Hash()}
	}
	return k.key.Sign(rand.Reader, digest, opts)
}

func (k rsaKey) verify(alg keys.Algorithm, digest, sig []byte) (bool, error) {
	return verifyRSA(&k.key.PublicKey, alg, digest, sig), nil
}

func verifyRSA(pub *rsa.PublicKey, alg keys.Algorithm, digest, sig []byte) bool {
	if alg.PSS() {
		return rsa.VerifyPSS(pub, alg.Hash(), digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	}
	return rsa.VerifyPKCS1v15(pub, alg.Hash(), digest, sig) == nil
}

type hmacKey struct {
	cannot
	key []byte
}

func (k hmacKey) mac(h crypto.Hash, message []byte) []byte {
	m := hmac.New(h.New, k.key)
	m.Write(message)
	return m.Sum(nil)
}

func (k hmacKey) sign(alg keys.Algorithm, message []byte) ([]byte, error) {
	return k.mac(alg.Hash(), message), nil
}

func (k hmacKey) verify(alg keys.Algorithm, message, sig []byte) (bool, error) {
	return hmac.Equal(k.mac(alg.Hash(), message), sig), nil
}

type aesKey struct {
	cannot
	gcm cipher.AEAD
}

func (k aesKey) wrap(_ keys.Algorithm, key, aad []byte) (iv, wrapped []byte, err error) {
	iv = random(k.gcm.NonceSize())
	return iv, k.gcm.Seal(nil, iv, key, aad), nil
}

func (k aesKey) unwrap(_ keys.Algorithm, iv, wrapped, aad []byte) ([]byte, error) {
	if len(iv) != k.gcm.NonceSize() {
		return nil, keys.DecryptFailed()
	}
	key, err := k.gcm.Open(nil, iv, wrapped, aad)
	if err != nil {
		return nil, keys.DecryptFailed()
	}
	return key, nil
}

type oaepKey struct {
	cannot
	key *rsa.PrivateKey
}

func (k oaepKey) wrap(alg keys.Algorithm, key, _ []byte) (iv, wrapped []byte, err error) {
	if wrapped, err = rsa.EncryptOAEP(alg.Hash().New(), rand.Reader, &k.key.PublicKey, key, nil); err != nil {
		return nil, nil, fmt.Errorf("encrypting by RSA-OAEP: %w", err)
	}
	return nil, wrapped, nil
}

func (k oaepKey) unwrap(alg keys.Algorithm, iv, wrapped, _ []byte) ([]byte, error) {
	if len(iv) != 0 || len(wrapped) != k.key.Size() {
		return nil, keys.DecryptFailed()
	}
	key, err := rsa.DecryptOAEP(alg.Hash().New(), nil, k.key, wrapped, nil)
	if err != nil {
		return nil, keys.DecryptFailed()
	}
	return key, nil
}
