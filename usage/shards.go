package usage

import (
	"hash/maphash"
	"iter"
	"maps"
	"sync"
	"sync/atomic"
)

// shardCount keeps the copy that a new entry costs small.
const shardCount = 256

// shards is a map that is read without locks and copied, a part of it, to be
// changed. hash must spread keys that an attacker chose.
type shards[K comparable, V any] struct {
	seed   maphash.Seed
	hash   func(seed maphash.Seed, k K) uint64
	parts  [shardCount]shard[K, V]
	length atomic.Int64
}

type shard[K comparable, V any] struct {
	read atomic.Pointer[map[K]V]
	mu   sync.Mutex // of those who change it
}

func newShards[K comparable, V any](hash func(maphash.Seed, K) uint64) *shards[K, V] {
	return &shards[K, V]{seed: maphash.MakeSeed(), hash: hash}
}

func (s *shards[K, V]) shard(k K) *shard[K, V] { return &s.parts[s.hash(s.seed, k)%shardCount] }

func (s *shards[K, V]) get(k K) (v V, ok bool) {
	m := s.shard(k).read.Load()
	if m == nil {
		return v, false
	}
	v, ok = (*m)[k]
	return v, ok
}

// put enters v, or returns what is there already.
func (s *shards[K, V]) put(k K, v V) V {
	p := s.shard(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	next := map[K]V{}
	if m := p.read.Load(); m != nil {
		if old, ok := (*m)[k]; ok {
			return old
		}
		next = make(map[K]V, len(*m)+1)
		maps.Copy(next, *m)
	}
	next[k] = v
	p.read.Store(&next)
	s.length.Add(1)
	return v
}

// remove takes out every entry of which gone is true.
func (s *shards[K, V]) remove(gone func(K, V) bool) {
	for i := range s.parts {
		p := &s.parts[i]
		p.mu.Lock()
		if m := p.read.Load(); m != nil {
			next := make(map[K]V, len(*m))
			for k, v := range *m {
				if !gone(k, v) {
					next[k] = v
				}
			}
			s.length.Add(int64(len(next) - len(*m)))
			p.read.Store(&next)
		}
		p.mu.Unlock()
	}
}

// all iterates over what is there.
func (s *shards[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for i := range s.parts {
			if m := s.parts[i].read.Load(); m != nil {
				for k, v := range *m {
					if !yield(k, v) {
						return
					}
				}
			}
		}
	}
}

func (s *shards[K, V]) len() int { return int(s.length.Load()) }
