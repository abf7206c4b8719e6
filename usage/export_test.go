package usage

import (
	"context"
	"time"
)

// Tick looks at everything once, as Run does each second.
func (m *Meter) Tick(ctx context.Context) error { return m.tick(ctx) }

// Live returns how many triples are in memory.
func (m *Meter) Live() int { return m.live.len() }

// SeenLive returns how many principals are in memory.
func (m *Meter) SeenLive() int { return m.seen.len() }

// Bound sets how much is kept in memory.
func (m *Meter) Bound(n int) { m.most = n }

// EvictAfter is when an idle triple is forgotten, and IdleAfter when it gives
// back what it does not need.
const (
	EvictAfter = evictAfter + time.Second
	IdleAfter  = idleAfter + time.Second
	MinBlock   = 16
)

// Cold sets how many idle triples are kept in memory.
func (m *Meter) Cold(n int) { m.cold.limit = n }

// WrapsLimit is how often the nodes of a version may wrap outside of outages,
// and WrapsShare how often each of them may besides in one.
const (
	WrapsLimit = wrapsLimit
	WrapsShare = wrapsShare
)

// Share sets this node's share of wraps.
func (m *Meter) Share(n uint64) { m.share = n }

// Drop has the spill opened anew before it is written again.
func Drop(m *Meter) error { return m.spill.Close() }

// Patience sets how long the store is waited for before it counts as down.
func (m *Meter) Patience(d time.Duration) { m.wait = d }

// Waiting returns how many triples somebody waits for.
func Waiting(m *Meter) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pending.wants)
}
