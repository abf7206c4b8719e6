package usage

import (
	"sync/atomic"
	"time"

	"keyhole/keys"
)

// What is counted.
const (
	applied = iota
	processed
	volume // in bytes
	kinds
)

// The least and the most that is reserved beyond what is used.
var (
	minBlock = [kinds]uint64{16, 16, 64 << 10}
	maxBlock = [kinds]uint64{1 << 22, 1 << 22, 1 << 36}
)

// counter may be used up to its limit; the store holds at least the limit.
//
// It is lowered before the store is (lower), and raised after it (raise): at
// every moment what was taken is at most what is stored.
type counter struct {
	used, limit atomic.Uint64
	ask         atomic.Uint64 // beyond this, more should be reserved
}

func (c *counter) take(n uint64) bool {
	if c.used.Load()+n > c.limit.Load() {
		return false
	}
	if c.used.Add(n) > c.limit.Load() {
		c.untake(n)
		return false
	}
	return true
}

func (c *counter) untake(n uint64) { c.used.Add(-n) }

// lower brings the limit down to at most to and returns what is used: whoever
// took by the old limit is counted in it.
func (c *counter) lower(to uint64) uint64 {
	if c.limit.Load() > to {
		c.limit.Store(to)
	}
	return c.used.Load()
}

// raise lets the counter be used up to a figure that is stored.
func (c *counter) raise(to uint64) {
	if used := c.used.Load(); used < to {
		c.ask.Store(used + (to-used)/2)
	} else {
		c.ask.Store(to)
	}
	c.limit.Store(to)
}

// entry is a triple in use. Its counters begin at 0 with the entry: what the
// store held of the triple before, its base, comes on top.
type entry struct {
	triple
	count  [kinds]counter
	last   atomic.Int64 // microseconds since 1970; 0: never
	asked  atomic.Bool  // more is asked for already
	capped atomic.Bool  // keys.MaxWraps is observed

	// Guarded by Meter.io.
	base       keys.Usage
	based      bool          // base is known
	inStore    [kinds]uint64 // what the store holds, at the least
	stored     [kinds]uint64 // what the store and the spill hold together, at the least
	storedLast int64
	storedAt   time.Time
	unsure     bool // the store may hold what was tried to be written since
	block      [kinds]uint64
	before     [kinds]uint64 // used when Run last looked
	rate       [kinds]float64
	busy       time.Time // when Run last saw it used
}

// take counts a use, if the reservation covers it.
func (e *entry) take(kind int, bytes uint64) bool {
	if !e.count[kind].take(1) {
		return false
	}
	if bytes > 0 && !e.count[volume].take(bytes) {
		e.count[kind].untake(1)
		return false
	}
	return true
}

// low reports whether more should be reserved.
func (e *entry) low(kind int) bool {
	return e.count[kind].used.Load() > e.count[kind].ask.Load() || e.count[volume].used.Load() > e.count[volume].ask.Load()
}

// touch sets the time of the last use, to the second: it is written seldom.
func (e *entry) touch(now time.Time) {
	at := now.UnixMicro()
	if old := e.last.Load(); at-old >= int64(time.Second/time.Microsecond) {
		e.last.CompareAndSwap(old, at)
	}
}

// row is what the store is to hold for an entry with these figures.
func (e *entry) row(figures [kinds]uint64, last int64) keys.Usage {
	u := e.usage(figures, last)
	u.Add(e.base)
	return u
}

func (e *entry) usage(figures [kinds]uint64, last int64) keys.Usage {
	u := keys.Usage{
		Key: e.key, Version: e.version, Principal: e.principal,
		Applied: figures[applied], Processed: figures[processed], Bytes: figures[volume],
	}
	if last != 0 {
		u.LastUse = time.UnixMicro(last).UTC()
	}
	return u
}

// used returns what was counted.
func (e *entry) used() (u [kinds]uint64) {
	for i := range u {
		u[i] = e.count[i].used.Load()
	}
	return u
}
