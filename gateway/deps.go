package gateway

import (
	"context"
	"log/slog"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/tail"
	"keyhole/gateway/internal/twopeople"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/rotation/lease"
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
// configured staleness, else keys.ErrStale. Snapshot takes no lock.
type Snapshots interface {
	Snapshot() (*store.Snapshot, error)
	// Refresh brings what was committed before the call into the snapshot.
	Refresh(ctx context.Context) error
	// Changed returns a channel that is closed when a newer revision than
	// that of the snapshot is in it. The snapshot had everything that was
	// committed before the revision that the channel belongs to.
	Changed() <-chan struct{}
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
	Suspend(ctx context.Context, a rotation.Actor, name string, n uint32, note string) (*keys.Key, error)
	Resume(ctx context.Context, a rotation.Actor, name string, n uint32, note string) (*keys.Key, error)
	Revoke(ctx context.Context, a rotation.Actor, name string, n uint32, note string) (*keys.Key, error)

	// Rotate returns as soon as the rotation has to wait for something.
	Rotate(ctx context.Context, a rotation.Actor, name string, s rotation.RotateSpec) (*keys.Rotation, error)
	ActivateRotation(ctx context.Context, a rotation.Actor, id, note string) (*keys.Rotation, error)
	AbortRotation(ctx context.Context, a rotation.Actor, id, note string) (*keys.Rotation, error)
	Rotation(ctx context.Context, id string) (*keys.Rotation, error)
	Rotations(ctx context.Context, f store.RotationFilter) ([]*keys.Rotation, error)
	Progress(ctx context.Context, r *keys.Rotation) (rotation.Progress, error)
	// NextRotation returns when the policy has the key rotated by time; zero:
	// never.
	NextRotation(k *keys.Key) time.Time

	// Destroy and DeleteKey order destructions. An approval in the spec is
	// done in the same transaction.
	Destroy(ctx context.Context, a rotation.Actor, name string, n uint32, s rotation.DestroySpec) (*keys.Key, error)
	DeleteKey(ctx context.Context, a rotation.Actor, name string, s rotation.DestroySpec) (*keys.Key, error)
	Restore(ctx context.Context, a rotation.Actor, name string, n uint32, note string) (*keys.Key, error)
	RestoreKey(ctx context.Context, a rotation.Actor, name, note string) (*keys.Key, error)
	// Objections returns what speaks against the destruction of a version.
	Objections(ctx context.Context, k *keys.Key, n uint32) ([]string, error)

	Reconcile(ctx context.Context, a rotation.Actor, dryRun bool) (rotation.Report, error)
}

// Usage counts what versions are used for. When Count or CountWrap returns
// nil, what is counted outlives a crash.
type Usage interface {
	Count(ctx context.Context, key string, version uint32, principal string, use keys.Use, bytes int) error
	// CountWrap is Count of an encryption under random 96-bit IVs, of which a
	// version does keys.MaxWraps and no more: keys.ErrVersionState.
	CountWrap(ctx context.Context, key string, version uint32, principal string, bytes int) error
	// Seen notes that a principal was authenticated; it does no I/O.
	Seen(principal string, at time.Time)
	// ByAgent returns the counters of a key by version and principal.
	ByAgent(ctx context.Context, key string) ([]keys.Usage, error)
}

// Attempts remembers idempotent requests and what they left behind. Of any
// number of BeginAttempt calls for one principal and key at most one is
// answered nil, nil.
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

// Agents keeps who was seen, blocked and subscribed, and who has
// acknowledged what.
type Agents interface {
	Agent(ctx context.Context, id string) (*keys.Agent, error)
	Agents(ctx context.Context, f store.AgentFilter) ([]*keys.Agent, error)
	BlockAgent(ctx context.Context, principal string, b *keys.Block) error
	Subscribe(ctx context.Context, s keys.Subscription) (keys.Subscription, error)
	Unsubscribe(ctx context.Context, key, principal string) error
	Subscriptions(ctx context.Context, key, principal string) ([]keys.Subscription, error)
	Acknowledge(ctx context.Context, a keys.Ack) (keys.Ack, error)
	Acks(ctx context.Context, key string, version uint32, principal string) ([]keys.Ack, error)
}

// Store keeps what is no key. The guarantees are those of store.Store: what a
// method wrote is durable when it returns nil.
type Store interface {
	Attempts
	Agents
	twopeople.Store
	tail.Store
	lease.Store
	Nodes
}

// Webhooks are the endpoints to which events are delivered.
type Webhooks interface {
	List(ctx context.Context) ([]api.Webhook, error)
	// Retry sends again what an endpoint did not take. Errors: keys.ErrNotFound.
	Retry(ctx context.Context, name string) (api.Webhook, error)
}

// Trigger is what a named trigger rotates, and why.
type Trigger struct {
	Keys   []string
	Reason keys.Reason
}

// Config is what a Service needs. What has no default and is not optional is
// required.
type Config struct {
	Crypto        Crypto
	Snapshots     Snapshots
	Audit         Auditor
	Policy        Decider
	Authenticator Authenticator
	Lifecycle     Lifecycle
	Usage         Usage
	Store         Store
	Limits        *authz.Limiter     // nil: none
	Webhooks      Webhooks           // nil: none are configured
	AuditLog      AuditLog           // nil: it is not shown
	Triggers      map[string]Trigger // by name
	Instance      string             // keys.Node.Instance of this process; who has its leases
	// TwoPeople are the actions that need another person's approval. nil:
	// DefaultTwoPeople; none if it is empty and not nil. What overrides
	// objections always needs it.
	TwoPeople    []string
	ApprovalLife time.Duration    // how long an approval can be given (default 24h)
	Streams      int              // event streams of one principal at one time (default 256)
	Draining     <-chan struct{}  // ends every event stream when it is closed; nil: never
	Now          func() time.Time // default time.Now
	Log          *slog.Logger     // default slog.Default()
	Parallel     int              // HSM operations of one batch at a time (default 4)
	AuditTimeout time.Duration    // longest wait for a durable record (default 10s)
}

// DefaultTwoPeople are the actions that need another person's approval unless
// the configuration says otherwise. There are no others that could.
func DefaultTwoPeople() []string { return []string{authz.ActionDestroy, authz.ActionDeleteKey} }
