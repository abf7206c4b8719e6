package usage

import (
	"context"
	"time"

	"keyhole/keys"
)

// While the store is down nobody knows what other nodes do. So a part of
// keys.MaxWraps is kept for outages, a share for each node, of which a
// version can have wrapsNodes:
//
//   - Reservations in the store end at wrapsLimit for all nodes together.
//   - In an outage a node reserves its share at most, beyond what the store
//     holds for it, and nothing if the store held more than wrapsLimit when
//     it was last read.
//   - Before the next outage what was reserved so is in the store, and the
//     store was read once more.
//
// The sum of all that is reserved, in the store and in all spills, is then
// never above keys.MaxWraps. Since the moment at which the store held
// wrapsLimit last, each node has added its share once at most: had it added
// one and come back, it would have seen the store above wrapsLimit.
const (
	wrapsNodes = 64
	wrapsShare = 1 << 21
	wrapsKept  = wrapsNodes * wrapsShare
	wrapsLimit = keys.MaxWraps - wrapsKept
)

// Close to wrapsLimit the figures of other nodes are read around a write,
// and always when they are old.
const (
	wrapsClose = wrapsLimit / 2
	wrapsFresh = 30 * time.Second
)

// capWraps cuts plans that would go beyond wrapsLimit. It returns the
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
		room := uint64(wrapsLimit) - min(wrapsLimit, others)
		p.target[applied] = min(p.target[applied], room)
		total[id] = others + max(p.target[applied], p.e.stored[applied])
	}
	return check, nil
}

// checkWraps takes plans back that went beyond wrapsLimit together with
// other nodes.
func (m *Meter) checkWraps(ctx context.Context, check map[versionID]bool, plans []*plan) error {
	for id := range check {
		sum, err := m.readWraps(ctx, id)
		if err != nil {
			return err
		}
		if sum <= wrapsLimit {
			continue
		}
		var back []keys.Usage
		for _, p := range plans {
			if p.capped && p.e.of() == id && p.target[applied] > p.e.stored[applied] {
				p.target[applied] = max(p.e.stored[applied], p.e.count[applied].used.Load())
				back = append(back, p.e.row(p.target, p.last))
			}
		}
		if err := m.put(ctx, back); err != nil {
			return err
		}
	}
	return nil
}

// shareWraps cuts plans to this node's share of what is kept for outages.
func (m *Meter) shareWraps(plans []*plan) {
	left := map[versionID]uint64{}
	for _, p := range plans {
		e := p.e
		if !p.capped || p.final {
			continue
		}
		id := e.of()
		room, ok := left[id]
		if !ok {
			room = m.shareLeft(id)
		}
		// Blocks are small at the end of the share, so that others get some too.
		take := p.target[applied] - min(p.target[applied], e.stored[applied])
		short := e.count[applied].used.Load() + p.need
		short -= min(short, e.stored[applied])
		take = min(take, max(short, room/4), room)
		p.target[applied] = e.stored[applied] + take
		left[id] = room - take
	}
}

// shareLeft returns how much of its share this node may still reserve for a
// version in this outage.
func (m *Meter) shareLeft(id versionID) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.version(id)
	if m.merged || v.inStore().Applied+v.foreign.Applied > wrapsLimit {
		return 0
	}
	spilled := uint64(0)
	for e := range v.live {
		spilled += e.stored[applied] - min(e.stored[applied], e.inStore[applied])
	}
	return m.share - min(m.share, spilled)
}

// wrapsRefused is the answer to wraps that were not reserved.
func wrapsRefused(p *plan) error {
	id := keys.VersionID{Key: p.e.key, Number: p.e.version}
	if p.spilled {
		return keys.Errorf(keys.ErrStore, "the store is down, and version %s has encrypted as often as it may until it is back", id)
	}
	return keys.Errorf(keys.ErrVersionState, "version %s has encrypted as often as AES-GCM with random nonces may (2^32); rotate the key", id)
}
