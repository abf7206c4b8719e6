package gateway

import (
	"context"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/forms"
	"keyhole/keys"
)

// Encrypt seals a plaintext under the key's active version.
func (s *Service) Encrypt(ctx context.Context, req Request, key string, in api.EncryptRequest) (api.EncryptResponse, error) {
	return guarded(ctx, s.open(req, authz.ActionEncrypt, key, len(in.Plaintext)),
		func(ctx context.Context, o *op) (api.EncryptResponse, error) { return s.encrypt(ctx, o, &in) })
}

func (s *Service) encrypt(ctx context.Context, o *op, in *api.EncryptRequest) (api.EncryptResponse, error) {
	var out api.EncryptResponse
	if err := o.authorise(0); err != nil {
		return out, err
	}
	if in.Plaintext == nil {
		return out, keys.Errorf(keys.ErrInvalid, "\"plaintext\" is missing (an empty one is \"\")")
	}
	v, ciphertext, err := s.seal(ctx, o, in.Plaintext, in.AAD)
	if err != nil {
		return out, err
	}
	return api.EncryptResponse{Key: o.key.Name, Version: v.Number, KeyID: o.rec.KeyID, Ciphertext: ciphertext}, nil
}

// seal makes an envelope under the active version: a fresh data key over the
// payload, wrapped by the HSM.
func (s *Service) seal(ctx context.Context, o *op, plaintext, aad []byte) (*keys.Version, string, error) {
	if err := o.purpose(keys.PurposeEncrypt); err != nil {
		return nil, "", err
	}
	v, err := o.active()
	if err != nil {
		return nil, "", err
	}
	if err := o.count(ctx, v, keys.UseApply, int64(len(plaintext))); err != nil {
		return nil, "", err
	}
	dataKey := keys.NewDataKey()
	defer clear(dataKey)
	env := keys.Envelope{Version: o.key.ID(v)}
	if env.WrapIV, env.WrappedKey, err = s.crypto.Wrap(o.in(ctx), o.key.Ref(v), dataKey, keys.WrapAAD(env.Version, aad)); err != nil {
		return nil, "", err
	}
	if err := env.SealPayload(dataKey, plaintext, aad); err != nil {
		return nil, "", err
	}
	return v, env.String(), nil
}

// Decrypt opens a ciphertext, or a compact JWE made from the published JWKS.
func (s *Service) Decrypt(ctx context.Context, req Request, key string, in api.DecryptRequest) (api.DecryptResponse, error) {
	return guarded(ctx, s.open(req, authz.ActionDecrypt, key, len(in.Ciphertext)+len(in.JWE)),
		func(ctx context.Context, o *op) (api.DecryptResponse, error) { return s.decrypt(ctx, o, &in) })
}

func (s *Service) decrypt(ctx context.Context, o *op, in *api.DecryptRequest) (api.DecryptResponse, error) {
	var out api.DecryptResponse
	sealed, perr := forms.ParseSealed(o.rec.Key, in)
	if err := o.authorise(sealed.Version.Number); err != nil {
		return out, err
	}
	if perr != nil {
		return out, perr
	}
	v, plaintext, err := s.unseal(ctx, o, sealed, in.AAD)
	if err != nil {
		return out, err
	}
	return api.DecryptResponse{
		Key: o.key.Name, Version: v.Number, KeyID: o.rec.KeyID, State: string(o.key.StateAt(v, o.now)), Plaintext: plaintext,
	}, nil
}

// unseal opens a ciphertext by the version it names.
func (s *Service) unseal(ctx context.Context, o *op, c forms.Sealed, aad []byte) (*keys.Version, []byte, error) {
	if err := o.purpose(keys.PurposeEncrypt); err != nil {
		return nil, nil, err
	}
	v, err := o.version(c.Version.Number)
	if err != nil {
		return nil, nil, err
	}
	if err := o.use(v, keys.UseProcess); err != nil {
		// What is archived or compromised opens for those who may recover.
		if o.use(v, keys.UseRecover) != nil || !o.mayRecover(v) {
			return nil, nil, err
		}
	}
	var iv, wrapped, wrapAAD []byte
	if c.Envelope != nil {
		iv, wrapped, wrapAAD = c.Envelope.WrapIV, c.Envelope.WrappedKey, keys.WrapAAD(c.Version, aad)
	} else {
		if c.JWE.Header.Algorithm != string(v.Algorithm) {
			return nil, nil, keys.Errorf(keys.ErrInvalid, "the JWE's \"alg\" is %s; the version %s has %s", c.JWE.Header.Algorithm, c.Version, v.Algorithm)
		}
		wrapped = c.JWE.EncryptedKey
	}
	if err := s.limits.OperationAllowed(o.req.Caller.ID); err != nil {
		return nil, nil, err
	}
	dataKey, err := s.crypto.Unwrap(o.in(ctx), o.key.Ref(v), iv, wrapped, wrapAAD)
	if err != nil {
		return nil, nil, err
	}
	defer clear(dataKey)
	var plaintext []byte
	if c.Envelope != nil {
		plaintext, err = c.Envelope.OpenPayload(dataKey, aad)
	} else {
		plaintext, err = c.JWE.Open(dataKey)
	}
	if err != nil {
		return nil, nil, err
	}
	// A ciphertext that does not open is no use of the version: it would keep
	// it from being destroyed.
	if err := o.count(ctx, v, keys.UseProcess, int64(len(plaintext))); err != nil {
		clear(plaintext)
		return nil, nil, err
	}
	return v, plaintext, nil
}

