package mech

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/module"
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

// Check uses a fresh key once in both directions and returns
// keys.Version.Check for it. For mode see Wrap; spki is the encoded public key
// of key pairs.
func (k Key) Check(s *module.Session, mode string, spki []byte) ([]byte, error) {
	var check []byte
	switch k.Alg.Family() {
	case keys.FamilyAES:
		iv, wrapped, err := k.Wrap(s, mode, checkValue[:], checkAAD)
		if err != nil {
			return nil, err
		}
		check = append(append([]byte{byte(len(iv))}, iv...), wrapped...)
	case keys.FamilyHMAC:
		var err error
		if check, err = k.macCheck(s); err != nil {
			return nil, err
		}
	default:
		check = keys.PublicKeyCheck(spki)
	}
	return check, k.Prove(s, check)
}

func (k Key) macCheck(s *module.Session) ([]byte, error) {
	mac, err := k.Sign(s, checkLabel)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(mac)
	return sum[:], nil
}

// Prove uses the key once to show that it is the private half of k.Public, or
// the secret key that check was made by. The error is fault.ErrIdentity if it is
// not.
func (k Key) Prove(s *module.Session, check []byte) error {
	proved := false
	switch k.Alg.Family() {
	case keys.FamilyAES:
		iv, wrapped, ok := splitCheck(check)
		if !ok {
			break
		}
		value, err := k.Unwrap(s, iv, wrapped, checkAAD)
		if fault.DoesNotOpen(err) {
			break // it was made by another key
		}
		if err != nil {
			return err
		}
		proved = bytes.Equal(value, checkValue[:])
	case keys.FamilyHMAC:
		got, err := k.macCheck(s)
		if err != nil {
			return err
		}
		proved = hmac.Equal(got, check)
	case keys.FamilyRSA:
		if k.Alg.Purpose() == keys.PurposeEncrypt {
			return k.proveDecrypt(s)
		}
		fallthrough
	default:
		// A random digest, so that the signature is of no use to anybody.
		input := make([]byte, sha256.Size)
		if k.Alg.TakesDigest() {
			input = make([]byte, k.Alg.Hash().Size())
		}
		rand.Read(input) // never fails (Go 1.24)
		sig, err := k.Sign(s, input)
		if err != nil {
			return err
		}
		proved = k.Public.Verify(input, sig)
	}
	if !proved {
		return fmt.Errorf("a key of %s: %w", k.Alg, fault.ErrIdentity)
	}
	return nil
}

func (k Key) proveDecrypt(s *module.Session) error {
	want := keys.NewDataKey()
	wrapped, err := k.Public.Encrypt(want)
	if err != nil {
		return err
	}
	got, err := k.Unwrap(s, nil, wrapped, nil)
	if err != nil && !fault.DoesNotOpen(err) {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("a key of %s: %w", k.Alg, fault.ErrIdentity)
	}
	return nil
}

// splitCheck reads the check value of an AES key: the length of the IV, the
// IV, the wrapped checkValue.
func splitCheck(check []byte) (iv, wrapped []byte, ok bool) {
	if len(check) == 0 || int(check[0]) != gcmIVSize && int(check[0]) != maxGCMIV || len(check) != 1+int(check[0])+len(checkValue)+GCMTagSize {
		return nil, nil, false
	}
	return check[1 : 1+check[0]], check[1+check[0]:], true
}
