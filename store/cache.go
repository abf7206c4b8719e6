package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/keys"
)

// CacheConfig says how fresh a Cache is. The zero value serves.
type CacheConfig struct {
	// MaxStaleness is how long keys are used after the last moment at which
	// the store was known to say the same (default 30 s). A gateway that
	// cannot reach the store cannot know of everything that others do.
	MaxStaleness time.Duration
	// Poll is how often Run looks for changes that others made (default 1 s;
	// with Blind a quarter of that at most). A hint of the store is followed
	// at once.
	Poll time.Duration
	// Reread is how often Run reads all of the store, to find what was altered
	// by hand (default 5 min).
	Reread time.Duration

	// Beat keeps this gateway's heartbeat, with the revision that its snapshot
	// is from; nil: nobody waits for it. It is called by a refresh when the
	// last one was BeatEvery ago (default 1 s), and by Run when the revision
	// has changed. A refresh whose beat failed is no contact with the store:
	// whom others think dead uses no key. keys.ErrConflict ends Run, and is
	// ErrNameTaken then.
	Beat      func(ctx context.Context, revision uint64) error
	BeatEvery time.Duration

	// Blind is how long keys are used without a word from anybody of what was
	// revoked, neither the store nor Witness; 0: nobody else revokes.
	Blind time.Duration
	// Witness returns the marks of revocations on the tokens. Run asks it
	// while the store is silent. nil: there is no second channel.
	Witness func(ctx context.Context) ([]keys.RevocationMark, error)

	// Now must carry the monotonic clock, as time.Now does, the default: a
	// step of the wall clock makes nothing stale and nothing fresh.
	Now func() time.Time
	Log *slog.Logger // default slog.Default()
}

// ErrNameTaken says that another gateway runs under this one's name.
var ErrNameTaken = errors.New("store: the name of this gateway is taken")

// Cache keeps a Snapshot of the keys in memory. Its methods may be called
// concurrently.
type Cache struct {
	store Store
	CacheConfig
	silence time.Duration // without a word of the store, after which it counts as lost
	first   time.Duration // limit of a reading, after one that was in time
	most    time.Duration // limit of a reading
	loaded  chan struct{} // closed by the first load

	view  atomic.Pointer[view] // nil until the first load
	began atomic.Uint64        // refreshes begun

	turn chan struct{} // holds one value while the store is read for the view
	// Whoever has the turn may touch these.
	last   outcome       // of the latest refresh
	limit  time.Duration // of the next reading
	beaten beaten

	mu     sync.Mutex // guards what follows, and the replacement of view
	marked map[keys.ObjectID]keys.RevocationMark
	added  bool  // marks that the view does not have yet
	told   Mode  // that was logged
	lost   error // of the latest refresh
	unseen error // of the latest question to the witness
}

type outcome struct {
	refresh uint64 // which one, by the count in began
	err     error
}

// beaten is the last heartbeat that was kept.
type beaten struct {
	at       time.Time
	revision uint64
}

// longest is how often the first limit a reading may take, where others
// revoke: a connection that hangs must not keep a new one from being tried.
const longest = 5

