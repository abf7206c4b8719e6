package usage

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"keyhole/store"
)

// moment is when a principal was seen last, in microseconds since 1970.
type moment struct {
	last   atomic.Int64
	stored int64 // guarded by Meter.io
}

// Seen notes that a principal was authenticated. Run writes it within a
// second or so; with very many principals, later.
func (m *Meter) Seen(principal string, at time.Time) {
	s, ok := m.seen.get(principal)
	if !ok {
		s = m.seen.put(principal, &moment{})
	}
	to := at.UnixMicro()
	for old := s.last.Load(); to-old >= int64(time.Second/time.Microsecond); old = s.last.Load() {
		if s.last.CompareAndSwap(old, to) {
			return
		}
	}
}

// flushSeen writes who was seen since they were written, longest ago first:
// limit at most (0: all). It runs under io.
func (m *Meter) flushSeen(ctx context.Context, limit int) error {
	type sighting struct {
		principal string
		last      int64
		m         *moment
	}
	var due []sighting
	for principal, s := range m.seen.all() {
		if last := s.last.Load(); last > s.stored {
			due = append(due, sighting{principal, last, s})
		}
	}
	slices.SortFunc(due, func(a, b sighting) int { return int(min(max(a.m.stored-b.m.stored, -1), 1)) })
	if limit > 0 {
		due = due[:min(len(due), limit)]
	}
	for part := range slices.Chunk(due, writeRows) {
		rows := make([]store.Sighting, len(part))
		for i, s := range part {
			rows[i] = store.Sighting{Principal: s.principal, At: time.UnixMicro(s.last).UTC()}
		}
		if err := m.see(ctx, rows); err != nil {
			return err
		}
		for _, s := range part {
			s.m.stored = s.last
		}
	}
	m.forgetSeen()
	return nil
}

func (m *Meter) see(ctx context.Context, rows []store.Sighting) error {
	ctx, cancel := m.soon(ctx)
	defer cancel()
	return m.store.SeeAgents(ctx, rows)
}

// forgetSeen drops those who were not seen of late, and when there are too
// many, all that are written.
func (m *Meter) forgetSeen() {
	before := m.now().Add(-evictAfter).UnixMicro()
	full := m.seen.len() > m.most
	old := full
	for _, s := range m.seen.all() {
		old = old || s.stored < before && s.stored == s.last.Load()
	}
	if old {
		m.seen.remove(func(_ string, s *moment) bool {
			return s.stored == s.last.Load() && (full || s.stored < before)
		})
	}
}