// Rewrap opens a ciphertext and seals the plaintext under the active
// version; the plaintext does not leave the gateway.
func (s *Service) Rewrap(ctx context.Context, req Request, key string, in api.RewrapRequest) (api.RewrapResponse, error) {
	return guarded(ctx, s.open(req, authz.ActionRewrap, key, len(in.Ciphertext)),
		func(ctx context.Context, o *op) (api.RewrapResponse, error) { return s.rewrap(ctx, o, &in) })
}

func (s *Service) rewrap(ctx context.Context, o *op, in *api.RewrapRequest) (api.RewrapResponse, error) {
	var out api.RewrapResponse
	sealed, perr := forms.ParseSealed(o.rec.Key, &api.DecryptRequest{Ciphertext: in.Ciphertext, AAD: in.AAD})
	if err := o.authorise(sealed.Version.Number); err != nil {
		return out, err
	}
	if perr != nil {
		return out, perr
	}
	from, plaintext, err := s.unseal(ctx, o, sealed, in.AAD)
	if err != nil {
		return out, err
	}
	defer clear(plaintext)
	v, ciphertext, err := s.seal(ctx, o, plaintext, in.AAD)
	if err != nil {
		return out, err
	}
	o.rec.FromVersion, o.rec.ToVersion = from.Number, v.Number
	return api.RewrapResponse{Key: o.key.Name, Version: v.Number, KeyID: o.rec.KeyID, FromVersion: from.Number, Ciphertext: ciphertext}, nil
}

// DataKey makes a data key in the HSM and seals it under the active version.
func (s *Service) DataKey(ctx context.Context, req Request, key string, in api.DataKeyRequest) (api.DataKeyResponse, error) {
	return guarded(ctx, s.open(req, authz.ActionDataKey, key, 0),
		func(ctx context.Context, o *op) (api.DataKeyResponse, error) { return s.dataKey(ctx, o, &in) })
}

func (s *Service) dataKey(ctx context.Context, o *op, in *api.DataKeyRequest) (api.DataKeyResponse, error) {
	var out api.DataKeyResponse
	if err := o.authorise(0); err != nil {
		return out, err
	}
	bits := in.Bits
	if bits == 0 {
		bits = 256
	}
	if bits != 128 && bits != 256 {
		return out, keys.Errorf(keys.ErrInvalid, "\"bits\" is %d; a data key has 128 or 256", bits)
	}
	if err := o.purpose(keys.PurposeEncrypt); err != nil {
		return out, err
	}
	dataKey, err := s.crypto.Random(o.in(ctx), o.key.Token, bits/8)
	if err != nil {
		return out, err
	}
	v, ciphertext, err := s.seal(ctx, o, dataKey, in.AAD)
	if err != nil {
		return out, err
	}
	o.rec.Size = int64(len(dataKey))
	out = api.DataKeyResponse{Key: o.key.Name, Version: v.Number, KeyID: o.rec.KeyID, Ciphertext: ciphertext}
	if in.Plaintext == nil || *in.Plaintext {
		out.Plaintext = dataKey
	} else {
		clear(dataKey)
	}
	return out, nil
}

// Random returns bytes from the HSM.
func (s *Service) Random(ctx context.Context, req Request, in api.RandomRequest) (api.RandomResponse, error) {
	return guarded(ctx, s.open(req, authz.ActionRandom, "", in.Bytes), func(ctx context.Context, o *op) (api.RandomResponse, error) {
		if err := o.decide(gatewayResource, ""); err != nil {
			return api.RandomResponse{}, err
		}
		if in.Bytes < 1 || in.Bytes > api.MaxRandom {
			o.rec.Size = 0
			return api.RandomResponse{}, keys.Errorf(keys.ErrInvalid, "\"bytes\" is %d; ask for 1 to %d", in.Bytes, api.MaxRandom)
		}
		b, err := s.crypto.Random(o.in(ctx), "", in.Bytes)
		return api.RandomResponse{Random: b}, err
	})
}
