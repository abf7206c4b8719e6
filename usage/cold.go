package usage

import (
	"context"

	"keyhole/keys"
)

// coldLimit bounds the rows of triples not in use that are kept in memory, so
// that the next use of one need not read them again.
const coldLimit = 50_000

type coldID struct {
	version   uint32
	principal string
}

// coldRows holds, for some keys, all rows of this node.
type coldRows map[string]map[coldID]keys.Usage

// base returns what this node has stored for a triple that is not live.
func (m *Meter) base(ctx context.Context, t triple) (keys.Usage, error) {
	rows, ok := m.cold[t.key]
	if !ok {
		stored, err := m.store.Usage(ctx, t.key, m.node)
		if err != nil {
			return keys.Usage{}, err
		}
		rows = make(map[coldID]keys.Usage, len(stored))
		for _, u := range stored {
			rows[coldID{u.Version, u.Principal}] = u
		}
		m.cold[t.key] = rows
		m.cold.trim(t.key)
	}
	id := coldID{t.version, t.principal}
	u := rows[id]
	delete(rows, id)
	return u, nil
}

// forget puts back what is stored for a triple that goes out of use.
func (c coldRows) forget(t triple, u keys.Usage) {
	if rows, ok := c[t.key]; ok {
		rows[coldID{t.version, t.principal}] = u
		c.trim(t.key)
	}
}

// trim drops the rows of other keys than the one at hand when there are too
// many, and that one's too if they are too many by themselves.
func (c coldRows) trim(key string) {
	sum := 0
	for _, rows := range c {
		sum += len(rows)
	}
	for k, rows := range c {
		if sum > coldLimit && (k != key || len(rows) > 2*coldLimit) {
			sum -= len(rows)
			delete(c, k)
		}
	}
}
