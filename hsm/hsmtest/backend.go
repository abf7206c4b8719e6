// Package hsmtest is the contract of the key backends, as a suite: Run, which
// every backend passes. It also has two backends for tests in which a real
// token is not the point:
//
//   - Memory keeps its keys in this process and does the same cryptography
//     with Go's standard library. It passes the suite.
//   - Faulty makes chosen calls of another backend fail, fail after having
//     been done, or wait.
//
// The package needs no cgo. It is for tests only.
package hsmtest

import (
	"context"
	"time"

	"keyhole/keys"
)

// Backend is what the gateway (data plane) and the rotation engine
// (management plane) ask of an HSM, in one. All methods may be called
// concurrently, leave at the context's deadline, and never act on another
// key than the one that ref names.
type Backend interface {
	// Generate makes the objects of ref and reports what they are. It
	// refuses an ID or a label that exists, and leaves nothing behind when
	// it fails.
	Generate(ctx context.Context, ref keys.Ref) (keys.Generated, error)
	// Destroy removes the objects of ref, known by ID and label. It returns
	// nil when they are gone, also when they were gone before.
	Destroy(ctx context.Context, ref keys.Ref) error
	// Capable returns nil, or keys.ErrUnsupported.
	Capable(token string, alg keys.Algorithm) error
	DefaultToken() string
	HasToken(name string) bool
	Tokens() []string

	// List returns every key object on a token.
	List(ctx context.Context, token string) ([]keys.TokenObject, error)
	// Inspect reads and uses the objects of ref, which may leave out public
	// key and check value. Errors: keys.ErrNotFound, ErrInvalid (they are
	// not what ref says).
	Inspect(ctx context.Context, ref keys.Ref) (keys.Generated, error)
	// MarkRevoked leaves a mark that a version is compromised, once.
	MarkRevoked(ctx context.Context, ref keys.Ref, id keys.VersionID, at time.Time) error
	// Revoked returns the marks on a token.
	Revoked(ctx context.Context, token string) ([]keys.RevocationMark, error)
	// StoreKey returns 32 bytes that are the same for as long as the token
	// lives. keys.ErrNotFound: there is no key to make them by, and create
	// is false.
	StoreKey(ctx context.Context, create bool) ([]byte, error)

	// Sign signs a digest (EC, RSA) or message (EdDSA, HMAC). ECDSA
	// signatures are r||s of fixed width.
	Sign(ctx context.Context, ref keys.Ref, input []byte) ([]byte, error)
	// Verify judges a signature in the form that Sign returns.
	Verify(ctx context.Context, ref keys.Ref, input, sig []byte) (bool, error)
	// Wrap encrypts a data key; Unwrap undoes it and answers
	// keys.ErrDecrypt to anything that Wrap did not make. RSA-OAEP has no
	// IV and no place for aad (tokens lack its label): there the IV is
	// empty, aad is not bound, and whoever has the public key can wrap.
	Wrap(ctx context.Context, ref keys.Ref, key, aad []byte) (iv, wrapped []byte, err error)
	Unwrap(ctx context.Context, ref keys.Ref, iv, wrapped, aad []byte) ([]byte, error)
	// Random returns n bytes from the named token ("": the default one).
	Random(ctx context.Context, token string, n int) ([]byte, error)

	Close() error
}
