// Package barrier holds up what cannot be undone until every gateway that
// uses keys knows why it is done.
//
// What is to be destroyed has been made unusable before, in the store. When
// that is seen for the first time the revision of the store is noted; a
// gateway that has this revision in its snapshot does not use the thing. A
// gateway that is not heard stops using keys by itself (keys.Node.Until), and
// is not waited for any longer then.
package barrier

import (
	"sync"

	"keyhole/keys"
)

// maxThings bounds what is remembered. What is forgotten waits anew.
const maxThings = 10_000

// Barrier remembers what waits. The zero value serves.
type Barrier struct {
	mu    sync.Mutex
	since map[string]uint64 // by thing: the revision that all must have seen
}

// Passed reports whether every live node but self knows of a thing; otherwise
// it returns the names of those that do not. nodes and revision are what the
// store says, read after the thing was seen to be unusable in it; self is this
// process, whose snapshot has been read since. The name of a thing never
// stands for something that became unusable later.
func (b *Barrier) Passed(thing, self string, nodes []keys.Node, revision uint64) (behind []string, passed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	need, ok := b.since[thing]
	if !ok {
		if b.since == nil || len(b.since) >= maxThings {
			b.since = map[string]uint64{}
		}
		need = revision
		b.since[thing] = need
	}
	for _, n := range nodes {
		if n.Live && n.Instance != self && n.Revision < need {
			behind = append(behind, n.Name)
		}
	}
	if len(behind) > 0 {
		return behind, false
	}
	delete(b.since, thing)
	return nil, true
}
