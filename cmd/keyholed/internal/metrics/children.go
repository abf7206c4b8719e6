package metrics

import (
	"maps"
	"sync"
	"sync/atomic"
)

// maxChildren bounds the label sets of one metric: whatever produces more is
// not what its labels were made for.
const maxChildren = 512

// children resolves label sets to metrics once. Reading takes no lock and
// allocates nothing.
type children[K comparable, V any] struct {
	make  func(K) V
	other K // stands for what goes beyond maxChildren

	known atomic.Pointer[map[K]V] // immutable
	mu    sync.Mutex              // held while known is replaced
}

func newChildren[K comparable, V any](other K, make func(K) V) *children[K, V] {
	c := &children[K, V]{make: make, other: other}
	c.known.Store(&map[K]V{})
	return c
}

func (c *children[K, V]) get(key K) V {
	if v, ok := (*c.known.Load())[key]; ok {
		return v
	}
	return c.add(key)
}

func (c *children[K, V]) add(key K) V {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := *c.known.Load()
	if len(known) >= maxChildren {
		key = c.other
	}
	if v, ok := known[key]; ok {
		return v
	}
	v := c.make(key)
	next := maps.Clone(known)
	next[key] = v
	c.known.Store(&next)
	return v
}
