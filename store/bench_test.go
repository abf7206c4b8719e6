package store_test

import (
	"fmt"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/storetest"
)

// filled returns a store of 1,000 keys with ten versions each.
func filled(b *testing.B) *store.SQLite {
	b.Helper()
	s, _ := newSQLite(b)
	for i := range 1000 {
		create(b, s, storetest.NewKey(fmt.Sprintf("key-%04d", i), 10))
	}
	return s
}

func BenchmarkCommit(b *testing.B) {
	s, _ := newSQLite(b)
	k := storetest.NewKey("payments", 10)
	create(b, s, k)
	for b.Loop() {
		next := storetest.Step(k, func(*keys.Key) {})
		if err := s.Commit(b.Context(), store.Change{Key: next, FromEpoch: k.Epoch}); err != nil {
			b.Fatal(err)
		}
		k = next
	}
}

func BenchmarkLoad(b *testing.B) {
	s := filled(b)
	for b.Loop() {
		if all, _, err := s.Load(b.Context()); err != nil || len(all) != 1000 {
			b.Fatal(err)
		}
	}
}

// BenchmarkReserveUsage writes the counters of a thousand pairs of version and
// principal at once.
func BenchmarkReserveUsage(b *testing.B) {
	s, _ := newSQLite(b)
	var all []keys.Usage
	for i := range 1000 {
		all = append(all, keys.Usage{Key: fmt.Sprintf("key-%04d", i%50), Version: 1, Principal: fmt.Sprint("jwt:corp:agent-", i), LastUse: time.Now()})
	}
	for b.Loop() {
		for i := range all {
			all[i].Applied += 64
		}
		if err := s.ReserveUsage(b.Context(), "node", all); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRefresh(b *testing.B) {
	s := filled(b)
	c := store.NewCache(s, store.CacheConfig{})
	refresh(b, c)
	b.Run("nothing", func(b *testing.B) {
		for b.Loop() {
			refresh(b, c)
		}
	})
	b.Run("one-key", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			change(b, s, "key-0500")
			b.StartTimer()
			refresh(b, c)
		}
	})
}

func BenchmarkSnapshot(b *testing.B) {
	s, _ := newSQLite(b)
	create(b, s, storetest.NewKey("payments", 10))
	c := store.NewCache(s, store.CacheConfig{})
	refresh(b, c)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			snap, err := c.Snapshot()
			if err != nil {
				b.Error(err)
				return
			}
			if _, ok := snap.Key("payments"); !ok {
				b.Error("no key")
				return
			}
		}
	})
}
