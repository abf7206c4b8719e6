package store

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"slices"
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
	// Reread is how often Run reads all of the store, to find what was altered
	// by hand (default 5 min).
	Reread time.Duration
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
	poll, reread time.Duration
	now          func() time.Time
	log          *slog.Logger
	loaded       chan struct{} // closed by the first load

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
	behind   chan struct{} // closed when a view of a newer revision is there
	// altered: the store does not say for sure who is blocked.
	altered bool
}

type outcome struct {
	refresh uint64 // which one, by the count in began
	err     error
}

// NewCache returns a Cache over s. It holds nothing until Refresh or Run.
func NewCache(s Store, c CacheConfig) *Cache {
	cache := &Cache{
		store: s, maxStaleness: c.MaxStaleness, poll: c.Poll, reread: c.Reread, now: c.Now, log: c.Log,
		turn: make(chan struct{}, 1), loaded: make(chan struct{}),
	}
	if cache.maxStaleness <= 0 {
		cache.maxStaleness = 30 * time.Second
	}
	if cache.poll <= 0 {
		cache.poll = time.Second
	}
	if cache.reread <= 0 {
		cache.reread = 5 * time.Minute
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
		blocked, err := c.store.Blocked(ctx)
		if err != nil { // altered: nobody knows who is to be refused, so nobody is served
			return err
		}
		c.show(ctx, &view{snapshot: NewSnapshot(all).withBlocked(blocked), revision: revision, at: at})
		return nil
	}
	changed, deleted, revision, err := c.store.Changed(ctx, old.revision)
	if err != nil {
		return err
	}
	next := &view{snapshot: old.snapshot, revision: revision, at: at, altered: old.altered}
	if len(changed) > 0 || len(deleted) > 0 {
		next.snapshot = next.snapshot.with(changed, deleted)
	}
	if revision != old.revision || old.altered {
		if err := c.readBlocked(ctx, next); err != nil {
			return err
		}
	}
	c.show(ctx, next)
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
		blocked = slices.AppendSeq(blocked, maps.Keys(v.snapshot.blocked))
	}
	all := make(map[string]bool, len(blocked))
	for _, principal := range blocked {
		all[principal] = true
	}
	if !maps.Equal(all, v.snapshot.blocked) {
		v.snapshot = v.snapshot.withBlocked(blocked)
	}
	return nil
}

// show makes v the view, tells those who wait for a newer one, and logs what
// was altered. The caller has the turn.
func (c *Cache) show(ctx context.Context, v *view) {
	old := c.view.Load()
	v.behind = make(chan struct{})
	before, wasAltered := []string(nil), false
	if old != nil {
		before, wasAltered = old.snapshot.damaged, old.altered
		if old.revision == v.revision {
			v.behind = old.behind
		}
	}
	c.view.Store(v)
	switch {
	case old == nil:
		close(c.loaded)
	case old.revision != v.revision:
		close(old.behind)
	}
	for _, name := range v.snapshot.damaged {
		if !slices.Contains(before, name) {
			c.log.ErrorContext(ctx, "what is stored of a key was altered, and the key is out of use until keyholed adopt has rebuilt it", "key", name)
		}
	}
	for _, name := range before {
		if !slices.Contains(v.snapshot.damaged, name) {
			_, here := v.snapshot.Key(name)
			c.log.WarnContext(ctx, "a key that was altered in the store is so no more", "key", name, "in_use", here)
		}
	}
	switch {
	case v.altered && !wasAltered:
		c.log.ErrorContext(ctx, "the list of blocked principals was altered in the store; who was blocked stays so here until keyholed adopt has been run")
	case !v.altered && wasAltered:
		c.log.WarnContext(ctx, "the list of blocked principals is whole again")
	}
}

// Changed returns a channel that is closed when the snapshot of a newer
// revision of the store is there. Whoever calls it before Snapshot misses
// nothing.
func (c *Cache) Changed() <-chan struct{} {
	if v := c.view.Load(); v != nil {
		return v.behind
	}
	return c.loaded
}

// Damaged names what of the store was altered: keys, and blockedAgents if
// it is the list of blocked principals.
func (c *Cache) Damaged() []string {
	v := c.view.Load()
	switch {
	case v == nil:
		return nil
	case v.altered:
		return append(slices.Clone(v.snapshot.damaged), blockedAgents)
	}
	return v.snapshot.damaged
}

// blockedAgents cannot be the name of a key.
const blockedAgents = "(blocked agents)"

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
	read := c.now()
	for {
		err := c.pollOnce(ctx)
		if err == nil && c.now().Sub(read) >= c.reread {
			if done, err := c.readAll(ctx); err != nil && ctx.Err() == nil {
				c.log.WarnContext(ctx, "the store could not be read whole, to look for what was altered", "err", err)
			} else if done {
				read = c.now()
			}
		}
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

// readAll compares the snapshot with all that is in the store. What is not
// as it was, with nothing committed since, was altered. It reports false if
// there were commits meanwhile; then nothing is said.
func (c *Cache) readAll(ctx context.Context) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.maxStaleness)
	defer cancel()
	all, revision, err := c.store.Load(ctx)
	if err != nil {
		return false, err
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	old := c.view.Load()
	if old == nil || old.revision != revision {
		return false, nil
	}
	var altered []*keys.Key
	here := make(map[string]bool, len(all))
	for _, k := range all {
		here[k.Name] = true
		known, ok := old.snapshot.byName[k.Name]
		if !ok || k.Damaged != known.Damaged || k.Epoch != known.Epoch && !k.Damaged {
			altered = append(altered, k)
		}
	}
	var gone []string
	for name, k := range old.snapshot.byName {
		switch {
		case here[name]:
		case k.Damaged && k.Epoch == 0: // it was never one of Keyhole's
			gone = append(gone, name)
		default: // it went without a commit
			altered = append(altered, &keys.Key{Name: name, Damaged: true})
		}
	}
	next := *old
	if err := c.readBlocked(ctx, &next); err != nil {
		return false, err
	}
	if len(altered) > 0 || len(gone) > 0 {
		next.snapshot = next.snapshot.with(altered, gone)
	}
	c.show(ctx, &next)
	return true, nil
}
