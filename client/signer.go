package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

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
	now    atomic.Pointer[publicVersion]
}

var (
	_ crypto.Signer        = (*Signer)(nil)
	_ crypto.MessageSigner = (*Signer)(nil)
)

// publicVersion is an asymmetric version: what its users see of it.
type publicVersion struct {
	id  keys.VersionID
	alg keys.Algorithm
	pub crypto.PublicKey
}

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
	if v.alg.Purpose() != keys.PurposeSign {
		return keys.Errorf(keys.ErrWrongPurpose, "key %q has the algorithm %s: it does not sign", s.key, v.alg)
	}
	s.now.Store(v)
	return nil
}

// Public returns the public key: *ecdsa.PublicKey, *rsa.PublicKey or
// ed25519.PublicKey.
func (s *Signer) Public() crypto.PublicKey { return s.now.Load().pub }

// VersionID returns the version that Public belongs to, the kid of JWKS.
func (s *Signer) VersionID() keys.VersionID { return s.now.Load().id }

// Algorithm returns the version's algorithm.
func (s *Signer) Algorithm() keys.Algorithm { return s.now.Load().alg }

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
	if err := v.checkOpts(opts); err != nil {
		return nil, err
	}
	input := msg
	if h := v.alg.Hash(); h != 0 {
		w := h.New()
		w.Write(msg)
		input = w.Sum(nil)
	}
	return s.sign(context.Background(), v, input, opts)
}

// SignContext signs a digest, or with Ed25519 the message itself. opts must
// fit the key's algorithm: its hash, *rsa.PSSOptions for PS256 and its kin
// (the salt is as long as the hash, RFC 7518, 3.5), plain hashes for RS256
// and its kin. ECDSA signatures are ASN.1 DER. What does not fit is
// keys.ErrInvalid; nothing is sent then.
func (s *Signer) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	v := s.now.Load()
	if err := v.checkOpts(opts); err != nil {
		return nil, err
	}
	return s.sign(ctx, v, digest, opts)
}

func (s *Signer) sign(ctx context.Context, v *publicVersion, input []byte, opts crypto.SignerOpts) ([]byte, error) {
	req := api.SignRequest{Format: api.FormatDER}
	if v.alg.TakesDigest() {
		if err := v.alg.CheckDigest("", input); err != nil {
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
	if res.Version != v.id.Number {
		return nil, &RotatedError{Key: s.key, Have: v.id.Number, Got: res.Version}
	}
	if !v.verify(input, res.Signature) {
		return nil, keys.Errorf(keys.ErrInternal, "the gateway answered a signature that does not match the public key of %s", v.id)
	}
	return res.Signature, nil
}

// checkOpts refuses options that ask for another kind of signature than the
// version makes.
func (v *publicVersion) checkOpts(opts crypto.SignerOpts) error {
	if opts == nil {
		return keys.Errorf(keys.ErrInvalid, "signing by %s needs options that name its hash", v.alg)
	}
	if opts.HashFunc() != v.alg.Hash() {
		return keys.Errorf(keys.ErrInvalid, "%s signs with the hash %s, not %s", v.alg, hashName(v.alg.Hash()), hashName(opts.HashFunc()))
	}
	pss, isPSS := opts.(*rsa.PSSOptions)
	switch {
	case isPSS != v.alg.PSS():
		return keys.Errorf(keys.ErrInvalid, "%s is asked for the other RSA padding: *rsa.PSSOptions go with PS256, PS384 and PS512 only", v.alg)
	case isPSS && pss.SaltLength != rsa.PSSSaltLengthEqualsHash && pss.SaltLength != rsa.PSSSaltLengthAuto && pss.SaltLength != v.alg.Hash().Size():
		return keys.Errorf(keys.ErrInvalid, "%s has salts of %d bytes, not %d", v.alg, v.alg.Hash().Size(), pss.SaltLength)
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

// verify reports whether sig (ECDSA: DER) is v's over input, a digest or,
// for Ed25519, a message.
func (v *publicVersion) verify(input, sig []byte) bool {
	switch pub := v.pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(pub, input, sig)
	case ed25519.PublicKey:
		return ed25519.Verify(pub, input, sig)
	case *rsa.PublicKey:
		if v.alg.PSS() {
			return rsa.VerifyPSS(pub, v.alg.Hash(), input, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(pub, v.alg.Hash(), input, sig) == nil
	}
	return false
}

// activeVersion fetches the public side of a key's active version.
func (c *Client) activeVersion(ctx context.Context, key string) (*publicVersion, error) {
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
		out := &publicVersion{id: keys.VersionID{Key: key, Number: v.Version}, alg: keys.Algorithm(v.Algorithm)}
		if !out.alg.Known() {
			return nil, keys.Errorf(keys.ErrInternal, "this client is too old for the algorithm %.32q", v.Algorithm)
		}
		if !out.alg.Family().Asymmetric() {
			return nil, keys.Errorf(keys.ErrWrongPurpose, "key %q has the algorithm %s and no public key", key, out.alg)
		}
		if out.pub, err = parsePublic(v.PublicKey, out.alg); err != nil {
			return nil, fmt.Errorf("the public key of %s: %w", out.id, badAnswer(err))
		}
		return out, nil
	}
	return nil, keys.Errorf(keys.ErrInternal, "the gateway does not describe the active version %d of key %q", k.ActiveVersion, key)
}

func parsePublic(text string, alg keys.Algorithm) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	fits := false
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		bits, _ := alg.KeyBits(0)
		fits = alg.Family() == keys.FamilyEC && pub.Params().BitSize == bits
	case *rsa.PublicKey:
		fits = alg.Family() == keys.FamilyRSA
	case ed25519.PublicKey:
		fits = alg.Family() == keys.FamilyEd25519
	}
	if !fits {
		return nil, fmt.Errorf("a %T does not go with %s", pub, alg)
	}
	return pub, nil
}
