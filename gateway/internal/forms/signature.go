package forms

import (
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Signature is what a verify request says, in either of its forms.
type Signature struct {
	Version   uint32
	Bytes     []byte
	JWS       bool
	Algorithm string // of the JWS header
	Signed    []byte // the JWS signing input
}

// ParseSignature reads a verify request about the named key. The error is
// keys.ErrInvalid.
func ParseSignature(key string, in *api.VerifyRequest) (Signature, error) {
	if in.JWS == "" {
		switch {
		case in.Signature == nil:
			return Signature{}, keys.Errorf(keys.ErrInvalid, "send \"signature\" with \"payload\" or \"digest\", or \"jws\"")
		case in.Version == 0:
			return Signature{}, keys.Errorf(keys.ErrInvalid, "\"version\" is missing: the version that signed, as sign returned it")
		case in.Format != "" && in.Format != api.FormatRaw && in.Format != api.FormatDER:
			return Signature{}, keys.Errorf(keys.ErrInvalid, "unknown format %q; use raw or der, or send \"jws\"", Clip(in.Format))
		}
		return Signature{Version: in.Version, Bytes: in.Signature}, nil
	}
	if in.Signature != nil || in.Digest != nil || in.Hash != "" || in.Format != "" {
		return Signature{}, keys.Errorf(keys.ErrInvalid, "\"jws\" goes alone, or with the \"payload\" of a detached one")
	}
	jws, err := keys.ParseJWS(in.JWS, in.Payload)
	if err != nil {
		return Signature{}, err
	}
	id, err := keys.ParseVersionID(jws.Header.KeyID)
	if err != nil {
		return Signature{}, keys.Errorf(keys.ErrInvalid, "the JWS header has no \"kid\" such as %q", key+".v1")
	}
	if id.Key != key || in.Version != 0 && in.Version != id.Number {
		return Signature{}, keys.Errorf(keys.ErrInvalid, "the JWS names the version %s, not one asked for here", id)
	}
	return Signature{Version: id.Number, Bytes: jws.Signature, JWS: true, Algorithm: jws.Header.Algorithm, Signed: jws.SigningInput}, nil
}

// SignatureInput returns what the HSM signs: the digest, or the message for
// algorithms that take it whole. The error is keys.ErrInvalid.
func SignatureInput(alg keys.Algorithm, payload, digest []byte, hash string) ([]byte, error) {
	switch {
	case payload != nil && digest != nil:
		return nil, keys.Errorf(keys.ErrInvalid, "send \"payload\" or \"digest\", not both")
	case digest != nil:
		return digest, alg.CheckDigest(hash, digest)
	case payload == nil:
		return nil, keys.Errorf(keys.ErrInvalid, "\"payload\" is missing (an empty one is \"\")")
	case hash != "":
		return nil, keys.Errorf(keys.ErrInvalid, "\"hash\" goes with \"digest\"; a \"payload\" is hashed as the algorithm says")
	}
	return Digest(alg, payload), nil
}

// Digest hashes a message for the algorithms that sign digests; for others
// it is the message.
func Digest(alg keys.Algorithm, message []byte) []byte {
	if !alg.TakesDigest() {
		return message
	}
	h := alg.Hash().New()
	h.Write(message)
	return h.Sum(nil)
}
