package rotation

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/audit"
	"keyhole/keys"
	"keyhole/rotation/internal/barrier"
	"keyhole/rotation/lease"
	"keyhole/store"
)

// Store is where keys and rotations are kept, and what agents say. Its
// guarantees are those of store.Store: each Commit is durable when it returns
// nil, atomic, and refused with keys.ErrConflict when the key's epoch has
// moved on; a second open rotation of a key is refused with
// keys.ErrRotationRunning.
type Store interface {
	Commit(ctx context.Context, c store.Change) error
	Key(ctx context.Context, name string) (*keys.Key, error)
	Rotation(ctx context.Context, id string) (*keys.Rotation, error)
	Rotations(ctx context.Context, f store.RotationFilter) ([]*keys.Rotation, error)
	// Subscriptions and Acks are those of one key, or of one of its versions.
	Subscriptions(ctx context.Context, key, principal string) ([]keys.Subscription, error)
	Acks(ctx context.Context, key string, version uint32, principal string) ([]keys.Ack, error)
	// Agent returns the agent with the given keys.AgentID, or
	// keys.ErrNotFound.
	Agent(ctx context.Context, id string) (*keys.Agent, error)
	// Blocked returns the principals that are blocked, sorted.
	Blocked(ctx context.Context) ([]string, error)
	// AcquireLease, ReleaseLease and Nodes are those of store.Store: what
	// keeps several gateways from doing the same work at once, and tells how
	// far each of them is.
	AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, err error)
	ReleaseLease(ctx context.Context, name, holder string) error
	Nodes(ctx context.Context) (all []keys.Node, revision uint64, err error)
}

// Token is the management side of the HSM. Generate proves that neither the
// CKA_ID nor the label exists, reads the attributes back, uses the key once,
// and leaves nothing behind when it fails, unless the process dies in it.
// Destroy is idempotent: it returns nil when the objects are gone.
type Token interface {
	Generate(ctx context.Context, ref keys.Ref) (keys.Generated, error)
	Destroy(ctx context.Context, ref keys.Ref) error
	Capable(token string, alg keys.Algorithm) error
	DefaultToken() string
	HasToken(name string) bool
	// Tokens returns the names of all tokens.
	Tokens() []string
	// List returns every key object on a token. It is a management act: it
	// may take seconds on a full token.
	List(ctx context.Context, token string) ([]keys.TokenObject, error)
	// Inspect reads and uses the objects of ref as Generate does after it has
	// made them. Objects that are extractable or not sensitive are reported
	// as such, not refused. Errors: keys.ErrNotFound, ErrInvalid (they are
	// not what ref says), ErrHSM.
	Inspect(ctx context.Context, ref keys.Ref) (keys.Generated, error)
	// MarkRevoked leaves a mark on the token that the version of ref is
	// compromised. It is idempotent. keys.ErrUnsupported: the token keeps no
	// such objects.
	MarkRevoked(ctx context.Context, ref keys.Ref, id keys.VersionID, at time.Time) error
	// Revoked returns the marks on a token.
	Revoked(ctx context.Context, token string) ([]keys.RevocationMark, error)
}

// Usage tells how much versions were used. It includes what other gateways
// have stored.
type Usage interface {
	// Of returns the sum over all principals, from memory.
	Of(key string, version uint32) keys.Usage
	// ByAgent returns the counters of a key by version and principal.
	ByAgent(ctx context.Context, key string) ([]keys.Usage, error)
}

// Auditor records. Append returns nil only when the records are durable.
type Auditor interface {
	Append(ctx context.Context, recs ...audit.Record) (first uint64, err error)
}

// Config is what an Engine needs. Every field is required that has no default
// and does not say what its zero value means.
type Config struct {
	Store   Store
	Token   Token
	Audit   Auditor
	History History // this node's audit log, to finish what a crash has left; nil: that is not done
	Usage   Usage
	Holder  string                          // who has this engine's leases: the keys.Node.Instance of this process; default: one of its own
	Keys    func() ([]*keys.Key, error)     // the local snapshot; not to be changed
	Refresh func(ctx context.Context) error // brings committed changes into the local snapshot
	// Propagation is how long every gateway needs to learn of a planned
	// switch, by the clock that is furthest ahead. 0 where there is only this
	// one.
	Propagation time.Duration
	Limits      keys.Limits      // of policies; default keys.DefaultLimits()
	Now         func() time.Time // default time.Now
	Log         *slog.Logger     // default slog.Default()
}

