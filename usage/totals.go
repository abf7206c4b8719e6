package usage

import (
	"context"
	"time"

	"keyhole/keys"
)

// version is the sum of what is counted for one version.
type version struct {
	live    map[*entry]struct{}
	rest    keys.Usage // what this node has stored, less what live triples added since they are live
	foreign keys.Usage // what other nodes have stored
}

// version returns a version's sums. It runs under mu.
func (m *Meter) version(id versionID) *version {
	v := m.versions[id]
	if v == nil {
		v = &version{live: map[*entry]struct{}{}}
		m.versions[id] = v
	}
	return v
}

// Of returns what was done with a version by all principals: on this node as
// of now, on others what they had reserved when Run last looked.
func (m *Meter) Of(key string, number uint32) keys.Usage {
	sum := keys.Usage{Key: key, Version: number}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.versions[versionID{key, number}]
	if v == nil {
		return sum
	}
	sum.Add(v.rest)
	sum.Add(v.foreign)
	for e := range v.live {
		sum.Add(e.usage(e.used(), e.last.Load()))
	}
	return sum
}

// ByAgent returns what was done with each version of a key by each principal,
// in order of both: on this node as of now, on others what they have
// reserved.
func (m *Meter) ByAgent(ctx context.Context, key string) ([]keys.Usage, error) {
	if err := m.acquire(ctx); err != nil {
		return nil, storeError(err)
	}
	defer m.release()
	if m.outage.Load() {
		return nil, errOutage
	}
	ctx, cancel := m.soon(ctx)
	defer cancel()
	rows, err := m.store.Usage(ctx, key, "")
	if err != nil {
		return nil, storeError(err)
	}
	for i := range rows {
		r := &rows[i]
		e, ok := m.live.get(triple{r.Key, r.Version, r.Principal})
		if !ok {
			continue
		}
		now := e.usage(e.used(), e.last.Load())
		r.Applied += now.Applied - min(r.Applied, e.inStore[applied])
		r.Processed += now.Processed - min(r.Processed, e.inStore[processed])
		r.Bytes += now.Bytes - min(r.Bytes, e.inStore[volume])
		if now.LastUse.After(r.LastUse) {
			r.LastUse = now.LastUse
		}
	}
	return rows, nil
}

// Load claims the counters of this node, reads what is stored, and brings to
// the store what was kept in a file before a crash. Call it when this process
// has the node's name for itself, before the first use; without it the first
// use does.
func (m *Meter) Load(ctx context.Context) error {
	if err := m.acquire(ctx); err != nil {
		return storeError(err)
	}
	defer m.release()
	if err := m.load(ctx); err != nil {
		return storeError(err)
	}
	return nil
}

func (m *Meter) load(ctx context.Context) error {
	if m.loaded {
		return nil
	}
	if err := m.openSpill(); err != nil {
		return err
	}
	if err := m.store.ClaimUsage(ctx, m.node); err != nil {
		return err
	}
	own, err := m.store.Usage(ctx, "", m.node)
	if err != nil {
		return err
	}
	if own, err = m.mergeSpill(ctx, own); err != nil {
		return err
	}
	all, err := m.store.Usage(ctx, "", "")
	if err != nil {
		return err
	}
	m.mu.Lock()
	for _, u := range own {
		m.version(versionID{u.Key, u.Version}).rest.Add(u)
	}
	m.mu.Unlock()
	m.cold.fill(own)
	m.setForeign(all, "")
	m.loaded, m.merged, m.fresh = true, false, m.now()
	return nil
}

// A reading of all totals takes at most this part of the time.
const (
	refreshEvery = time.Second
	refreshShare = 50
)

// refresh reads what other nodes have stored, if it is time to. It runs under
// io.
func (m *Meter) refresh(ctx context.Context) error {
	begin := m.now()
	if !m.loaded || begin.Before(m.stale) && !begin.Before(m.fresh) {
		return nil
	}
	// Who waits for the store must not wait long when it hangs.
	if m.spill != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(m.wait, 4*m.took))
		defer cancel()
	}
	all, err := m.store.Usage(ctx, "", "")
	if err != nil {
		m.took = min(2*m.took+m.wait/2, ioTimeout) // should there be more to read now
		return err
	}
	m.setForeign(all, "")
	m.fresh, m.merged = m.now(), false
	m.took = m.fresh.Sub(begin)
	m.stale = m.fresh.Add(max(refreshEvery, refreshShare*m.took))
	return nil
}

// readForeign reads what other nodes have stored for a key.
func (m *Meter) readForeign(ctx context.Context, key string) error {
	ctx, cancel := m.soon(ctx)
	defer cancel()
	rows, err := m.store.Usage(ctx, key, "")
	if err != nil {
		return err
	}
	m.setForeign(rows, key)
	return nil
}

// readWraps reads how many wraps of a version all nodes have stored.
func (m *Meter) readWraps(ctx context.Context, id versionID) (uint64, error) {
	ctx, cancel := m.soon(ctx)
	defer cancel()
	rows, err := m.store.Usage(ctx, id.key, "")
	var sum uint64
	for _, r := range rows {
		if r.Version == id.number {
			sum += r.Applied
		}
	}
	return sum, err
}

// setForeign takes over the figures of all nodes: what is not this node's is
// other nodes'. Where this node does not know whether its last write was
// made, they come out too high until the next one. key "": rows are all that
// there are.
func (m *Meter) setForeign(rows []keys.Usage, key string) {
	sums := map[versionID]keys.Usage{}
	for _, r := range rows {
		id := versionID{r.Key, r.Version}
		sum := sums[id]
		sum.Add(r)
		sums[id] = sum
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, sum := range sums {
		v := m.version(id)
		own := v.inStore()
		v.foreign = keys.Usage{
			Applied: sum.Applied - min(sum.Applied, own.Applied), Processed: sum.Processed - min(sum.Processed, own.Processed),
			Bytes: sum.Bytes - min(sum.Bytes, own.Bytes), LastUse: sum.LastUse,
		}
	}
	for id, v := range m.versions {
		if _, ok := sums[id]; !ok && len(v.live) == 0 && (key == "" || id.key == key) {
			delete(m.versions, id) // of a key that was deleted
		}
	}
}

// inStore returns what the store holds for this node, at the least.
func (v *version) inStore() keys.Usage {
	own := v.rest
	for e := range v.live {
		own.Add(e.usage(e.inStore, e.storedLast))
	}
	return own
}

// storedWraps returns how many wraps of a version all nodes have reserved.
func (m *Meter) storedWraps(id versionID) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.version(id)
	sum := v.rest.Applied + v.foreign.Applied
	for e := range v.live {
		sum += e.stored[applied]
	}
	return sum
}
