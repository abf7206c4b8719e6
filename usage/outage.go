package usage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keyhole/keys"
	"keyhole/usage/internal/spill"
)

// storeWait is how long whoever waits for the store waits before it counts as
// being down, where there is a spill.
const storeWait = 2 * time.Second

// errOutage says that the store was found to be down before.
var errOutage = fmt.Errorf("usage: the store cannot be written at the moment: %w", keys.ErrStore)

// soon bounds a use of the store.
func (m *Meter) soon(ctx context.Context) (context.Context, context.CancelFunc) {
	if m.spill == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, m.wait)
}

// toSpill reports whether, after a failure of the store, reservations go to
// the spill. ctx is that of whoever waits.
func (m *Meter) toSpill(ctx context.Context, err error) bool {
	down := errors.Is(err, keys.ErrStore) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if m.spill == nil || !down || ctx.Err() != nil {
		return false
	}
	if !m.outage.Swap(true) && !m.told {
		m.told = true
		m.log.WarnContext(ctx, "the store cannot be written; usage is kept in a file until it can", "dir", m.dir, "err", err)
	}
	return true
}

// writeSpill keeps what plans reserve beyond what the store holds. Nothing is
// given back before the end of Run, and no entry given up.
func (m *Meter) writeSpill(plans []*plan) error {
	plans = slices.DeleteFunc(slices.Clone(plans), func(p *plan) bool { return p.final && !m.stopped })
	m.shareWraps(plans)
	rows := make([]keys.Usage, len(plans))
	for i, p := range plans {
		var beyond [kinds]uint64
		for k := range kinds {
			if p.final {
				p.target[k] = p.e.count[k].lower(0)
			} else {
				p.target[k] = max(p.target[k], p.e.stored[k])
			}
			beyond[k] = p.target[k] - min(p.target[k], p.e.inStore[k])
		}
		p.last, p.spilled = max(p.last, p.e.last.Load()), true
		rows[i] = p.e.usage(beyond, p.last)
	}
	if err := m.spill.Put(rows); err != nil {
		return storeError(err)
	}
	for _, p := range plans {
		p.e.stored, p.e.unsure = p.target, true
		if !p.final {
			p.e.open(p)
		}
	}
	return nil
}

// probeKey is no name of a key.
const probeKey = "-"

// probe looks whether the store answers. Nobody waits for it.
func (m *Meter) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.wait)
	defer cancel()
	_, err := m.store.Usage(ctx, probeKey, m.node)
	return err
}

// recover has the store hold what the spill does, and ends the outage. It
// runs under io.
func (m *Meter) recover(ctx context.Context) error {
	if err := m.load(ctx); err != nil {
		return err
	}
	var plans []*plan
	if err := m.rebaseAll(ctx); err != nil {
		return err
	}
	for _, e := range m.live.all() {
		if e.unsure || e.stored != e.inStore {
			plans = append(plans, &plan{e: e, target: e.stored, last: e.last.Load(), capped: e.capped.Load()})
		}
	}
	for part := range slices.Chunk(plans, writeRows) {
		if err := m.writeStore(ctx, part); err != nil {
			return err
		}
		for _, p := range part {
			m.spill.Forget(p.e.usage(p.target, p.last))
		}
	}
	m.endSpill(ctx, len(plans))
	m.outage.Store(false)
	return nil
}

// rebaseAll finds out what the store holds from before of the triples that
// came into use during an outage, key by key.
func (m *Meter) rebaseAll(ctx context.Context) error {
	unknown := map[string][]*entry{}
	for t, e := range m.live.all() {
		if !e.based {
			unknown[t.key] = append(unknown[t.key], e)
		}
	}
	for key, entries := range unknown {
		rows, err := m.rows(ctx, key)
		if err != nil {
			return err
		}
		for _, e := range entries {
			e.rebase(rows[coldID{e.version, e.principal}])
		}
	}
	return nil
}

// endSpill empties the file, all rows of which the store holds now. If that
// fails a crash counts them twice, and tick tries again.
func (m *Meter) endSpill(ctx context.Context, rows int) {
	if rows == 0 {
		return
	}
	m.merged, m.stale = true, time.Time{}
	if err := m.spill.Tidy(); err != nil {
		m.log.WarnContext(ctx, "the store has what was kept in a file, which cannot be emptied", "dir", m.dir, "err", err)
		return
	}
	m.log.InfoContext(ctx, "the store has what was kept in a file while it could not be written", "rows", rows)
}

// openSpill opens the file, if there shall be one.
func (m *Meter) openSpill() (err error) {
	if m.dir == "" || m.spill != nil {
		return nil
	}
	m.spill, err = spill.Open(m.dir, m.node)
	return err
}

// mergeSpill adds what the spill holds to what the store has for this node. A
// crash on the way counts some of it twice.
func (m *Meter) mergeSpill(ctx context.Context, own []keys.Usage) ([]keys.Usage, error) {
	if m.spill == nil || m.spill.Len() == 0 {
		return own, nil
	}
	at := make(map[triple]int, len(own))
	for i, u := range own {
		at[triple{u.Key, u.Version, u.Principal}] = i
	}
	spilled := m.spill.Rows()
	for part := range slices.Chunk(spilled, writeRows) {
		rows := make([]keys.Usage, len(part))
		for j, u := range part {
			i, there := at[triple{u.Key, u.Version, u.Principal}]
			if !there {
				i = len(own)
				own = append(own, keys.Usage{Key: u.Key, Version: u.Version, Principal: u.Principal})
			}
			own[i].Add(u)
			rows[j] = own[i]
		}
		if err := m.put(ctx, rows); err != nil {
			return nil, err
		}
		m.spill.Forget(part...)
	}
	m.endSpill(ctx, len(spilled))
	return own, nil
}

// disown lets go of everything, after another process has claimed this node's
// counters. What was used is covered by what the store held then, and by the
// spill. Should this be the gateway that the name belongs to, as heartbeats
// tell, it claims them back by loading anew.
func (m *Meter) disown(ctx context.Context) {
	m.log.WarnContext(ctx, "another gateway has counted under the name of this one", "node", m.node)
	for _, e := range m.live.all() {
		for k := range kinds {
			e.count[k].lower(0)
		}
	}
	m.live.remove(func(triple, *entry) bool { return true })
	m.mu.Lock()
	m.versions = map[versionID]*version{}
	m.mu.Unlock()
	m.loaded = false
}
