package client

import (
	"context"
	"crypto"
	"io"
	"strings"
	"sync/atomic"

	"keyhole/client/internal/public"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Decrypter is a crypto.Decrypter over an RSA-OAEP key.
//
// It opens whole messages: a compact JWE that anyone made offline from
// Public (or from the JWKS), or a ciphertext that the gateway made. It does
// not open a bare RSA-OAEP block: the gateway never hands out an unwrapped
// content key, so that no caller can use the HSM key as a padding oracle or
// keep content keys. Hybrid formats other than JWE (CMS, age) can therefore
// not be opened through it.
//
// Messages name the version that opens them, so a Decrypter made before a
// rotation goes on to open old and new ones; only Public grows old.
//
// A Decrypter is safe for concurrent use.
type Decrypter struct {
	client *Client
	key    string
	now    atomic.Pointer[public.Version]
}

var _ crypto.Decrypter = (*Decrypter)(nil)

// DecryptOptions go with Decrypter.Decrypt.
type DecryptOptions struct {
	// AAD is what the ciphertext was bound to; not for a JWE.
	AAD []byte
}

// Decrypter returns a crypto.Decrypter for an RSA-OAEP key. ctx is for this
// call only. Errors: those of Key, keys.ErrWrongPurpose (another kind of key;
// Client.Decrypt serves A256GCM keys), keys.ErrNoActiveVersion.
func (c *Client) Decrypter(ctx context.Context, key string) (*Decrypter, error) {
	d := &Decrypter{client: c, key: key}
	if err := d.Refresh(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// Refresh takes up the public key of the version that is active now.
func (d *Decrypter) Refresh(ctx context.Context) error {
	v, err := d.client.activeVersion(ctx, d.key)
	if err != nil {
		return err
	}
	if v.Algorithm.Purpose() != keys.PurposeEncrypt {
		return keys.Errorf(keys.ErrWrongPurpose, "key %q has the algorithm %s: it does not decrypt", d.key, v.Algorithm)
	}
	d.now.Store(v)
	return nil
}

// Public returns the *rsa.PublicKey to encrypt to, by the version that
// VersionID names: the "kid" that a JWE must carry.
func (d *Decrypter) Public() crypto.PublicKey { return d.now.Load().Key }

// VersionID returns the version that Public belongs to.
func (d *Decrypter) VersionID() keys.VersionID { return d.now.Load().ID }

// Algorithm returns the version's algorithm, the "alg" of a JWE.
func (d *Decrypter) Algorithm() keys.Algorithm { return d.now.Load().Algorithm }

// Decrypt implements crypto.Decrypter; see DecryptContext. It is bounded by
// the client's Timeout. The first argument is ignored.
func (d *Decrypter) Decrypt(_ io.Reader, msg []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	return d.DecryptContext(context.Background(), msg, opts)
}

// DecryptContext opens msg, the text of a compact JWE or of a kh1 ciphertext.
// opts is nil or *DecryptOptions; the options of package rsa describe bare
// RSA blocks and are keys.ErrInvalid.
func (d *Decrypter) DecryptContext(ctx context.Context, msg []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	var req api.DecryptRequest
	switch o := opts.(type) {
	case nil:
	case *DecryptOptions:
		if o != nil {
			req.AAD = o.AAD
		}
	default:
		return nil, keys.Errorf(keys.ErrInvalid, "options of type %T are for bare RSA blocks; this opens a compact JWE or a kh1 ciphertext, with nil or *client.DecryptOptions", opts)
	}
	text := string(msg)
	switch {
	case strings.HasPrefix(text, keys.EnvelopePrefix):
		req.Ciphertext = text
	case strings.Count(text, ".") == 4:
		req.JWE = text
	default:
		return nil, keys.Errorf(keys.ErrInvalid, "the message is neither a compact JWE nor a kh1 ciphertext; a bare RSA block cannot be opened")
	}
	res, err := d.client.Decrypt(ctx, d.key, req)
	if err != nil {
		return nil, err
	}
	return res.Plaintext, nil
}
