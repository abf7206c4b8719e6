package gateway

import (
	"context"
	"log/slog"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// Crypto is the data plane of the HSM. Implementations are safe for
// concurrent use, leave at the context's deadline, and never answer with
// another key than the one that ref names.
type Crypto interface {
	// Sign signs a digest (EC, RSA) or message (EdDSA, HMAC). ECDSA
	// signatures are r||s of fixed width.
	Sign(ctx context.Context, ref keys.Ref, input []byte) ([]byte, error)
	// Verify judges a signature in the form that Sign returns.
	Verify(ctx context.Context, ref keys.Ref, input, sig []byte) (bool, error)
	// Wrap encrypts a data key; Unwrap undoes it and answers
	// keys.ErrDecrypt to anything that Wrap did not make.
	Wrap(ctx context.Context, ref keys.Ref, key, aad []byte) (iv, wrapped []byte, err error)
	Unwrap(ctx context.Context, ref keys.Ref, iv, wrapped, aad []byte) ([]byte, error)
	// Random returns n bytes from the named token ("": the default one).
	Random(ctx context.Context, token string, n int) ([]byte, error)
}

// Snapshots serves the keys as of a moment not longer ago than the
// configured staleness, else keys.ErrStale. It takes no lock.
type Snapshots interface {
	Snapshot() (*store.Snapshot, error)
}

// Auditor records. Append returns nil only when the records are durable.
type Auditor interface {
	Append(ctx context.Context, recs ...audit.Record) (first uint64, err error)
}

// Decider is the policy: pure, immediate, deny by default.
type Decider interface {
	Decide(authz.Request) authz.Decision
}

// Authenticator finds out who calls. Its error is keys.ErrUnauthenticated
// with a generic detail, and an *authz.Failure with the precise reason.
type Authenticator interface {
	Authenticate(ctx context.Context, c authz.Credentials) (authz.Principal, error)
}

// Lifecycle changes keys; it records intent and outcome itself.
type Lifecycle interface {
	CreateKey(ctx context.Context, a rotation.Actor, s rotation.Spec) (*keys.Key, error)
	UpdateKey(ctx context.Context, a rotation.Actor, name string, u rotation.Update) (*keys.Key, error)
	Rotate(ctx context.Context, a rotation.Actor, name string, s rotation.RotateSpec) (*keys.Rotation, error)
	Suspend(ctx context.Context, a rotation.Actor, name string, n uint32, note string) (*keys.Key, error)
	Resume(ctx context.Context, a rotation.Actor, name string, n uint32, note string) (*keys.Key, error)
	Revoke(ctx context.Context, a rotation.Actor, name string, n uint32, note string) (*keys.Key, error)
	Rotation(ctx context.Context, id string) (*keys.Rotation, error)
	Rotations(ctx context.Context, f store.RotationFilter) ([]*keys.Rotation, error)
}

// Attempts remembers idempotent requests and what they left behind. Its
// guarantees are those of store.Store: what a method wrote is durable when
// it returns nil, and of any number of BeginAttempt calls for one principal
// and key at most one is answered nil, nil.
type Attempts interface {
	BeginAttempt(ctx context.Context, a store.Attempt) (existing *store.Attempt, err error)
	FinishAttempt(ctx context.Context, principal, key string, status int, body []byte) error
	ForgetAttempt(ctx context.Context, principal, key string) error
	ExpireAttempts(ctx context.Context, before time.Time) (int, error)
	// RotationByRequest returns the newest rotation that a request began, or
	// keys.ErrNotFound.
	RotationByRequest(ctx context.Context, requestID string) (*keys.Rotation, error)
	// Key returns a key as of now, past any snapshot, or keys.ErrKeyNotFound.
	Key(ctx context.Context, name string) (*keys.Key, error)
}

// Config is what a Service needs. Now, Log, Parallel and AuditTimeout have
// defaults; everything else is required.
type Config struct {
	Crypto        Crypto
	Snapshots     Snapshots
	Audit         Auditor
	Policy        Decider
	Authenticator Authenticator
	Lifecycle     Lifecycle
	Attempts      Attempts
	Limits        *authz.Limiter
	Now           func() time.Time // default time.Now
	Log           *slog.Logger     // default slog.Default()
	Parallel      int              // HSM operations of one batch at a time (default 4)
	AuditTimeout  time.Duration    // longest wait for a durable record (default 10s)
}
