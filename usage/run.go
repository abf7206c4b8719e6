package usage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keyhole/keys"
)

const (
	tick = time.Second
	// ioTimeout bounds the store's part of a tick, and of the end.
	ioTimeout = 10 * time.Second
	// tickRows bounds the rows that a tick writes only to keep the times of
	// use and what is reserved up to date.
	tickRows = 1024
	// ahead is how much time a reservation is for.
	ahead = 8 * time.Second
	// idleAfter is when a triple that is not used gives back all but the
	// least; evictAfter, when it gives back that too.
	idleAfter  = 10 * time.Second
	evictAfter = 10 * time.Minute
)

// maxLive bounds the triples in memory between two ticks.
const maxLive = 1 << 16

// Run reserves ahead, keeps what is stored up to date to a second or so, and
// forgets what is idle, until ctx ends; then it gives back exactly what was
// not used. The error says that this could not be done: the figures stay too
// high. Count goes on to work after the end; every use is written by itself.
// What the spill holds then comes to the store at the next start.
func (m *Meter) Run(ctx context.Context) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return m.stop(context.WithoutCancel(ctx))
		case <-t.C:
			m.note(ctx, m.tick(ctx))
		case <-m.wake:
			m.note(ctx, m.topUp(ctx))
		}
	}
}

// note tells of the first failure and of the end of an outage.
func (m *Meter) note(ctx context.Context, err error) {
	switch down := err != nil && ctx.Err() == nil; {
	case down && !m.down:
		m.log.ErrorContext(ctx, "usage is not written; operations go on while their reservations last", "err", err)
		m.down = true
	case err == nil && m.down:
		m.log.InfoContext(ctx, "usage is written again")
		m.down = false
	}
}

// topUp reserves for those who asked.
func (m *Meter) topUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	if err := m.acquire(ctx); err != nil {
		return err
	}
	defer m.release()
	return m.serve(ctx)
}

// tick looks at everything once.
func (m *Meter) tick(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	var down error
	if m.outage.Load() {
		down = m.probe(ctx)
	}
	if err := m.acquire(ctx); err != nil {
		return err
	}
	defer m.release()
	if m.outage.Load() {
		if down == nil {
			down = m.recover(ctx)
		}
		if down != nil {
			return errors.Join(m.own(ctx, down), m.serve(ctx), m.keepUp(ctx))
		}
	}
	if err := m.serve(ctx); err != nil {
		return err
	}
	plans := m.survey(m.now())
	if err := m.write(ctx, plans); err != nil {
		return m.own(ctx, err)
	}
	if m.outage.Load() {
		return errOutage
	}
	m.evict(plans)
	if err := m.flushSeen(ctx, tickRows); err != nil {
		return err
	}
	if m.spill != nil {
		if err := m.spill.Tidy(); err != nil {
			return fmt.Errorf("usage: %w", err)
		}
	}
	m.told = false
	return m.refresh(ctx)
}

// own lets go of everything if err says that another process has claimed it.
func (m *Meter) own(ctx context.Context, err error) error {
	if errors.Is(err, keys.ErrConflict) {
		m.disown(ctx)
	}
	return err
}

// keepUp reserves, during an outage, for those who run low.
func (m *Meter) keepUp(ctx context.Context) error {
	if !m.loaded {
		return nil
	}
	low := slices.DeleteFunc(m.survey(m.now()), func(p *plan) bool {
		for k := range kinds {
			if p.target[k] > p.e.count[k].limit.Load() {
				return false
			}
		}
		return true
	})
	return m.write(ctx, low)
}

// survey plans what is to be written at a tick: all reservations that run
// low and all entries that are given up, and of the rest those that were
// written longest ago.
func (m *Meter) survey(now time.Time) []*plan {
	elapsed := max(now.Sub(m.ticked), tick/10)
	m.ticked = now
	var must, may []*plan
	full := m.live.len() > m.most
	for _, e := range m.live.all() {
		e.observe(now, elapsed)
		p, urgent := e.planTick(now)
		switch {
		case p.final || urgent:
			must = append(must, p)
		case full || e.unsure || p.target != e.stored || p.last > e.storedLast:
			may = append(may, p)
		}
	}
	if full {
		return append(must, m.surplus(may, len(must))...)
	}
	slices.SortFunc(may, func(a, b *plan) int { return a.e.storedAt.Compare(b.e.storedAt) })
	return append(must, may[:min(len(may), tickRows)]...)
}

