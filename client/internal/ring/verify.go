package ring

import (
	"keyhole/client/internal/public"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Signature is a verify request, read.
type Signature struct {
	ID keys.VersionID // who signed, as the request has it

	jws       *keys.JWS // nil: what follows
	sig       []byte
	der       bool
	payload   []byte
	digest    []byte
	hash      string
	algorithm string // of the JWS header
}

// Parse reads a verify request for a key, and refuses what the gateway
// would: keys.ErrInvalid.
func Parse(key string, in api.VerifyRequest) (*Signature, error) {
	if in.JWS != "" {
		return parseJWS(key, in)
	}
	s := &Signature{
		ID:  keys.VersionID{Key: key, Number: in.Version},
		sig: in.Signature, der: in.Format == api.FormatDER, payload: in.Payload, digest: in.Digest, hash: in.Hash,
	}
	switch {
	case in.Signature == nil:
		return nil, keys.Errorf(keys.ErrInvalid, "give a Signature with a Payload or Digest, or a JWS")
	case in.Version == 0:
		return nil, keys.Errorf(keys.ErrInvalid, "the Version is missing: the one that signed, as Sign returned it")
	case in.Format != "" && in.Format != api.FormatRaw && in.Format != api.FormatDER:
		return nil, keys.Errorf(keys.ErrInvalid, "unknown format %.32q; use raw or der, or give a JWS", in.Format)
	case (in.Payload == nil) == (in.Digest == nil):
		return nil, keys.Errorf(keys.ErrInvalid, "give either a Payload (an empty one is []byte{}) or a Digest")
	case in.Digest == nil && in.Hash != "":
		return nil, keys.Errorf(keys.ErrInvalid, "the Hash goes with a Digest; a Payload is hashed as the algorithm says")
	}
	return s, nil
}

func parseJWS(key string, in api.VerifyRequest) (*Signature, error) {
	if in.Signature != nil || in.Digest != nil || in.Hash != "" || in.Format != "" {
		return nil, keys.Errorf(keys.ErrInvalid, "a JWS goes alone, or with the Payload of a detached one")
	}
	jws, err := keys.ParseJWS(in.JWS, in.Payload)
	if err != nil {
		return nil, err
	}
	id, err := keys.ParseVersionID(jws.Header.KeyID)
	if err != nil {
		return nil, keys.Errorf(keys.ErrInvalid, "the JWS header has no \"kid\" such as %q", key+".v1")
	}
	if id.Key != key || in.Version != 0 && in.Version != id.Number {
		return nil, keys.Errorf(keys.ErrInvalid, "the JWS names the version %s, not one asked for here", id)
	}
	return &Signature{ID: id, jws: jws, sig: jws.Signature, algorithm: jws.Header.Algorithm}, nil
}

// Verify judges a signature by what is kept, as the gateway would: a good
// signature by a version that may not be trusted any more is not valid, and
// the answer says why. Errors: keys.ErrVersionNotFound (a version not kept),
// keys.ErrVersionState (an archived one: the gateway decides who may still
// use it), keys.ErrWrongPurpose (a key without public keys, or one that does
// not sign), keys.ErrInvalid.
func (r *Ring) Verify(s *Signature) (api.VerifyResponse, error) {
	out := api.VerifyResponse{Key: s.ID.Key, Version: s.ID.Number, KeyID: s.ID.String()}
	v, ok := r.Version(s.ID.Number)
	switch {
	case s.ID.Key == r.key && !ok && len(r.Versions()) == 0:
		return out, noPublicKey(s.ID)
	case s.ID.Key != r.key || !ok:
		return out, keys.Errorf(keys.ErrVersionNotFound, "no version %s is published", s.ID)
	}
	out.State = string(v.State)
	if v.Public != nil {
		out.Algorithm = string(v.Public.Algorithm)
	}
	switch v.State {
	case keys.Compromised, keys.Suspended, keys.DestroyScheduled, keys.Destroyed:
		out.Reason = string(v.State)
		return out, nil
	}
	if err := v.State.CheckUse(keys.UseProcess); err != nil {
		return out, err
	}
	if v.Public == nil || v.Public.Algorithm.Purpose() != keys.PurposeSign {
		return out, noPublicKey(s.ID)
	}
	holds, reason, err := s.holds(v.Public)
	if err != nil {
		return out, err
	}
	out.Valid, out.Reason = holds, reason
	return out, nil
}

func noPublicKey(id keys.VersionID) error {
	return keys.Errorf(keys.ErrWrongPurpose, "no public key to verify by is published for %s; ask the gateway, by Client.Verify", id)
}

func (s *Signature) holds(v *public.Version) (ok bool, reason string, err error) {
	var input []byte
	switch {
	case s.jws != nil && s.algorithm != string(v.Algorithm):
		return false, api.ReasonAlgorithm, nil
	case s.jws != nil:
		input = public.Input(v.Algorithm, s.jws.SigningInput)
	case s.digest != nil:
		if err := v.Algorithm.CheckDigest(s.hash, s.digest); err != nil {
			return false, "", err
		}
		input = s.digest
	default:
		input = public.Input(v.Algorithm, s.payload)
	}
	if s.der {
		ok = v.Verify(input, s.sig)
	} else {
		ok = v.VerifyRaw(input, s.sig)
	}
	if !ok {
		return false, api.ReasonBadSignature, nil
	}
	return true, "", nil
}
