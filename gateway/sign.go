package gateway

import (
	"context"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/forms"
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
		input, err := forms.SignatureInput(v.Algorithm, in.Payload, in.Digest, in.Hash)
		if err != nil {
			return out, err
		}
		if err := o.count(ctx, v, keys.UseApply, o.rec.Size); err != nil {
			return out, err
		}
		if out.Signature, err = s.crypto.Sign(o.in(ctx), o.key.Ref(v), input); err != nil {
			return out, err
		}
		if in.Format == api.FormatDER && v.Algorithm.Family() == keys.FamilyEC {
			out.Signature, err = forms.ECDSAToDER(out.Signature)
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
		sig, err := s.crypto.Sign(o.in(ctx), o.key.Ref(v), forms.Digest(v.Algorithm, signing))
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
	sig, perr := forms.ParseSignature(o.rec.Key, in)
	if err := o.authorise(sig.Version); err != nil {
		return out, err
	}
	if perr != nil {
		return out, perr
	}
	if err := o.purpose(keys.PurposeSign); err != nil {
		return out, err
	}
	v, err := o.version(sig.Version)
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
	if sig.JWS && sig.Algorithm != string(v.Algorithm) {
		out.Reason = api.ReasonAlgorithm
		return out, nil
	}
	input := forms.Digest(v.Algorithm, sig.Signed)
	if !sig.JWS {
		if input, err = forms.SignatureInput(v.Algorithm, in.Payload, in.Digest, in.Hash); err != nil {
			return out, err
		}
	}
	raw := sig.Bytes
	if in.Format == api.FormatDER && v.Algorithm.Family() == keys.FamilyEC {
		if raw, err = forms.ECDSAFromDER(raw, v.Bits); err != nil {
			out.Reason = api.ReasonBadSignature // a malformed signature is a wrong one
			return out, nil
		}
	}
	if out.Valid, err = s.crypto.Verify(o.in(ctx), o.key.Ref(v), input, raw); err != nil {
		return out, err
	}
	if !out.Valid {
		// This is no use of the version: it would keep it from being destroyed.
		out.Reason = api.ReasonBadSignature
		return out, nil
	}
	return out, o.count(ctx, v, keys.UseProcess, o.rec.Size)
}
