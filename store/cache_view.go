package store

import (
	"context"
	"slices"
	"time"

	"keyhole/keys"
)

// view is a snapshot and the latest moments at which it was known to be what
// the store says, and the witness. It is immutable.
type view struct {
	stored   *Snapshot // what the store says
	snapshot *Snapshot // and what the witness adds
	revision uint64
	at       time.Time     // of contact with the store
	heard    time.Time     // of contact with the witness; zero: none yet
	behind   chan struct{} // closed when a view of a newer revision is there
	// altered: the store does not say for sure who is blocked.
	altered bool
}

// show makes v, which was read from the store, the view, tells those who
// wait for a newer one, and logs what was altered. The caller has the turn.
func (c *Cache) show(ctx context.Context, v *view) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.view.Load()
	before, wasAltered := []string(nil), false
	if old != nil {
		before, wasAltered, v.heard = old.stored.damaged, old.altered, old.heard
	}
	c.replace(ctx, old, v)
	for _, name := range v.stored.damaged {
		if !slices.Contains(before, name) {
			c.Log.ErrorContext(ctx, "what is stored of a key was altered, and the key is out of use until keyholed adopt has rebuilt it", "key", name)
		}
	}
	for _, name := range before {
		if !slices.Contains(v.stored.damaged, name) {
			_, here := v.stored.Key(name)
			c.Log.WarnContext(ctx, "a key that was altered in the store is so no more", "key", name, "in_use", here)
		}
	}
	switch {
	case v.altered && !wasAltered:
		c.Log.ErrorContext(ctx, "the list of blocked principals was altered in the store; who was blocked stays so here until keyholed adopt has been run")
	case !v.altered && wasAltered:
		c.Log.WarnContext(ctx, "the list of blocked principals is whole again")
	}
}

// replace makes v the view in the place of old, with what the witness adds to
// it. The caller has mu.
func (c *Cache) replace(ctx context.Context, old, v *view) {
	if old != nil && old.stored == v.stored && !c.added {
		v.snapshot = old.snapshot
	} else {
		v.snapshot, c.added = c.withMarks(v.stored), false
	}
	if old != nil && old.revision == v.revision && old.snapshot.marks == v.snapshot.marks {
		v.behind = old.behind
		c.view.Store(v)
		return
	}
	v.behind = make(chan struct{})
	c.view.Store(v)
	if old == nil {
		close(c.loaded)
		return
	}
	close(old.behind)
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
// fails with keys.ErrStale before the first load, when the last contact with
// the store was longer ago than MaxStaleness, and when neither the store nor
// the witness was heard for Blind.
func (c *Cache) Snapshot() (*Snapshot, error) {
	v := c.view.Load()
	if v == nil {
		return nil, keys.Errorf(keys.ErrStale, "the keys are not loaded yet; try again in a moment")
	}
	now := c.Now()
	age := now.Sub(v.at)
	if age <= c.MaxStaleness && (c.Blind <= 0 || age <= c.Blind || now.Sub(v.heard) <= c.Blind) {
		return v.snapshot, nil
	}
	return nil, keys.Errorf(keys.ErrStale, "the gateway has not reached its store for %s and must not use keys that may be revoked; "+
		"try again when the store is back", age.Round(time.Second))
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
