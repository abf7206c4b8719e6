package store_test

import (
	"fmt"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/storetest"
)

// fill makes 1,000 keys with ten versions each.
func fill(b *testing.B, s store.Store) {
	b.Helper()
	for i := range 1000 {
		create(b, s, storetest.NewKey(fmt.Sprintf("key-%04d", i), 10))
	}
}

// databases runs a benchmark over both.
func databases(b *testing.B, run func(b *testing.B, s store.Store)) {
	b.Run("sqlite", func(b *testing.B) { s, _ := newSQLite(b); run(b, s) })
	b.Run("postgres", func(b *testing.B) { s, _ := newPostgres(b); run(b, s) })
}

// BenchmarkCommit does not wait for a disk over PostgreSQL: the server of
// the tests has fsync off.
func BenchmarkCommit(b *testing.B) {
	databases(b, func(b *testing.B, s store.Store) {
		k := storetest.NewKey("payments", 10)
		create(b, s, k)
		for b.Loop() {
			next := storetest.Step(k, func(*keys.Key) {})
			if err := s.Commit(b.Context(), store.Change{Key: next, FromEpoch: k.Epoch}); err != nil {
				b.Fatal(err)
			}
			k = next
		}
	})
}

// BenchmarkChanged is what each gateway asks each second.
func BenchmarkChanged(b *testing.B) {
	databases(b, func(b *testing.B, s store.Store) {
		create(b, s, storetest.NewKey("payments", 10))
		for b.Loop() {
			if _, _, _, err := s.Changed(b.Context(), 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkBeat is what each gateway says each second.
func BenchmarkBeat(b *testing.B) {
	databases(b, func(b *testing.B, s store.Store) {
		for b.Loop() {
			if err := s.Beat(b.Context(), keys.Node{Instance: "i", Name: "n"}, time.Minute); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkLease is one lease, taken and given up.
func BenchmarkLease(b *testing.B) {
	databases(b, func(b *testing.B, s store.Store) {
		for b.Loop() {
			if held, err := s.AcquireLease(b.Context(), "due", "i", time.Minute); err != nil || !held {
				b.Fatal(held, err)
			}
			if err := s.ReleaseLease(b.Context(), "due", "i"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	databases(b, func(b *testing.B, s store.Store) {
		fill(b, s)
		for b.Loop() {
			if all, _, err := s.Load(b.Context()); err != nil || len(all) != 1000 {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkReserveUsage writes the counters of a thousand pairs of version and
// principal at once.
func BenchmarkReserveUsage(b *testing.B) {
	databases(b, func(b *testing.B, s store.Store) {
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
	})
}

func BenchmarkRefresh(b *testing.B) {
	s, _ := newSQLite(b)
	fill(b, s)
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
