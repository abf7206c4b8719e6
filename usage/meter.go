package usage

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/usage/internal/spill"
)

// Store keeps the figures. What ReserveUsage and SeeAgents wrote is durable
// when they return nil; after an error it was written whole or not at all.
type Store interface {
	// ClaimUsage takes the counters of a node over from whoever claimed them
	// before.
	ClaimUsage(ctx context.Context, node string) error
	// ReserveUsage sets the counters of one node; those of others stay.
	// Errors: keys.ErrConflict (another one has claimed them).
	ReserveUsage(ctx context.Context, node string, counted []keys.Usage) error
	// Usage returns the counters of a key ("": of all) by version and
	// principal, summed over the nodes, or with a node those of that node.
	Usage(ctx context.Context, key, node string) ([]keys.Usage, error)
	// SeeAgents notes that principals were seen.
	SeeAgents(ctx context.Context, seen []store.Sighting) error
}

// Config is what a Meter needs.
type Config struct {
	Store Store
	// Node names this gateway among those that share the store. Two
	// processes must not use one name at the same time.
	Node string
	// Dir is the directory of the file that takes reservations while the store
	// cannot be written; one process uses it at a time. "": nothing is reserved
	// then.
	Dir string
	Now func() time.Time // default time.Now
	Log *slog.Logger     // default slog.Default()
}

// Meter counts. Its methods are safe for concurrent use.
type Meter struct {
	store Store
	node  string
	dir   string
	now   func() time.Time
	log   *slog.Logger

	live *shards[triple, *entry]  // the triples in use
	seen *shards[string, *moment] // the principals seen of late
	wake chan struct{}            // tells Run that reservations run low
	most int                      // triples, and principals, between two ticks

	// io is held by whoever reads or writes the store, and guards what
	// belongs to that: the reservations of entries, and the fields below.
	io      chan struct{}
	cold    coldRows
	loaded  bool
	stopped bool          // Run has ended: every use is written by itself
	down    bool          // the last write or read of Run failed
	ticked  time.Time     // when Run last looked around
	fresh   time.Time     // when the totals of other nodes were last read
	stale   time.Time     // when they are to be read again
	took    time.Duration // that reading them took
	spill   *spill.File   // nil: there is none
	merged  bool          // what was spilled was merged, and the totals were not read since
	told    bool          // of the outage
	wait    time.Duration // for the store, before it counts as being down
	share   uint64        // of wraps, in an outage

	outage atomic.Bool // reservations go to the spill; changed under io

	mu       sync.Mutex // guards the fields below; held for moments
	versions map[versionID]*version
	pending  *batch
}

// triple is what is counted by itself.
type triple struct {
	key       string
	version   uint32
	principal string
}

type versionID struct {
	key    string
	number uint32
}

func (t triple) of() versionID { return versionID{t.key, t.version} }

// New returns a Meter. Load it before the first use.
func New(c Config) *Meter {
	m := &Meter{
		store: c.Store, node: c.Node, dir: c.Dir, now: c.Now, log: c.Log,
		live: newShards[triple, *entry](func(seed maphash.Seed, t triple) uint64 {
			return maphash.String(seed, t.principal) + uint64(t.version)
		}),
		seen: newShards[string, *moment](maphash.String),
		wake: make(chan struct{}, 1), most: maxLive, io: make(chan struct{}, 1),
		versions: map[versionID]*version{}, pending: newBatch(), cold: coldRows{limit: coldLimit}, wait: storeWait, share: wrapsShare,
	}
	if m.now == nil {
		m.now = time.Now
	}
	if m.log == nil {
		m.log = slog.Default()
	}
	return m
}

// Count counts one use of a version by a principal, before it is done: when
// it returns nil, the store holds the use, or a reservation that covers it.
// The error is keys.ErrStore: what was reserved is used up, and no more can
// be; the use must not go on.
func (m *Meter) Count(ctx context.Context, key string, version uint32, principal string, use keys.Use, bytes int) error {
	kind := processed
	if use == keys.UseApply {
		kind = applied
	}
	return m.count(ctx, triple{key, version, principal}, kind, bytes, false)
}

// CountWrap is Count of an encryption under random 96-bit IVs. A version does
// no more than keys.MaxWraps of them on all nodes together, over crashes,
// restarts and outages of the store too; the error is keys.ErrVersionState
// once all but what is kept for outages (see wrapsKept) was reserved. What
// principals and nodes have reserved and not used yet counts as used.
func (m *Meter) CountWrap(ctx context.Context, key string, version uint32, principal string, bytes int) error {
	return m.count(ctx, triple{key, version, principal}, applied, bytes, true)
}

// Outage reports whether the store cannot be written, and reservations go to
// the file in Config.Dir.
func (m *Meter) Outage() bool { return m.outage.Load() }

func (m *Meter) count(ctx context.Context, t triple, kind, bytes int, capped bool) error {
	if bytes < 0 {
		return fmt.Errorf("usage: %d bytes: %w", bytes, keys.ErrInternal)
	}
	e, ok := m.live.get(t)
	if !ok || capped && !e.capped.Load() || !e.take(kind, uint64(bytes)) {
		var err error
		if e, err = m.reserve(ctx, t, need{kind: kind, bytes: uint64(bytes), capped: capped}); err != nil {
			return err
		}
	}
	e.touch(m.now())
	if e.low(kind) && e.asked.CompareAndSwap(false, true) {
		m.ask(t)
	}
	return nil
}