// surplus gives up those of a full meter that were idle longest.
func (m *Meter) surplus(may []*plan, must int) []*plan {
	excess := min(len(may), max(0, m.live.len()-m.most*9/10-must))
	slices.SortFunc(may, func(a, b *plan) int { return cmp.Compare(a.e.last.Load(), b.e.last.Load()) })
	for _, p := range may[:excess] {
		p.final = true
	}
	return may[:excess]
}

// observe measures the rate of use.
func (e *entry) observe(now time.Time, elapsed time.Duration) {
	used := e.used()
	if used != e.before {
		e.busy = now
	}
	for k := range kinds {
		rate := float64(used[k]-min(used[k], e.before[k])) / elapsed.Seconds()
		e.rate[k] = max(rate, (e.rate[k]+rate)/2)
		e.block[k] = min(max(uint64(e.rate[k]*ahead.Seconds()), minBlock[k]), maxBlock[k])
	}
	e.before = used
}

// planTick plans the reservation of an entry; urgent: it runs low.
func (e *entry) planTick(now time.Time) (p *plan, urgent bool) {
	p = &plan{e: e, target: e.stored, last: e.last.Load(), capped: e.capped.Load()}
	idle := now.Sub(e.busy)
	if idle >= evictAfter || idle < -evictAfter { // or the clock stepped back
		p.final = true
		return p, false
	}
	for k := range kinds {
		used := e.count[k].used.Load()
		if used == 0 {
			continue
		}
		if idle >= idleAfter {
			e.block[k] = minBlock[k]
		}
		left := e.stored[k] - min(e.stored[k], used)
		switch {
		case e.count[k].limit.Load() < e.stored[k]: // was closed, or given back in a write that failed
			p.target[k] = used + e.block[k]
		case left < e.block[k]/2 && idle < idleAfter:
			p.target[k], urgent = used+e.block[k], true
		case left > 4*e.block[k], idle >= idleAfter && left > e.block[k]:
			p.target[k] = used + e.block[k]
		}
	}
	return p, urgent
}

// evict forgets the entries that were closed. One that was written with a use
// that was refused at that moment stays until the next time; should that not
// show yet, the use stays counted although it was not done.
func (m *Meter) evict(plans []*plan) {
	gone := map[*entry]bool{}
	m.mu.Lock()
	for _, p := range plans {
		if e := p.e; p.final && !e.unsure && e.used() == e.stored {
			gone[e] = true
			v := m.version(e.of())
			delete(v.live, e)
			v.rest.Add(e.usage(e.stored, e.storedLast))
			m.cold.forget(e.triple, e.row(e.stored, e.storedLast))
		}
	}
	m.mu.Unlock()
	if len(gone) > 0 {
		m.live.remove(func(_ triple, e *entry) bool { return gone[e] })
	}
}

// stop gives everything back.
func (m *Meter) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	if err := m.acquire(ctx); err != nil {
		return storeError(err)
	}
	defer m.release()
	m.stopped = true
	if m.outage.Load() {
		_ = m.own(ctx, m.recover(ctx)) // should it fail, the spill keeps what there is until the next start
	}
	// A use that is given up at this very moment may be in the first figures.
	for range 2 {
		var plans []*plan
		for _, e := range m.live.all() {
			if e.unsure || e.used() != e.stored || e.last.Load() > e.storedLast {
				plans = append(plans, &plan{e: e, final: true})
			}
		}
		err := m.own(ctx, m.write(ctx, plans))
		if err != nil && !errors.Is(err, keys.ErrConflict) { // what another one claimed is not this one's to give back
			return fmt.Errorf("giving back what was reserved of usage: %w", storeError(err))
		}
	}
	if m.spill != nil {
		if err := m.spill.Close(); err != nil {
			return fmt.Errorf("usage: %w", err)
		}
	}
	if m.outage.Load() {
		m.log.WarnContext(ctx, "the store is down; what is in the file comes to it at the next start", "dir", m.dir, "rows", m.spill.Len())
		return nil
	}
	if err := m.flushSeen(ctx, 0); err != nil {
		return fmt.Errorf("writing who was seen: %w", storeError(err))
	}
	return nil
}
