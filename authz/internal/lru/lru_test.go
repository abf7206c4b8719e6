package lru_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"keyhole/authz/internal/lru"
)

func TestMap(t *testing.T) {
	t.Parallel()
	m := lru.New[int, string](64)
	if _, ok := m.Get(1); ok {
		t.Error("an empty map has an entry")
	}
	m.Put(1, "a")
	m.Put(1, "b")
	if v, ok := m.Get(1); v != "b" || !ok || m.Len() != 1 {
		t.Errorf("got %q, %v, %d entries", v, ok, m.Len())
	}
	for i := range 10000 {
		m.Put(i+2, "x")
		if v, ok := m.Get(1); v != "b" || !ok {
			t.Fatalf("the entry used each time is forgotten after %d others", i)
		}
	}
	if n := m.Len(); n > 64 {
		t.Errorf("%d entries, want 64 at most", n)
	}
	m.Remove(1)
	if _, ok := m.Get(1); ok {
		t.Error("a removed entry is there")
	}
	if m := lru.New[int, int](0); m.GetOrMake(1, func() int { return 7 }) != 7 {
		t.Error("the smallest map does not work")
	}
}

// TestGetOrMake: all callers get one value.
func TestGetOrMake(t *testing.T) {
	t.Parallel()
	m := lru.New[string, *atomic.Int32](16)
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				m.GetOrMake("k", func() *atomic.Int32 { made.Add(1); return new(atomic.Int32) }).Add(1)
			}
		})
	}
	wg.Wait()
	if v, _ := m.Get("k"); v.Load() != 800 || made.Load() != 1 {
		t.Errorf("%d of 800 counted, %d values made", v.Load(), made.Load())
	}
}
