package client

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"io"
	"sync/atomic"

	"keyhole/client/internal/public"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Signer is a crypto.Signer (and crypto.MessageSigner) over a signing key:
// it works wherever the standard library takes one, such as
// x509.CreateCertificate and tls.Certificate.
//
// The gateway signs by whatever version is active, while a crypto.Signer has
// one public key. A Signer therefore holds the version that was active when
// it was made or last refreshed, and never returns a signature that does not
// match its Public: once the key has rotated, signing fails with a
// *RotatedError until Refresh is called. Certificates and whatever else was
// made for the old public key must be renewed with it, which is why this
// does not happen by itself. Code that can follow rotations should call
// Client.Sign, which returns the version with each signature.
//
// A Signer is safe for concurrent use.
type Signer struct {
	client *Client
	key    string
	now    atomic.Pointer[public.Version]
}

var (
	_ crypto.Signer        = (*Signer)(nil)
	_ crypto.MessageSigner = (*Signer)(nil)
)

// RotatedError says that a Signer's key was rotated. It is
// keys.ErrVersionState.
type RotatedError struct {
	Key  string
	Have uint32 // the version of the Signer's Public
	Got  uint32 // the version that signs now
}

func (e *RotatedError) Error() string {
	return fmt.Sprintf("key %q was rotated: this signer's public key is version %d, the gateway signs by version %d; call Refresh, and renew what was made for the old public key",
		e.Key, e.Have, e.Got)
}

// Unwrap returns keys.ErrVersionState.
func (e *RotatedError) Unwrap() error { return keys.ErrVersionState }

// Signer returns a crypto.Signer for the active version of an asymmetric
// signing key. ctx is for this call only. Errors: those of Key,
// keys.ErrWrongPurpose (an encryption or MAC key), keys.ErrNoActiveVersion.
func (c *Client) Signer(ctx context.Context, key string) (*Signer, error) {
	s := &Signer{client: c, key: key}
	if err := s.Refresh(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Refresh takes up the version that is active now. On an error the Signer
// stays as it was.
func (s *Signer) Refresh(ctx context.Context) error {
	v, err := s.client.activeVersion(ctx, s.key)
	if err != nil {
		return err
	}
	if v.Algorithm.Purpose() != keys.PurposeSign {
		return keys.Errorf(keys.ErrWrongPurpose, "key %q has the algorithm %s: it does not sign", s.key, v.Algorithm)
	}
	s.now.Store(v)
	return nil
}

// Public returns the public key: *ecdsa.PublicKey, *rsa.PublicKey or
// ed25519.PublicKey.
func (s *Signer) Public() crypto.PublicKey { return s.now.Load().Key }

// VersionID returns the version that Public belongs to, the kid of JWKS.
func (s *Signer) VersionID() keys.VersionID { return s.now.Load().ID }

// Algorithm returns the version's algorithm.
func (s *Signer) Algorithm() keys.Algorithm { return s.now.Load().Algorithm }

// Sign implements crypto.Signer; see SignContext. It is bounded by the
// client's Timeout. The first argument is ignored: the HSM has its own
// randomness.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.SignContext(context.Background(), digest, opts)
}

// SignMessage implements crypto.MessageSigner: it signs msg whole, hashed as
// the algorithm says. opts must name that hash, as for Sign.
func (s *Signer) SignMessage(_ io.Reader, msg []byte, opts crypto.SignerOpts) ([]byte, error) {
	v := s.now.Load()
	if err := checkOpts(v, opts); err != nil {
		return nil, err
	}
	return s.sign(context.Background(), v, public.Input(v.Algorithm, msg), opts)
}

// SignContext signs a digest, or with Ed25519 the message itself. opts must
// fit the key's algorithm: its hash, *rsa.PSSOptions for PS256 and its kin
// (the salt is as long as the hash, RFC 7518, 3.5), plain hashes for RS256
// and its kin. ECDSA signatures are ASN.1 DER. What does not fit is
// keys.ErrInvalid; nothing is sent then.
func (s *Signer) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	v := s.now.Load()
	if err := checkOpts(v, opts); err != nil {
		return nil, err
	}
	return s.sign(ctx, v, digest, opts)
}

