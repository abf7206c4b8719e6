package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"github.com/miekg/pkcs11"
)

// token is the bare way to the HSM: sessions on miekg/pkcs11, nothing else.
type token struct {
	ctx  *pkcs11.Ctx
	slot uint
}

// openToken logs in to the one token that the SOFTHSM2_CONF of this process
// knows under label.
func openToken(module, label, pinFile string) (*token, error) {
	pin, err := os.ReadFile(pinFile)
	if err != nil {
		return nil, err
	}
	ctx := pkcs11.New(module)
	if ctx == nil {
		return nil, fmt.Errorf("%s cannot be loaded", module)
	}
	if err := ctx.Initialize(); err != nil {
		return nil, err
	}
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return nil, err
	}
	for _, slot := range slots {
		info, err := ctx.GetTokenInfo(slot)
		if err != nil || info.Label != label {
			continue
		}
		t := &token{ctx: ctx, slot: slot}
		s, err := t.session()
		if err != nil {
			return nil, err
		}
		return t, ctx.Login(s, pkcs11.CKU_USER, string(bytes.TrimSpace(pin)))
	}
	return nil, fmt.Errorf("there is no token %q", label)
}

func (t *token) session() (pkcs11.SessionHandle, error) {
	return t.ctx.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
}

// find returns the handle of the private or secret key with a label.
func (t *token) find(label string) (pkcs11.ObjectHandle, error) {
	s, err := t.session()
	if err != nil {
		return 0, err
	}
	defer func() { _ = t.ctx.CloseSession(s) }()
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY} {
		err := t.ctx.FindObjectsInit(s, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		})
		if err != nil {
			return 0, err
		}
		found, _, err := t.ctx.FindObjects(s, 2)
		if err = errors.Join(err, t.ctx.FindObjectsFinal(s)); err != nil {
			return 0, err
		}
		if len(found) == 1 {
			return found[0], nil
		}
	}
	return 0, fmt.Errorf("there is not exactly one key %q on the token", label)
}

// operation is what one rival does per operation, on a session of its own.
type operation func(s pkcs11.SessionHandle, payload []byte) ([]byte, error)

// sha256Prefix is the DigestInfo of SHA-256 (RFC 8017, 9.2, note 1).
var sha256Prefix = []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}

func (t *token) operation(name, label string) (operation, error) {
	key, err := t.find(label)
	if err != nil {
		return nil, err
	}
	sign := func(mechanism uint, prefix []byte) operation {
		mech := []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}
		return func(s pkcs11.SessionHandle, payload []byte) ([]byte, error) {
			digest := sha256.Sum256(payload)
			if err := t.ctx.SignInit(s, mech, key); err != nil {
				return nil, err
			}
			return t.ctx.Sign(s, append(prefix[:len(prefix):len(prefix)], digest[:]...))
		}
	}
	switch name {
	case "es256":
		return sign(pkcs11.CKM_ECDSA, nil), nil
	case "rs256":
		return sign(pkcs11.CKM_RSA_PKCS, sha256Prefix), nil
	case "encrypt":
		return func(s pkcs11.SessionHandle, payload []byte) ([]byte, error) { return t.envelope(s, key, payload) }, nil
	}
	return nil, fmt.Errorf("unknown operation %q", name)
}

// envelope does what the gateway does for one message: a fresh data key over
// the payload in Go, wrapped by the token.
func (t *token) envelope(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, payload []byte) ([]byte, error) {
	buf := make([]byte, 32+12+12)
	rand.Read(buf)
	dataKey, wrapIV, payloadIV := buf[:32], buf[32:44], buf[44:]
	aad := sha256.Sum256(nil)
	params := pkcs11.NewGCMParams(wrapIV, aad[:], 128)
	defer params.Free()
	if err := t.ctx.EncryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key); err != nil {
		return nil, err
	}
	wrapped, err := t.ctx.Encrypt(s, dataKey)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(dataKey)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	out := append(append([]byte{}, wrapIV...), wrapped...)
	return gcm.Seal(append(out, payloadIV...), payloadIV, payload, aad[:]), nil
}
