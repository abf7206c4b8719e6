package rest

import "sync"

// places are what callers share: at most so many are taken at one time, and
// no more than half of them (rounded up) by one caller.
type places struct {
	most int

	mu    sync.Mutex
	taken int
	by    map[string]int // of each caller who holds any
}

func newPlaces(most int) *places { return &places{most: most, by: map[string]int{}} }

// take takes a place; whoever got it gives it back.
func (p *places) take(who string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.most || p.by[who] >= (p.most+1)/2 {
		return false
	}
	p.taken++
	p.by[who]++
	return true
}

func (p *places) give(who string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[who]--; p.by[who] == 0 {
		delete(p.by, who)
	}
}
