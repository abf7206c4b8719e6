package gateway

import (
	"bytes"
	"context"
	"encoding/asn1"
	"math/big"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Sign signs by the key's active version.
func (s *Service) Sign(ctx context.Context, req Request, key string, in api.SignRequest) (api.SignResponse, error) {
	return guarded(ctx, s.open(req, authz.ActionSign, key, len(in.Payload)+len(in.Digest)),
		func(ctx context.Context, o *op) (api.SignResponse, error) { return s.sign(ctx, o, &in) })
}

func (s *Service) sign(ctx context.Context, o *op, in *api.SignRequest) (api.SignResponse, error) {
	var out api.SignResponse
	if err := o.authorise(0); err != nil {
		return out, err
	}
	if err := o.purpose(keys.PurposeSign); err != nil {
		return out, err
	}
	v, err := o.active()
	if err != nil {
		return out, err
	}
	id := o.key.ID(v)
	out = api.SignResponse{Key: o.key.Name, Version: v.Number, KeyID: o.rec.KeyID, Algorithm: string(v.Algorithm)}
	switch in.Format {
	case "", api.FormatRaw, api.FormatDER:
		input, err := signatureInput(v.Algorithm, in.Payload, in.Digest, in.Hash)
		if err != nil {
			return out, err
		}
		if err := o.count(ctx, v, keys.UseApply, o.rec.Size); err != nil {
			return out, err
		}
		if out.Signature, err = s.crypto.Sign(ctx, o.key.Ref(v), input); err != nil {
			return out, err
		}
		if in.Format == api.FormatDER && v.Algorithm.Family() == keys.FamilyEC {
			out.Signature, err = ecdsaDER(out.Signature)
		}
		return out, err
	case api.FormatJWS, api.FormatJWSDetached:
		if in.Payload == nil || in.Digest != nil || in.Hash != "" {
			return out, keys.Errorf(keys.ErrInvalid, "the format %q needs \"payload\", and no \"digest\" or \"hash\"", in.Format)
		}
		if err := o.count(ctx, v, keys.UseApply, o.rec.Size); err != nil {
			return out, err
		}
		signing := keys.SigningInput(v.Algorithm, id, in.Payload)
		sig, err := s.crypto.Sign(ctx, o.key.Ref(v), digestOf(v.Algorithm, signing))
		if err != nil {
			return out, err
		}
		out.JWS = keys.CompactJWS(signing, sig, in.Format == api.FormatJWSDetached)
		return out, nil
	}
	return out, keys.Errorf(keys.ErrInvalid, "unknown format %q; use raw, der, jws or jws-detached", clip(in.Format))
}

// Verify judges a signature. A signature by a version that may not be
// trusted any more is not valid, whatever its bytes.
func (s *Service) Verify(ctx context.Context, req Request, key string, in api.VerifyRequest) (api.VerifyResponse, error) {
	return guarded(ctx, s.open(req, authz.ActionVerify, key, len(in.Payload)+len(in.Digest)+len(in.JWS)),
		func(ctx context.Context, o *op) (api.VerifyResponse, error) { return s.verify(ctx, o, &in) })
}

func (s *Service) verify(ctx context.Context, o *op, in *api.VerifyRequest) (out api.VerifyResponse, err error) {
	defer func() {
		if err == nil {
			o.rec.Reason = out.Reason // why the signature is not valid
		}
	}()
	sig, perr := parseSignature(o.rec.Key, in)
	if err := o.authorise(sig.version); err != nil {
		return out, err
	}
	if perr != nil {
		return out, perr
	}
	if err := o.purpose(keys.PurposeSign); err != nil {
		return out, err
	}
	v, err := o.version(sig.version)
	if err != nil {
		return out, err
	}
	o.name(v)
	state := o.key.StateAt(v, o.now)
	out = api.VerifyResponse{Key: o.key.Name, Version: v.Number, KeyID: o.rec.KeyID, Algorithm: string(v.Algorithm), State: string(state)}
	switch state {
	case keys.Compromised, keys.Suspended, keys.DestroyScheduled, keys.Destroyed:
		out.Reason = string(state)
		return out, nil
	case keys.Archived:
		if !o.mayRecover(v) {
			return out, state.CheckUse(keys.UseProcess)
		}
	}
	if sig.jws && sig.algorithm != string(v.Algorithm) {
		out.Reason = api.ReasonAlgorithm
		return out, nil
	}
	input := digestOf(v.Algorithm, sig.signed)
	if !sig.jws {
		if input, err = signatureInput(v.Algorithm, in.Payload, in.Digest, in.Hash); err != nil {
			return out, err
		}
	}
	raw := sig.bytes
	if in.Format == api.FormatDER && v.Algorithm.Family() == keys.FamilyEC {
		if raw, err = ecdsaRaw(raw, v.Bits); err != nil {
			out.Reason = api.ReasonBadSignature // a malformed signature is a wrong one
			return out, nil
		}
	}
	if out.Valid, err = s.crypto.Verify(ctx, o.key.Ref(v), input, raw); err != nil {
		return out, err
	}
	if err := o.count(ctx, v, keys.UseProcess, o.rec.Size); err != nil {
		return out, err
	}
	if !out.Valid {
		out.Reason = api.ReasonBadSignature
	}
	return out, nil
}

// signature is what a verify request says, in either of its forms.
type signature struct {
	version   uint32
	bytes     []byte
	jws       bool
	algorithm string // of the JWS header
	signed    []byte // the JWS signing input
}

func parseSignature(key string, in *api.VerifyRequest) (signature, error) {
	if in.JWS == "" {
		switch {
		case in.Signature == nil:
			return signature{}, keys.Errorf(keys.ErrInvalid, "send \"signature\" with \"payload\" or \"digest\", or \"jws\"")
		case in.Version == 0:
			return signature{}, keys.Errorf(keys.ErrInvalid, "\"version\" is missing: the version that signed, as sign returned it")
		case in.Format != "" && in.Format != api.FormatRaw && in.Format != api.FormatDER:
			return signature{}, keys.Errorf(keys.ErrInvalid, "unknown format %q; use raw or der, or send \"jws\"", clip(in.Format))
		}
		return signature{version: in.Version, bytes: in.Signature}, nil
	}
	if in.Signature != nil || in.Digest != nil || in.Hash != "" || in.Format != "" {
		return signature{}, keys.Errorf(keys.ErrInvalid, "\"jws\" goes alone, or with the \"payload\" of a detached one")
	}
	jws, err := keys.ParseJWS(in.JWS, in.Payload)
	if err != nil {
		return signature{}, err
	}
	id, err := keys.ParseVersionID(jws.Header.KeyID)
	if err != nil {
		return signature{}, keys.Errorf(keys.ErrInvalid, "the JWS header has no \"kid\" such as %q", key+".v1")
	}
	if id.Key != key || in.Version != 0 && in.Version != id.Number {
		return signature{}, keys.Errorf(keys.ErrInvalid, "the JWS names the version %s, not one asked for here", id)
	}
	return signature{version: id.Number, bytes: jws.Signature, jws: true, algorithm: jws.Header.Algorithm, signed: jws.SigningInput}, nil
}

// signatureInput returns what the HSM signs: the digest, or the message for
// algorithms that take it whole.
func signatureInput(alg keys.Algorithm, payload, digest []byte, hash string) ([]byte, error) {
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
	return digestOf(alg, payload), nil
}

// digestOf hashes a message for the algorithms that sign digests.
func digestOf(alg keys.Algorithm, message []byte) []byte {
	if !alg.TakesDigest() {
		return message
	}
	h := alg.Hash().New()
	h.Write(message)
	return h.Sum(nil)
}

// ecdsaSignature is ECDSA-Sig-Value (RFC 3279, 2.2.3).
type ecdsaSignature struct{ R, S *big.Int }

// ecdsaDER turns r||s into DER.
func ecdsaDER(raw []byte) ([]byte, error) {
	half := len(raw) / 2
	return asn1.Marshal(ecdsaSignature{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}

// ecdsaRaw turns DER into r||s, each as wide as a curve of the given bits.
// Only the one DER spelling is taken.
func ecdsaRaw(der []byte, bits int) ([]byte, error) {
	bad := keys.Errorf(keys.ErrInvalid, "the signature is not a DER ECDSA signature")
	var sig ecdsaSignature
	rest, err := asn1.Unmarshal(der, &sig)
	width := (bits + 7) / 8
	if err != nil || len(rest) != 0 || sig.R == nil || sig.S == nil || sig.R.Sign() <= 0 || sig.S.Sign() <= 0 ||
		sig.R.BitLen() > 8*width || sig.S.BitLen() > 8*width {
		return nil, bad
	}
	// asn1 lets more elements follow in the sequence.
	if canonical, err := asn1.Marshal(sig); err != nil || !bytes.Equal(canonical, der) {
		return nil, bad
	}
	raw := make([]byte, 2*width)
	sig.R.FillBytes(raw[:width])
	sig.S.FillBytes(raw[width:])
	return raw, nil
}
