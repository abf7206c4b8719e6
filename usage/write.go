package usage

import (
	"context"

	"keyhole/keys"
)

// writeRows bounds one write to the store.
const writeRows = 1024

// plan is what shall be stored for an entry.
type plan struct {
	e       *entry
	target  [kinds]uint64
	last    int64
	need    uint64 // of wraps, by those who wait
	capped  bool   // keys.MaxWraps is to be observed
	final   bool   // the entry is closed: exactly what was used, and no use after it
	spilled bool   // it was kept by the spill
}

// write makes plans true, in the store or, while that cannot be written, in
// the spill. It runs under io.
func (m *Meter) write(ctx context.Context, plans []*plan) error {
	if !m.outage.Load() {
		err := m.writeStore(ctx, plans)
		if err == nil || !m.toSpill(ctx, err) {
			return err
		}
	}
	return m.writeSpill(plans)
}

// writeStore makes plans true in the store. What is given back is out of use
// before the write, what is taken is in use after it.
func (m *Meter) writeStore(ctx context.Context, plans []*plan) error {
	checks, err := m.capWraps(ctx, plans)
	if err != nil {
		return err
	}
	rows := make([]keys.Usage, len(plans))
	for i, p := range plans {
		e := p.e
		for k := range kinds {
			limit := p.target[k]
			if p.final {
				limit = 0
			}
			used := e.count[k].lower(limit)
			if p.final {
				p.target[k] = used
			}
			p.target[k] = max(p.target[k], used)
			e.inStore[k] = min(e.inStore[k], p.target[k])
		}
		if p.final {
			p.last = max(p.last, e.last.Load())
		}
		rows[i] = e.row(p.target, p.last)
		e.unsure = true
	}
	if err = m.put(ctx, rows); err == nil {
		err = m.checkWraps(ctx, checks, plans)
	}
	now := m.now()
	for _, p := range plans {
		e := p.e
		if err != nil {
			for k := range kinds {
				e.stored[k] = min(e.stored[k], p.target[k])
			}
			continue
		}
		e.stored, e.inStore, e.storedLast, e.storedAt, e.unsure = p.target, p.target, p.last, now, false
		if !p.final {
			e.open(p)
		}
	}
	return err
}

// open lets an entry be used as far as was planned and is stored.
func (e *entry) open(p *plan) {
	e.capped.Store(p.capped)
	for k := range kinds {
		e.count[k].raise(p.target[k])
	}
	e.asked.Store(false)
}

func (m *Meter) put(ctx context.Context, rows []keys.Usage) error {
	for len(rows) > 0 {
		n := min(len(rows), writeRows)
		if err := m.reserveRows(ctx, rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func (m *Meter) reserveRows(ctx context.Context, rows []keys.Usage) error {
	ctx, cancel := m.soon(ctx)
	defer cancel()
	return m.store.ReserveUsage(ctx, m.node, rows)
}
