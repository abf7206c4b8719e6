package hsm

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/public"
	"keyhole/keys"
)

// How Keyhole knows a secret key again: its check value (keys.Version.Check),
// made once after generation and compared whenever a handle is found again.
//
// HMAC: SHA-256 of the key's MAC over checkLabel. Hashed once more, so that
// the store holds no valid MAC.
//
// AES: checkValue, which is public, wrapped by the key itself. A block
// encrypted by CKM_AES_ECB, the usual check value, would need a second
// mechanism, and the usual block of zeros encrypts to GHASH's secret H;
// AES-GCM under a fixed IV would reuse that IV at each check. Wrapped once
// under a random IV it is one of the 2^32 wraps that a version may do, each
// check is a decryption, and it works however the token makes its IVs.
var (
	checkLabel = []byte("keyhole check value of a MAC key")
	checkValue = sha256.Sum256([]byte("keyhole check value of a wrapping key"))
	checkAAD   = []byte("keyhole check value")
)

// handle is an object that was found, with what it must be.
type handle struct {
	key  pkcs11.ObjectHandle
	alg  keys.Algorithm
	bits int
	pub  *public.Key // nil for secret keys
}

// makeCheck uses a fresh key once in both directions and returns
// keys.Version.Check for it.
func (t *token) makeCheck(s *session, h handle, spki []byte) ([]byte, error) {
	var check []byte
	switch h.alg.Family() {
	case keys.FamilyAES:
		iv, wrapped, err := t.wrapKey(s, h.key, checkValue[:], checkAAD)
		if err != nil {
			return nil, err
		}
		check = append(append([]byte{byte(len(iv))}, iv...), wrapped...)
	case keys.FamilyHMAC:
		var err error
		if check, err = t.macCheck(s, h); err != nil {
			return nil, err
		}
	default:
		check = keys.PublicKeyCheck(spki)
	}
	return check, t.prove(s, h, check)
}

func (t *token) macCheck(s *session, h handle) ([]byte, error) {
	mac, err := t.sign(s, h.key, h.alg, h.bits, checkLabel)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(mac)
	return sum[:], nil
}

// prove uses the key once to show that it is the private half of h.pub, or
// the secret key that check was made by. The error is fault.ErrIdentity if it is
// not.
func (t *token) prove(s *session, h handle, check []byte) error {
	proved := false
	switch h.alg.Family() {
	case keys.FamilyAES:
		iv, wrapped, ok := splitCheck(check)
		if !ok {
			break
		}
		value, err := t.unwrapKey(s, h.key, iv, wrapped, checkAAD)
		if fault.DoesNotOpen(err) {
			break // it was made by another key
		}
		if err != nil {
			return err
		}
		proved = bytes.Equal(value, checkValue[:])
	case keys.FamilyHMAC:
		got, err := t.macCheck(s, h)
		if err != nil {
			return err
		}
		proved = hmac.Equal(got, check)
	case keys.FamilyRSA:
		if h.alg.Purpose() == keys.PurposeEncrypt {
			return t.proveDecrypt(s, h)
		}
		fallthrough
	default:
		// A random digest, so that the signature is of no use to anybody.
		input := make([]byte, sha256.Size)
		if h.alg.TakesDigest() {
			input = make([]byte, h.alg.Hash().Size())
		}
		rand.Read(input) // never fails (Go 1.24)
		sig, err := t.sign(s, h.key, h.alg, h.bits, input)
		if err != nil {
			return err
		}
		proved = h.pub.Verify(input, sig)
	}
	if !proved {
		return fmt.Errorf("a key of %s: %w", h.alg, fault.ErrIdentity)
	}
	return nil
}

func (t *token) proveDecrypt(s *session, h handle) error {
	want := keys.NewDataKey()
	wrapped, err := h.pub.Encrypt(want)
	if err != nil {
		return err
	}
	got, err := t.decrypt(s, h.key, oaepMechanism(h.alg), wrapped)
	if err != nil && !fault.DoesNotOpen(err) {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("a key of %s: %w", h.alg, fault.ErrIdentity)
	}
	return nil
}

// splitCheck reads the check value of an AES key: the length of the IV, the
// IV, the wrapped checkValue.
func splitCheck(check []byte) (iv, wrapped []byte, ok bool) {
	if len(check) == 0 || int(check[0]) != gcmIVSize && int(check[0]) != maxGCMIV || len(check) != 1+int(check[0])+len(checkValue)+gcmTagSize {
		return nil, nil, false
	}
	return check[1 : 1+check[0]], check[1+check[0]:], true
}
