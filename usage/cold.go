package usage

import (
	"context"

	"keyhole/keys"
)

// coldLimit bounds the rows of triples not in use that are kept in memory, so
// that the next use of one need not read them again, and can be counted from
// its base while the store cannot be read.
const coldLimit = 50_000

type coldID struct {
	version   uint32
	principal string
}

// coldRows holds, for some keys, all rows of this node but those in use.
type coldRows struct {
	keys  map[string]map[coldID]keys.Usage
	whole bool // there are none of other keys
	limit int  // coldLimit
}

// fill begins with all rows of this node.
func (c *coldRows) fill(own []keys.Usage) {
	*c = coldRows{keys: map[string]map[coldID]keys.Usage{}, limit: c.limit}
	if c.whole = len(own) <= c.limit; !c.whole {
		return
	}
	for _, u := range own {
		c.of(u.Key)[coldID{u.Version, u.Principal}] = u
	}
}

func (c *coldRows) of(key string) map[coldID]keys.Usage {
	rows := c.keys[key]
	if rows == nil {
		rows = map[coldID]keys.Usage{}
		c.keys[key] = rows
	}
	return rows
}

// take returns what is stored for a triple that comes into use, if that is
// known.
func (c *coldRows) take(t triple) (u keys.Usage, known bool) {
	if c.keys[t.key] == nil && !c.whole {
		return keys.Usage{}, false
	}
	rows, id := c.of(t.key), coldID{t.version, t.principal}
	u = rows[id]
	delete(rows, id)
	return u, true
}

// forget puts back what is stored for a triple that goes out of use.
func (c *coldRows) forget(t triple, u keys.Usage) {
	if c.keys[t.key] == nil && !c.whole {
		return
	}
	c.of(t.key)[coldID{t.version, t.principal}] = u
	c.trim(t.key)
}

// trim drops the rows of other keys than the one at hand when there are too
// many, and that one's too if they are too many by themselves.
func (c *coldRows) trim(key string) {
	sum := 0
	for _, rows := range c.keys {
		sum += len(rows)
	}
	for k, rows := range c.keys {
		if sum > c.limit && (k != key || len(rows) > 2*c.limit) {
			sum -= len(rows)
			delete(c.keys, k)
			c.whole = false
		}
	}
}

// rows reads all rows of this node of a key.
func (m *Meter) rows(ctx context.Context, key string) (map[coldID]keys.Usage, error) {
	ctx, cancel := m.soon(ctx)
	defer cancel()
	stored, err := m.store.Usage(ctx, key, m.node)
	if err != nil {
		return nil, err
	}
	rows := make(map[coldID]keys.Usage, len(stored))
	for _, u := range stored {
		rows[coldID{u.Version, u.Principal}] = u
	}
	return rows, nil
}

// base returns what this node has stored for a triple that comes into use.
func (m *Meter) base(ctx context.Context, t triple) (keys.Usage, error) {
	rows, err := m.rows(ctx, t.key)
	if err != nil {
		return keys.Usage{}, err
	}
	// Those of triples in use are in it too, and are overwritten when these
	// go out of use.
	m.cold.keys[t.key] = rows
	base, _ := m.cold.take(t)
	m.cold.trim(t.key)
	return base, nil
}
