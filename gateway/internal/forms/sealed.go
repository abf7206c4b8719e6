package forms

import (
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Sealed is a parsed ciphertext in either form; exactly one is set.
type Sealed struct {
	Version  keys.VersionID
	Envelope *keys.Envelope
	JWE      *keys.JWE
}

// ParseSealed reads a decrypt request about the named key. The error is
// keys.ErrInvalid or ErrMalformed.
func ParseSealed(key string, in *api.DecryptRequest) (Sealed, error) {
	var c Sealed
	var err error
	switch {
	case (in.Ciphertext == "") == (in.JWE == ""):
		return c, keys.Errorf(keys.ErrInvalid, "send exactly one of \"ciphertext\" and \"jwe\"")
	case in.Ciphertext != "":
		if c.Envelope, err = keys.ParseEnvelope(in.Ciphertext); err != nil {
			return c, err
		}
		c.Version = c.Envelope.Version
	case in.AAD != nil:
		return c, keys.Errorf(keys.ErrInvalid, "\"aad\" goes with \"ciphertext\"; a compact JWE carries its own")
	default:
		if c.JWE, err = keys.ParseJWE(in.JWE); err != nil {
			return c, err
		}
		if c.Version, err = keys.ParseVersionID(c.JWE.Header.KeyID); err != nil {
			return c, keys.Errorf(keys.ErrInvalid, "the JWE header has no \"kid\" such as %q", Clip(key)+".v1")
		}
	}
	if c.Version.Key != key {
		return c, keys.Errorf(keys.ErrInvalid, "the ciphertext was made by the version %s; it cannot be opened by key %q", c.Version, Clip(key))
	}
	return c, nil
}