// Engine changes keys. All methods may be called concurrently; acts on one
// key are serialised by the store's epoch.
type Engine struct {
	store       Store
	token       Token
	audit       Auditor
	history     History
	usage       Usage
	keys        func() ([]*keys.Key, error)
	refresh     func(ctx context.Context) error
	propagation time.Duration
	limits      keys.Limits
	now         func() time.Time
	log         *slog.Logger
	holder      string

	leases      *lease.Keeper
	barrier     barrier.Barrier // before destructions
	reconciling reconciling     // see reconcile.go
	ends        ends            // see retire.go

	due    atomic.Int64 // keys that automatic work is due on
	looked atomic.Bool  // for revocations to be marked
	ticks  ticks        // of schedules

	mu       sync.Mutex
	unused   map[string]keys.ObjectID // by rotation id: the CKA_ID that this process chose and did not use yet
	intents  map[string]uint64        // by rotation id: the seq of its intent in this node's log
	pauses   map[string]pause         // by key: after automatic work that failed
	seen     map[string]time.Time     // by rotation id: when an announcement was found to lie ahead
	lost     map[string]time.Time     // by key: when every switch of it was found to lie ahead
	unmarked map[string]bool          // tokens that keep no marks, as was logged
	marked   map[keys.VersionID]bool  // revocations that are marked on their tokens
}

// New returns an Engine. It does nothing by itself: see Run and Recover.
func New(c Config) *Engine {
	e := &Engine{
		store: c.Store, token: c.Token, audit: c.Audit, history: c.History, usage: c.Usage, keys: c.Keys, refresh: c.Refresh,
		propagation: c.Propagation, limits: c.Limits, now: c.Now, log: c.Log, holder: c.Holder,
		unused: map[string]keys.ObjectID{}, intents: map[string]uint64{}, lost: map[string]time.Time{}, seen: map[string]time.Time{}, pauses: map[string]pause{}, unmarked: map[string]bool{}, marked: map[keys.VersionID]bool{},
	}
	if e.limits == (keys.Limits{}) {
		e.limits = keys.DefaultLimits()
	}
	if e.now == nil {
		e.now = time.Now
	}
	if e.log == nil {
		e.log = slog.Default()
	}
	if e.holder == "" {
		e.holder = keys.NewID(time.Now())
	}
	e.leases = lease.New(lease.Config{Store: c.Store, Holder: e.holder, Log: e.log})
	return e
}

// Actor is on whose behalf the engine acts.
type Actor struct {
	Principal  string
	AuthMethod string
	Source     string // IP address
	RequestID  string
}

// systemActor is the engine acting by itself.
var systemActor = Actor{Principal: "system", AuthMethod: "system"}

// actTimeout bounds one act on a key. Generating RSA-4096 on a slow token
// takes tens of seconds.
const actTimeout = 2 * time.Minute

// detach gives an act that has begun its own time: a caller that hangs up
// must not leave it half done.
func detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), actTimeout)
}

// clock returns now in UTC, cut to what every store keeps.
func (e *Engine) clock() time.Time { return e.now().UTC().Truncate(time.Microsecond) }

// Attempts to bring a change into the local snapshot, and the first pause
// between two of them; it doubles each time.
const (
	refreshAttempts = 8
	refreshPause    = 10 * time.Millisecond
)

// commit writes a change and brings it into the local snapshot: when it
// returns nil, the change is in force here. When the snapshot cannot be
// refreshed the error is keys.ErrStore; the change stands all the same, and
// the snapshot's poll will bring it.
func (e *Engine) commit(ctx context.Context, c store.Change) error {
	if err := e.store.Commit(ctx, c); err != nil {
		return err
	}
	pause := refreshPause
	for attempt := 1; ; attempt++ {
		err := e.refresh(ctx)
		if err == nil {
			return nil
		}
		e.log.WarnContext(ctx, "snapshot not refreshed after a change", "attempt", attempt, "err", err)
		if attempt == refreshAttempts || ctx.Err() != nil {
			return fmt.Errorf("%w: %w", keys.Errorf(keys.ErrStore, "the change is stored and not in force here yet: the store cannot be read; see what stands before trying again"), err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			pause *= 2
		}
	}
}
