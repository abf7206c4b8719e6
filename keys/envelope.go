package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
)

// EnvelopePrefix begins every ciphertext.
const EnvelopePrefix = "kh1:"

// Sizes in an envelope, in bytes.
const (
	DataKeySize = 32 // AES-256
	gcmIVSize   = 12
	gcmTagSize  = 16

	maxWrapIV  = 16  // tokens that choose their own IV may use up to 16
	maxWrapped = 512 // RSA-4096
)

// Envelope is an encrypted payload: the data key wrapped by an HSM key, and
// the payload sealed by the data key with AES-256-GCM.
//
// Its text form is kh1:payments.v3:BASE64URL (no padding). The binary part is
//
//	1 byte   length of the wrap IV (0 for RSA-OAEP)
//	n bytes  wrap IV
//	2 bytes  length of the wrapped key, big endian
//	n bytes  wrapped key, with its GCM tag where the wrap has one
//	12 bytes payload IV
//	n bytes  payload, with its 16-byte GCM tag
type Envelope struct {
	Version    VersionID
	WrapIV     []byte
	WrappedKey []byte
	PayloadIV  []byte // 12 bytes
	Payload    []byte // ciphertext and tag
}

// String returns the text form.
func (e *Envelope) String() string {
	bin := make([]byte, 0, 3+len(e.WrapIV)+len(e.WrappedKey)+len(e.PayloadIV)+len(e.Payload))
	bin = append(bin, byte(len(e.WrapIV)))
	bin = append(bin, e.WrapIV...)
	bin = binary.BigEndian.AppendUint16(bin, uint16(len(e.WrappedKey)))
	bin = append(bin, e.WrappedKey...)
	bin = append(bin, e.PayloadIV...)
	bin = append(bin, e.Payload...)
	prefix := EnvelopePrefix + e.Version.String() + ":"
	text := make([]byte, len(prefix)+base64.RawURLEncoding.EncodedLen(len(bin)))
	copy(text, prefix)
	base64.RawURLEncoding.Encode(text[len(prefix):], bin)
	return string(text)
}

// ParseEnvelope reads what String wrote, and nothing else: one spelling per
// envelope. The error is ErrInvalid.
func ParseEnvelope(s string) (*Envelope, error) {
	rest, ok := strings.CutPrefix(s, EnvelopePrefix)
	id, body, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 {
		return nil, Errorf(ErrInvalid, "the ciphertext does not look like \"kh1:payments.v3:...\"")
	}
	version, err := ParseVersionID(id)
	if err != nil {
		return nil, err
	}
	// Go's decoder skips line breaks, which would make a second spelling.
	if strings.ContainsAny(body, "\r\n") {
		return nil, Errorf(ErrInvalid, "the ciphertext holds line breaks")
	}
	bin, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return nil, Errorf(ErrInvalid, "the ciphertext's last part is not base64url without padding")
	}
	e := &Envelope{Version: version}
	short := Errorf(ErrInvalid, "the ciphertext is cut short or damaged")
	take := func(n int) []byte {
		if n > len(bin) {
			n, ok = 0, false
		}
		part := bin[:n:n]
		bin = bin[n:]
		return part
	}
	if l := take(1); ok && int(l[0]) <= maxWrapIV {
		e.WrapIV = take(int(l[0]))
	} else {
		return nil, short
	}
	if l := take(2); ok && binary.BigEndian.Uint16(l) <= maxWrapped {
		e.WrappedKey = take(int(binary.BigEndian.Uint16(l)))
	} else {
		return nil, short
	}
	e.PayloadIV = take(gcmIVSize)
	if !ok || len(e.WrappedKey) == 0 || len(bin) < gcmTagSize {
		return nil, short
	}
	e.Payload = bin
	return e, nil
}

// WrapAAD is the additional data of the outer layer, the wrapped data key:
// SHA-256 over a label, the version id and the caller's aad, each behind its
// length. A digest, so that what goes into the HSM has one small size.
func WrapAAD(id VersionID, aad []byte) []byte {
	sum := sha256.Sum256(bindAAD("keyhole wrap", id, aad))
	return sum[:]
}

// bindAAD joins a layer's label, the envelope's prefix and the caller's aad
// without ambiguity: 8-byte big-endian lengths before each part.
func bindAAD(layer string, id VersionID, aad []byte) []byte {
	prefix := EnvelopePrefix + id.String()
	out := make([]byte, 0, 3*8+len(layer)+len(prefix)+len(aad))
	out = binary.BigEndian.AppendUint64(out, uint64(len(layer)))
	out = append(out, layer...)
	out = binary.BigEndian.AppendUint64(out, uint64(len(prefix)))
	out = append(out, prefix...)
	out = binary.BigEndian.AppendUint64(out, uint64(len(aad)))
	return append(out, aad...)
}

// NewDataKey returns 32 random bytes: the key of one message.
func NewDataKey() []byte {
	k := make([]byte, DataKeySize)
	rand.Read(k) // never fails (Go 1.24)
	return k
}

// SealPayload encrypts plaintext under dataKey into e, bound to e.Version
// and aad. dataKey has DataKeySize bytes and is used once.
func (e *Envelope) SealPayload(dataKey, plaintext, aad []byte) error {
	gcm, err := newGCM(dataKey)
	if err != nil {
		return err
	}
	e.PayloadIV = make([]byte, gcmIVSize)
	rand.Read(e.PayloadIV)
	e.Payload = gcm.Seal(nil, e.PayloadIV, plaintext, bindAAD("keyhole payload", e.Version, aad))
	return nil
}

// OpenPayload decrypts the payload. The error is ErrDecrypt, whatever was
// wrong.
func (e *Envelope) OpenPayload(dataKey, aad []byte) ([]byte, error) {
	gcm, err := newGCM(dataKey)
	if err != nil {
		return nil, errDecrypt
	}
	plaintext, err := gcm.Open(nil, e.PayloadIV, e.Payload, bindAAD("keyhole payload", e.Version, aad))
	if err != nil {
		return nil, errDecrypt
	}
	return plaintext, nil
}

// errDecrypt is the one answer to a ciphertext that does not open.
var errDecrypt = Errorf(ErrDecrypt, "the ciphertext does not open: it was changed, or the aad or the key is not the one it was made with")

// DecryptFailed returns the one error for a ciphertext that does not open,
// so that callers cannot tell which layer refused it.
func DecryptFailed() error { return errDecrypt }

func newGCM(key []byte) (cipher.AEAD, error) {
	if len(key) != DataKeySize {
		return nil, Errorf(ErrInvalid, "a data key has %d bytes, not %d", DataKeySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
