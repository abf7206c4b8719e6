package usage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyhole/keys"
)

// writeRows bounds one write to the store.
const writeRows = 1024

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
			b.refused[p.e.triple] = keys.Errorf(keys.ErrVersionState,
				"version %s has encrypted as often as AES-GCM with random nonces may (2^32); rotate the key",
				keys.VersionID{Key: p.e.key, Number: p.e.version})
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

// entry returns the entry of a triple; a new one begins with what this node
// has stored for it. It runs under io.
func (m *Meter) entry(ctx context.Context, t triple) (*entry, error) {
	if e, ok := m.live.get(t); ok {
		return e, nil
	}
	base, err := m.base(ctx, t)
	if err != nil {
		return nil, err
	}
	e := &entry{triple: t, busy: m.now()}
	e.stored = [kinds]uint64{base.Applied, base.Processed, base.Bytes}
	e.before = e.stored
	if !base.LastUse.IsZero() {
		e.storedLast = base.LastUse.UnixMicro()
		e.last.Store(e.storedLast)
	}
	for i := range e.count {
		e.count[i].used.Store(e.stored[i])
		e.count[i].raise(e.stored[i])
	}
	m.mu.Lock()
	v := m.version(t.of())
	v.live[e] = struct{}{}
	v.rest.Applied -= base.Applied
	v.rest.Processed -= base.Processed
	v.rest.Bytes -= base.Bytes
	m.mu.Unlock()
	return m.live.put(t, e), nil
}

func storeError(err error) error {
	if errors.Is(err, keys.ErrStore) {
		return err
	}
	return fmt.Errorf("usage: %w: %w", keys.ErrStore, err)
}

// plan is what the store shall hold for an entry.
type plan struct {
	e      *entry
	target [kinds]uint64
	last   int64
	need   uint64 // of wraps, by those who wait
	capped bool   // keys.MaxWraps is to be observed
	final  bool   // the entry is closed: exactly what was used, and no use after it
}

// write makes plans true. What is given back is out of use before the write,
// what is taken is in use after it. It runs under io.
func (m *Meter) write(ctx context.Context, plans []*plan) error {
	checks, err := m.capWraps(ctx, plans)
	if err != nil {
		return err
	}
	rows := make([]keys.Usage, len(plans))
	for i, p := range plans {
		for k := range kinds {
			limit := p.target[k]
			if p.final {
				limit = 0
			}
			used := p.e.count[k].lower(limit)
			if p.final {
				p.target[k] = used
			}
			p.target[k] = max(p.target[k], used)
		}
		if p.final {
			p.last = max(p.last, p.e.last.Load())
		}
		rows[i] = p.e.usage(p.target, p.last)
		p.e.unsure = true
	}
	if err := m.put(ctx, rows); err != nil {
		return err
	}
	if err := m.checkWraps(ctx, checks, plans); err != nil {
		return err
	}
	now := m.now()
	for _, p := range plans {
		e := p.e
		e.stored, e.storedLast, e.storedAt, e.unsure = p.target, p.last, now, false
		if p.final {
			continue
		}
		e.capped.Store(p.capped)
		for k := range kinds {
			e.count[k].raise(p.target[k])
		}
		e.asked.Store(false)
	}
	return nil
}

func (m *Meter) put(ctx context.Context, rows []keys.Usage) error {
	for len(rows) > 0 {
		n := min(len(rows), writeRows)
		if err := m.store.ReserveUsage(ctx, m.node, rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// Close to keys.MaxWraps the figures of other nodes are read around a write,
// and always when they are old.
const (
	wrapsClose = keys.MaxWraps / 2
	wrapsFresh = 30 * time.Second
)

// capWraps cuts plans that would go beyond keys.MaxWraps. It returns the
// versions to be checked after the write: of two nodes that come to the end
// at the same time, each writes and then looks, so that one sees the other.
func (m *Meter) capWraps(ctx context.Context, plans []*plan) (map[versionID]bool, error) {
	var check map[versionID]bool
	total := map[versionID]uint64{}
	for _, p := range plans {
		if !p.capped || p.target[applied] <= p.e.stored[applied] && p.e.capped.Load() {
			continue
		}
		id := p.e.of()
		sum, ok := total[id]
		if !ok {
			sum = m.storedWraps(id)
			if sum > wrapsClose || m.now().Sub(m.fresh) > wrapsFresh {
				if err := m.readForeign(ctx, id.key); err != nil {
					return nil, err
				}
				sum = m.storedWraps(id)
				if check == nil {
					check = map[versionID]bool{}
				}
				check[id] = true
			}
		}
		others := sum - min(sum, p.e.stored[applied])
		room := uint64(keys.MaxWraps) - min(keys.MaxWraps, others)
		p.target[applied] = min(p.target[applied], room)
		total[id] = others + max(p.target[applied], p.e.stored[applied])
	}
	return check, nil
}

// checkWraps takes plans back that went beyond keys.MaxWraps together with
// other nodes.
func (m *Meter) checkWraps(ctx context.Context, check map[versionID]bool, plans []*plan) error {
	for id := range check {
		sum, err := m.readWraps(ctx, id)
		if err != nil {
			return err
		}
		if sum <= keys.MaxWraps {
			continue
		}
		var back []keys.Usage
		for _, p := range plans {
			if p.capped && p.e.of() == id && p.target[applied] > p.e.stored[applied] {
				p.target[applied] = max(p.e.stored[applied], p.e.count[applied].used.Load())
				back = append(back, p.e.usage(p.target, p.last))
			}
		}
		if err := m.put(ctx, back); err != nil {
			return err
		}
	}
	return nil
}