// NewCache returns a Cache over s. It holds nothing until Refresh or Run.
func NewCache(s Store, c CacheConfig) *Cache {
	if c.MaxStaleness <= 0 {
		c.MaxStaleness = 30 * time.Second
	}
	if c.Poll <= 0 {
		c.Poll = time.Second
	}
	if c.Blind > 0 {
		c.Poll = min(c.Poll, c.Blind/4)
	}
	if c.Reread <= 0 {
		c.Reread = 5 * time.Minute
	}
	if c.BeatEvery <= 0 {
		c.BeatEvery = time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	cache := &Cache{
		store: s, CacheConfig: c, silence: max(2*c.Poll, time.Second), first: c.MaxStaleness, most: c.MaxStaleness, limit: c.MaxStaleness,
		turn: make(chan struct{}, 1), loaded: make(chan struct{}), told: ModeStore,
	}
	if c.Blind > 0 {
		cache.silence = c.Blind / 2
		cache.first = min(c.Blind/2, c.MaxStaleness)
		cache.most = min(longest*cache.first, c.MaxStaleness)
	}
	return cache
}

// Refresh brings what was committed before the call into the snapshot. Calls
// at the same time share the reading of the store; they never share one that
// began before their own. Errors: as the store's; keys.ErrStore also when it
// does not answer in time.
func (c *Cache) Refresh(ctx context.Context) error { return c.refresh(ctx, false) }

// refresh is Refresh. With eager, a new revision is told to the other
// gateways at once.
func (c *Cache) refresh(ctx context.Context, eager bool) error {
	before := c.began.Load()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.last.refresh > before {
		return c.last.err // it began after this call, and is done
	}
	n := c.began.Add(1)
	err := c.bounded(ctx, func(ctx context.Context) error { return c.read(ctx, eager) })
	if ctx.Err() == nil || err == nil { // the others need not fail for one who left
		c.last = outcome{refresh: n, err: err}
	}
	return err
}

// bounded gives a reading its time: the next one may have a connection that
// works. One that was too slow gives the next one twice the time. The caller
// has the turn.
func (c *Cache) bounded(ctx context.Context, read func(ctx context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	err := read(limited)
	switch {
	case err == nil:
		c.limit = c.first
	case err != nil && limited.Err() != nil && ctx.Err() == nil:
		err = fmt.Errorf("store: no answer within %s: %w", c.limit, keys.ErrStore)
		c.limit = min(2*c.limit, c.most)
	}
	return err
}

// read reads what is new. The caller has the turn.
func (c *Cache) read(ctx context.Context, eager bool) error {
	at := c.Now()
	old := c.view.Load()
	next := &view{at: at}
	var err error
	if old == nil {
		next.stored, next.revision, err = c.load(ctx)
	} else {
		err = c.readChanges(ctx, old, next)
	}
	if err != nil {
		return err
	}
	if c.Beat == nil || !c.beatDue(at, next.revision, eager) {
		c.show(ctx, next)
		return nil
	}
	// The heartbeat says what is in use here, so it comes second; and what is
	// not told to the others is no contact, but may be a revocation.
	if old != nil {
		seen := *next
		seen.at = old.at
		c.show(ctx, &seen)
	}
	if err := c.Beat(ctx, next.revision); err != nil {
		return notBeaten(err)
	}
	c.beaten = beaten{at, next.revision}
	c.show(ctx, next)
	return nil
}

// beatDue reports whether a heartbeat is to be kept: a bit too early rather
// than a whole poll too late.
func (c *Cache) beatDue(at time.Time, revision uint64, eager bool) bool {
	return c.beaten.at.IsZero() || at.Sub(c.beaten.at) >= c.BeatEvery-c.Poll/2 || eager && revision != c.beaten.revision
}

// nameTaken is a heartbeat that was refused. It is no keys.ErrConflict, which
// callers of Refresh would take for a conflict of theirs.
type nameTaken struct{ err error }

func notBeaten(err error) error {
	if errors.Is(err, keys.ErrConflict) {
		return &nameTaken{err}
	}
	return err
}

func (e *nameTaken) Error() string   { return e.err.Error() }
func (e *nameTaken) Unwrap() []error { return []error{ErrNameTaken, keys.ErrStore} }

func (c *Cache) load(ctx context.Context) (*Snapshot, uint64, error) {
	all, revision, err := c.store.Load(ctx)
	if err != nil {
		return nil, 0, err
	}
	blocked, err := c.store.Blocked(ctx)
	if err != nil { // altered: nobody knows who is to be refused, so nobody is served
		return nil, 0, err
	}
	return NewSnapshot(all).withBlocked(blocked), revision, nil
}

// readChanges makes next of old and what has changed since.
func (c *Cache) readChanges(ctx context.Context, old, next *view) error {
	changed, deleted, revision, err := c.store.Changed(ctx, old.revision)
	if err != nil {
		return err
	}
	next.stored, next.revision, next.altered = old.stored, revision, old.altered
	if len(changed) > 0 || len(deleted) > 0 {
		next.stored = next.stored.with(changed, deleted)
	}
	if revision != old.revision || old.altered {
		return c.readBlocked(ctx, next)
	}
	return nil
}

// readBlocked brings who is blocked into v. While the list is altered, nobody
// comes off it.
func (c *Cache) readBlocked(ctx context.Context, v *view) error {
	blocked, err := c.store.Blocked(ctx)
	if v.altered = errors.Is(err, keys.ErrTampered); err != nil && !v.altered {
		return err
	}
	if v.altered {
		blocked = slices.AppendSeq(blocked, maps.Keys(v.stored.blocked))
	}
	all := make(map[string]bool, len(blocked))
	for _, principal := range blocked {
		all[principal] = true
	}
	if !maps.Equal(all, v.stored.blocked) {
		v.stored = v.stored.withBlocked(blocked)
	}
	return nil
}
