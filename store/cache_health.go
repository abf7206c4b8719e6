package store

import (
	"context"
	"math"
	"time"
)

// Mode is whose word a Cache goes by.
type Mode string

// The modes.
const (
	ModeStore    Mode = "store"    // the store answers
	ModeWitness  Mode = "witness"  // it is silent; the tokens tell what is revoked
	ModeSnapshot Mode = "snapshot" // it is silent; the keys are used until they are too old
	ModeStale    Mode = "stale"    // no key is used
)

// Modes returns every mode.
func Modes() []Mode { return []Mode{ModeStore, ModeWitness, ModeSnapshot, ModeStale} }

// never is the age of what has not happened.
const never = time.Duration(math.MaxInt64)

// Health is how a Cache is.
type Health struct {
	Mode       Mode
	Revision   uint64        // of the store, that the snapshot is from
	StoreAge   time.Duration // since contact with the store; the longest Duration: none yet
	WitnessAge time.Duration // since contact with the witness, which is asked while the store is silent; the same
	Marked     int           // versions that are out of use by the witness's word alone
}

// Health returns how the cache is now.
func (c *Cache) Health() Health {
	v := c.view.Load()
	h := Health{Mode: c.mode(v), StoreAge: never, WitnessAge: never}
	if v == nil {
		return h
	}
	now := c.Now()
	h.Revision, h.StoreAge, h.Marked = v.revision, now.Sub(v.at), v.snapshot.marks
	if !v.heard.IsZero() {
		h.WitnessAge = now.Sub(v.heard)
	}
	return h
}

// Age returns how long ago the store was last known to say what the snapshot
// says; before the first load, the longest Duration.
func (c *Cache) Age() time.Duration { return c.Health().StoreAge }

func (c *Cache) mode(v *view) Mode {
	switch _, err := c.Snapshot(); {
	case err != nil:
		return ModeStale
	case v == nil || c.Now().Sub(v.at) <= c.silence: // nil: it was loaded a moment ago
		return ModeStore
	case c.Blind > 0 && c.Witness != nil:
		return ModeWitness
	}
	return ModeSnapshot
}

// settle notes a result, and logs what has changed by it.
func (c *Cache) settle(ctx context.Context, note func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	note()
	v := c.view.Load()
	mode, before := c.mode(v), c.told
	if mode == before || before == ModeStore && mode != ModeStale && c.lost == nil && c.Now().Sub(v.at) <= 2*c.silence {
		return // of a reading that is late, nobody needs to be told
	}
	c.told = mode
	switch {
	case mode == ModeStale:
		c.Log.ErrorContext(ctx, "the store is lost and no key is used until it is back", "age", c.Age().Round(time.Millisecond), "err", c.lost, "witness", c.unseen)
	case mode == ModeWitness && before == ModeStale:
		c.Log.WarnContext(ctx, "keys are used again: the tokens tell what is revoked", "max_staleness", c.MaxStaleness)
	case mode == ModeWitness:
		c.Log.WarnContext(ctx, "the store is lost; keys are used until they are too old, and the tokens tell what is revoked", "max_staleness", c.MaxStaleness, "err", c.lost)
	case mode == ModeSnapshot:
		c.Log.WarnContext(ctx, "the store is lost; keys are used until they are too old", "max_staleness", c.MaxStaleness, "err", c.lost)
	default:
		c.Log.InfoContext(ctx, "the store is back")
	}
}
