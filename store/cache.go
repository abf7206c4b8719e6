package store

import (
	"context"
	"log/slog"
	"maps"
	"math"
	"sync/atomic"
	"time"

	"keyhole/keys"
)

// CacheConfig says how fresh a Cache is. The zero value serves.
type CacheConfig struct {
	// MaxStaleness is how long keys are used after the last moment at which
	// the store was known to say the same (default 30 s). A gateway that
	// cannot reach the store cannot know of a revocation.
	MaxStaleness time.Duration
	// Poll is how often Run looks for changes that others made (default 1 s).
	Poll time.Duration
	// Now must carry the monotonic clock, as time.Now does, the default: a
	// step of the wall clock makes nothing stale and nothing fresh.
	Now func() time.Time
	Log *slog.Logger // default slog.Default()
}

// Cache keeps a Snapshot of the keys in memory. Its methods may be called
// concurrently.
type Cache struct {
	store        Store
	maxStaleness time.Duration
	poll         time.Duration
	now          func() time.Time
	log          *slog.Logger

	view  atomic.Pointer[view] // nil until the first load
	began atomic.Uint64        // refreshes begun
	turn  chan struct{}        // holds one value while a refresh runs
	last  outcome              // of the latest refresh; whoever has the turn may touch it
}

// view is a snapshot and the latest moment at which it was known to be what
// the store says. It is immutable.
type view struct {
	snapshot *Snapshot
	revision uint64
	at       time.Time
}

type outcome struct {
	refresh uint64 // which one, by the count in began
	err     error
}

// NewCache returns a Cache over s. It holds nothing until Refresh or Run.
func NewCache(s Store, c CacheConfig) *Cache {
	cache := &Cache{store: s, maxStaleness: c.MaxStaleness, poll: c.Poll, now: c.Now, log: c.Log, turn: make(chan struct{}, 1)}
	if cache.maxStaleness <= 0 {
		cache.maxStaleness = 30 * time.Second
	}
	if cache.poll <= 0 {
		cache.poll = time.Second
	}
	if cache.now == nil {
		cache.now = time.Now
	}
	if cache.log == nil {
		cache.log = slog.Default()
	}
	return cache
}

// Refresh brings what was committed before the call into the snapshot. Calls
// at the same time share the reading of the store; they never share one that
// began before their own.
func (c *Cache) Refresh(ctx context.Context) error {
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
	err := c.refresh(ctx)
	if ctx.Err() == nil || err == nil { // the others need not fail for one who left
		c.last = outcome{refresh: n, err: err}
	}
	return err
}

func (c *Cache) refresh(ctx context.Context) error {
	at := c.now()
	old := c.view.Load()
	if old == nil {
		all, revision, err := c.store.Load(ctx)
		if err != nil {
			return err
		}
		c.view.Store(&view{snapshot: NewSnapshot(all), revision: revision, at: at})
		return nil
	}
	changed, deleted, revision, err := c.store.Changed(ctx, old.revision)
	if err != nil {
		return err
	}
	c.view.Store(&view{snapshot: old.snapshot.with(changed, deleted), revision: revision, at: at})
	return nil
}

// with returns the snapshot after changes. What did not change is shared
// with s.
func (s *Snapshot) with(changed []*keys.Key, deleted []string) *Snapshot {
	if len(changed) == 0 && len(deleted) == 0 {
		return s
	}
	next := &Snapshot{byName: maps.Clone(s.byName), names: s.names}
	sameNames := true
	for _, k := range changed {
		_, ok := s.byName[k.Name]
		sameNames = sameNames && ok
		next.byName[k.Name] = k
	}
	for _, name := range deleted {
		_, ok := s.byName[name]
		sameNames = sameNames && !ok
		delete(next.byName, name)
	}
	if !sameNames {
		next.names = sortedNames(next.byName)
	}
	return next
}

// Snapshot returns the keys. It takes no lock and allocates nothing. It
// fails with keys.ErrStale before the first load, and when the last contact
// with the store was longer ago than MaxStaleness.
func (c *Cache) Snapshot() (*Snapshot, error) {
	v := c.view.Load()
	if v == nil {
		return nil, keys.Errorf(keys.ErrStale, "the keys are not loaded yet; try again in a moment")
	}
	if age := c.now().Sub(v.at); age > c.maxStaleness {
		return nil, keys.Errorf(keys.ErrStale, "the gateway has not reached its store for %s and must not use keys that may be revoked; "+
			"try again when the store is back", age.Round(time.Second))
	}
	return v.snapshot, nil
}

// Keys returns all keys in order of their names. They are shared. Errors as
// Snapshot.
func (c *Cache) Keys() ([]*keys.Key, error) {
	s, err := c.Snapshot()
	if err != nil {
		return nil, err
	}
	return s.Keys(), nil
}

// Age returns how long ago the store was last known to say what the snapshot
// says; before the first load, the longest Duration.
func (c *Cache) Age() time.Duration {
	v := c.view.Load()
	if v == nil {
		return math.MaxInt64
	}
	return c.now().Sub(v.at)
}

// Run refreshes at once and then each Poll, until ctx ends. It logs when the
// store is lost, when the keys become stale by that, and when it is back.
func (c *Cache) Run(ctx context.Context) error {
	t := time.NewTicker(c.poll)
	defer t.Stop()
	lost, stale := false, false
	for {
		err := c.pollOnce(ctx)
		switch _, serr := c.Snapshot(); {
		case ctx.Err() != nil:
			return nil
		case err == nil && lost:
			c.log.InfoContext(ctx, "the store is back")
			lost, stale = false, false
		case err == nil:
		case serr != nil && !stale:
			c.log.ErrorContext(ctx, "the store is lost and no key is used until it is back", "age", c.Age(), "err", err)
			lost, stale = true, true
		case !lost:
			c.log.WarnContext(ctx, "the store is lost; keys are used until they are too old", "max_staleness", c.maxStaleness, "err", err)
			lost = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// pollOnce does not wait for a store that hangs longer than keys are good.
func (c *Cache) pollOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.maxStaleness)
	defer cancel()
	return c.Refresh(ctx)
}
