// Package lru is a bounded map for many readers at once.
package lru

import (
	"hash/maphash"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const shards = 16

// Map remembers the entries used last. It is safe for concurrent use; its
// entries are spread over shards, each with its own lock and bound, so that
// it forgets approximately, not exactly, the entry used least recently.
type Map[K comparable, V any] struct {
	seed   maphash.Seed
	shards [shards]shard[K, V]
}

type shard[K comparable, V any] struct {
	mu  sync.Mutex
	lru *simplelru.LRU[K, V]
}

// New returns a map of at most size entries, rounded up to a multiple of 16.
func New[K comparable, V any](size int) *Map[K, V] {
	m := &Map[K, V]{seed: maphash.MakeSeed()}
	per := max(1, (size+shards-1)/shards)
	for i := range m.shards {
		// The only error is a size below one.
		m.shards[i].lru, _ = simplelru.NewLRU[K, V](per, nil)
	}
	return m
}

func (m *Map[K, V]) shard(k K) *shard[K, V] {
	return &m.shards[maphash.Comparable(m.seed, k)%shards]
}

// Get returns the value of k and marks it as used.
func (m *Map[K, V]) Get(k K) (V, bool) {
	s := m.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lru.Get(k)
}

// Put sets the value of k.
func (m *Map[K, V]) Put(k K, v V) {
	s := m.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lru.Add(k, v)
}

// GetOrMake returns the value of k, made by make if there is none. All
// callers for one k get the same value until it is forgotten.
func (m *Map[K, V]) GetOrMake(k K, make func() V) V {
	s := m.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.lru.Get(k); ok {
		return v
	}
	v := make()
	s.lru.Add(k, v)
	return v
}

// Remove forgets k.
func (m *Map[K, V]) Remove(k K) {
	s := m.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lru.Remove(k)
}

// Len returns the number of entries.
func (m *Map[K, V]) Len() int {
	n := 0
	for i := range m.shards {
		m.shards[i].mu.Lock()
		n += m.shards[i].lru.Len()
		m.shards[i].mu.Unlock()
	}
	return n
}
