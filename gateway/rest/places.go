package rest

import (
	"sync"

	"keyhole/keys"
)

// places are what callers share: at most so many are taken at one time, and
// no more than half of them (rounded up) by one caller.
type places struct {
	most int
	what string // for messages

	mu    sync.Mutex
	taken int
	by    map[string]int // of each caller who holds any
}

func newPlaces(most int, what string) *places {
	return &places{most: most, what: what, by: map[string]int{}}
}

// take takes a place; whoever got it gives it back. Errors:
// keys.ErrRateLimited (this caller has its half), ErrOverloaded (they are all
// taken).
func (p *places) take(who string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch half := (p.most + 1) / 2; {
	case p.by[who] >= half:
		return keys.Errorf(keys.ErrRateLimited, "this caller has %d %s at one time, which is the limit; wait for one to end", half, p.what)
	case p.taken >= p.most:
		return keys.Errorf(keys.ErrOverloaded, "the gateway is at its limit of %d %s at one time", p.most, p.what)
	}
	p.taken++
	p.by[who]++
	return nil
}

func (p *places) give(who string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[who]--; p.by[who] == 0 {
		delete(p.by, who)
	}
}