func (s *Signer) sign(ctx context.Context, v *public.Version, input []byte, opts crypto.SignerOpts) ([]byte, error) {
	req := api.SignRequest{Format: api.FormatDER}
	if v.Algorithm.TakesDigest() {
		if err := v.Algorithm.CheckDigest("", input); err != nil {
			return nil, err
		}
		req.Digest = input
	} else {
		req.Payload = input
		if input == nil {
			req.Payload = []byte{} // an empty message is a message
		}
	}
	res, err := s.client.Sign(ctx, s.key, req)
	if err != nil {
		return nil, err
	}
	if res.Version != v.ID.Number {
		return nil, &RotatedError{Key: s.key, Have: v.ID.Number, Got: res.Version}
	}
	if !v.Verify(input, res.Signature) {
		return nil, keys.Errorf(keys.ErrInternal, "the gateway answered a signature that does not match the public key of %s", v.ID)
	}
	return res.Signature, nil
}

// checkOpts refuses options that ask for another kind of signature than the
// version makes.
func checkOpts(v *public.Version, opts crypto.SignerOpts) error {
	if opts == nil {
		return keys.Errorf(keys.ErrInvalid, "signing by %s needs options that name its hash", v.Algorithm)
	}
	if opts.HashFunc() != v.Algorithm.Hash() {
		return keys.Errorf(keys.ErrInvalid, "%s signs with the hash %s, not %s", v.Algorithm, hashName(v.Algorithm.Hash()), hashName(opts.HashFunc()))
	}
	pss, isPSS := opts.(*rsa.PSSOptions)
	switch {
	case isPSS != v.Algorithm.PSS():
		return keys.Errorf(keys.ErrInvalid, "%s is asked for the other RSA padding: *rsa.PSSOptions go with PS256, PS384 and PS512 only", v.Algorithm)
	case isPSS && pss.SaltLength != rsa.PSSSaltLengthEqualsHash && pss.SaltLength != rsa.PSSSaltLengthAuto && pss.SaltLength != v.Algorithm.Hash().Size():
		return keys.Errorf(keys.ErrInvalid, "%s has salts of %d bytes, not %d", v.Algorithm, v.Algorithm.Hash().Size(), pss.SaltLength)
	}
	if ed, ok := opts.(*ed25519.Options); ok && ed.Context != "" {
		return keys.Errorf(keys.ErrInvalid, "EdDSA is Ed25519 without a context here")
	}
	return nil
}

func hashName(h crypto.Hash) string {
	if h == 0 {
		return "none"
	}
	return h.String()
}

// activeVersion fetches the public side of a key's active version.
func (c *Client) activeVersion(ctx context.Context, key string) (*public.Version, error) {
	k, err := c.Key(ctx, key)
	if err != nil {
		return nil, err
	}
	if k.ActiveVersion == 0 {
		return nil, keys.Errorf(keys.ErrNoActiveVersion, "key %q has no active version", key)
	}
	for _, v := range k.Versions {
		if v.Version != k.ActiveVersion {
			continue
		}
		out := &public.Version{ID: keys.VersionID{Key: key, Number: v.Version}, Algorithm: keys.Algorithm(v.Algorithm)}
		if !out.Algorithm.Known() {
			return nil, keys.Errorf(keys.ErrInternal, "this client is too old for the algorithm %.32q", v.Algorithm)
		}
		if !out.Algorithm.Family().Asymmetric() {
			return nil, keys.Errorf(keys.ErrWrongPurpose, "key %q has the algorithm %s and no public key", key, out.Algorithm)
		}
		if out.Key, err = public.ParsePEM(v.PublicKey, out.Algorithm); err != nil {
			return nil, fmt.Errorf("the public key of %s: %w", out.ID, badAnswer(err))
		}
		return out, nil
	}
	return nil, keys.Errorf(keys.ErrInternal, "the gateway does not describe the active version %d of key %q", k.ActiveVersion, key)
}
