package usage

import (
	"context"
	"errors"
	"fmt"

	"keyhole/keys"
)

// need is what one use needs.
type need struct {
	kind   int
	bytes  uint64
	capped bool
}

// want is what those who wait for a triple need together.
type want struct {
	need   [kinds]uint64
	capped bool
}

// batch is what is asked for while the store is at work on the batch before.
type batch struct {
	wants map[triple]*want // guarded by Meter.mu until the batch is served, then by Meter.io

	// Guarded by Meter.io.
	done    bool
	err     error            // of all
	refused map[triple]error // of one triple
}

func newBatch() *batch { return &batch{wants: map[triple]*want{}, refused: map[triple]error{}} }

// join enters a need into the batch to come.
func (m *Meter) join(t triple, n need) *batch {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.want(t)
	w.need[n.kind]++
	w.need[volume] += n.bytes
	w.capped = w.capped || n.capped
	return m.pending
}

func (m *Meter) want(t triple) *want {
	w := m.pending.wants[t]
	if w == nil {
		w = &want{}
		m.pending.wants[t] = w
	}
	return w
}

// ask lets Run reserve more for a triple that runs low.
func (m *Meter) ask(t triple) {
	m.mu.Lock()
	m.want(t)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default: // Run is told already
	}
}

// acquire waits for the right to use the store. The error is the context's.
func (m *Meter) acquire(ctx context.Context) error {
	select {
	case m.io <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Meter) release() { <-m.io }

// reserve takes a use that the reservation in memory did not cover. Of those
// who wait, the first writes for all.
func (m *Meter) reserve(ctx context.Context, t triple, n need) (*entry, error) {
	for {
		b := m.join(t, n)
		if err := m.acquire(ctx); err != nil {
			return nil, storeError(err)
		}
		e, err := m.takeOrServe(ctx, t, n, b)
		m.release()
		if e != nil || err != nil {
			return e, err
		}
		// What was reserved went to others, or whoever wrote left: once more.
		if ctx.Err() != nil {
			return nil, storeError(ctx.Err())
		}
	}
}

// takeOrServe runs under io. It returns nil, nil to be called again.
func (m *Meter) takeOrServe(ctx context.Context, t triple, n need, b *batch) (*entry, error) {
	if e := m.take(t, n); e != nil {
		return e, nil
	}
	if !b.done { // then it is the pending one
		if err := m.serve(ctx); err != nil {
			return nil, storeError(err)
		}
		if e := m.take(t, n); e != nil {
			return e, nil
		}
	}
	if b.err != nil {
		return nil, b.err
	}
	return nil, b.refused[t]
}

func (m *Meter) take(t triple, n need) *entry {
	e, ok := m.live.get(t)
	if ok && (!n.capped || e.capped.Load()) && e.take(n.kind, n.bytes) {
		return e
	}
	return nil
}

// serve reserves for all who wait. It runs under io. When ctx, which is that
// of one of them, ends, the others have to try again.
func (m *Meter) serve(ctx context.Context) error {
	m.mu.Lock()
	b := m.pending
	m.pending = newBatch()
	m.mu.Unlock()
	err := m.fulfil(ctx, b)
	b.done = true
	if err != nil && ctx.Err() == nil {
		b.err = storeError(err)
	}
	return err
}

func (m *Meter) fulfil(ctx context.Context, b *batch) error {
	err := m.tryFulfil(ctx, b)
	if errors.Is(err, keys.ErrConflict) {
		m.disown(ctx)
		err = m.tryFulfil(ctx, b)
	}
	return err
}

func (m *Meter) tryFulfil(ctx context.Context, b *batch) error {
	if len(b.wants) == 0 {
		return nil
	}
	if err := m.load(ctx); err != nil {
		return err
	}
	plans := make([]*plan, 0, len(b.wants))
	for t, w := range b.wants {
		e, err := m.entry(ctx, t)
		if err != nil {
			return err
		}
		plans = append(plans, m.planWant(e, w))
	}
	if err := m.write(ctx, plans); err != nil {
		return err
	}
	for _, p := range plans {
		if p.capped && p.e.count[applied].used.Load()+p.need > p.target[applied] {
			b.refused[p.e.triple] = wrapsRefused(p)
		}
	}
	return nil
}

// planWant plans to cover a want, and more if the triple was quick to use up
// what it had.
func (m *Meter) planWant(e *entry, w *want) *plan {
	p := &plan{e: e, target: e.stored, last: e.last.Load(), capped: w.capped || e.capped.Load(), need: w.need[applied]}
	for i := range kinds {
		c := &e.count[i]
		used := c.used.Load()
		if w.need[i] == 0 && (used <= c.ask.Load() || m.stopped) {
			continue
		}
		block := uint64(0)
		if !m.stopped {
			e.block[i] = min(max(e.block[i]*4, minBlock[i]), maxBlock[i])
			block = e.block[i]
		}
		p.target[i] = max(e.stored[i], used+w.need[i]+block)
		if m.stopped {
			p.target[i] = used + w.need[i]
		}
	}
	if w.need != ([kinds]uint64{}) {
		p.last = max(p.last, m.now().UnixMicro()) // it is about to be used
	}
	return p
}

// entry returns the entry of a triple; a new one begins above what this node
// has stored for it, which need not be known while the store cannot be read.
// It runs under io.
func (m *Meter) entry(ctx context.Context, t triple) (*entry, error) {
	if e, ok := m.live.get(t); ok {
		return e, nil
	}
	if m.outage.Load() && m.live.len() >= 2*m.most { // nothing is given up before its end
		return nil, errOutage
	}
	e := &entry{triple: t, busy: m.now()}
	if base, known := m.cold.take(t); known {
		e.rebase(base)
	} else if !m.outage.Load() {
		base, err := m.base(ctx, t)
		if err == nil {
			e.rebase(base)
		} else if !m.toSpill(ctx, err) {
			return nil, err
		}
	}
	m.mu.Lock()
	m.version(t.of()).live[e] = struct{}{}
	m.mu.Unlock()
	return m.live.put(t, e), nil
}

// rebase says what the store holds of an entry's triple from before.
func (e *entry) rebase(base keys.Usage) {
	e.base, e.based = base, true
	if !base.LastUse.IsZero() {
		e.storedLast = base.LastUse.UnixMicro()
		if e.last.Load() < e.storedLast {
			e.last.Store(e.storedLast)
		}
	}
}

func storeError(err error) error {
	if errors.Is(err, keys.ErrStore) {
		return err
	}
	return fmt.Errorf("usage: %w: %w", keys.ErrStore, err)
}
