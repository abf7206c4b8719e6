package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/storetest"
)

// observed is a real store whose reads can be counted, held up or refused.
type observed struct {
	store.Store
	loads, changes atomic.Int64
	down           atomic.Bool
	hold           chan struct{} // not nil: Changed waits for a value
}

var errDown = fmt.Errorf("store: down: %w", keys.ErrStore)

func (o *observed) Load(ctx context.Context) ([]*keys.Key, uint64, error) {
	o.loads.Add(1)
	if o.down.Load() {
		return nil, 0, errDown
	}
	return o.Store.Load(ctx)
}

func (o *observed) Changed(ctx context.Context, since uint64) ([]*keys.Key, []string, uint64, error) {
	o.changes.Add(1)
	if o.hold != nil {
		select {
		case <-o.hold:
		case <-ctx.Done():
			return nil, nil, 0, ctx.Err()
		}
	}
	if o.down.Load() {
		return nil, nil, 0, errDown
	}
	return o.Store.Changed(ctx, since)
}

func refresh(tb testing.TB, c *store.Cache) *store.Snapshot {
	tb.Helper()
	if err := c.Refresh(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	s, err := c.Snapshot()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// change takes the stored key to its next epoch.
func change(tb testing.TB, s store.Store, name string) {
	tb.Helper()
	k, err := s.Key(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	next := storetest.Step(k, func(k *keys.Key) { k.Description += "." })
	if err := s.Commit(tb.Context(), store.Change{Key: next, FromEpoch: k.Epoch}); err != nil {
		tb.Fatal(err)
	}
}

func remove(tb testing.TB, s store.Store, name string) {
	tb.Helper()
	k, err := s.Key(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Commit(tb.Context(), store.Change{Key: k, FromEpoch: k.Epoch, Delete: true}); err != nil {
		tb.Fatal(err)
	}
}

func has(t *testing.T, s *store.Snapshot, want ...string) {
	t.Helper()
	if got := strings.Join(s.Names(), " "); got != strings.Join(want, " ") {
		t.Errorf("the snapshot has %q, want %q", got, want)
	}
	for i, k := range s.Keys() {
		if byName, ok := s.Key(k.Name); !ok || byName != k || k.Name != s.Names()[i] {
			t.Errorf("%s is not what its name leads to", k.Name)
		}
	}
	if len(s.Keys()) != len(want) {
		t.Errorf("the snapshot has %d keys, want %d", len(s.Keys()), len(want))
	}
}

func TestSnapshotFollowsCommits(t *testing.T) {
	t.Parallel()
	db, _ := newSQLite(t)
	o := &observed{Store: db}
	c := store.NewCache(o, store.CacheConfig{})
	create(t, db, storetest.NewKey("b", 2), storetest.NewKey("a", 0))
	first := refresh(t, c)
	has(t, first, "a", "b")
	if again := refresh(t, c); again != first {
		t.Error("nothing changed, and the snapshot is another one")
	}
	create(t, db, storetest.NewKey("c", 1))
	change(t, db, "b")
	second := refresh(t, c)
	has(t, second, "a", "b", "c")
	if k, _ := second.Key("b"); k.Epoch != 2 {
		t.Errorf("b is at epoch %d", k.Epoch)
	}
	before, _ := first.Key("a")
	after, _ := second.Key("a")
	if before != after {
		t.Error("a key that did not change was read again")
	}
	remove(t, db, "a")
	third := refresh(t, c)
	has(t, third, "b", "c")
	create(t, db, storetest.NewKey("a", 0))
	remove(t, db, "a")
	has(t, refresh(t, c), "b", "c")
}

func TestSnapshotsStayAsTheyAre(t *testing.T) {
	t.Parallel()
	db, _ := newSQLite(t)
	c := store.NewCache(db, store.CacheConfig{})
	create(t, db, storetest.NewKey("a", 0), storetest.NewKey("b", 0))
	old := refresh(t, c)
	names, all := old.Names(), old.Keys()
	remove(t, db, "a")
	change(t, db, "b")
	create(t, db, storetest.NewKey("c", 0))
	has(t, refresh(t, c), "b", "c")
	has(t, old, "a", "b")
	if k, _ := old.Key("b"); k.Epoch != 1 || all[1] != k || names[0] != "a" {
		t.Errorf("the old snapshot has b at epoch %d", k.Epoch)
	}
}

func TestCacheReadsOnlyChanges(t *testing.T) {
	t.Parallel()
	db, _ := newSQLite(t)
	o := &observed{Store: db}
	c := store.NewCache(o, store.CacheConfig{})
	for i := range 5 {
		create(t, db, storetest.NewKey(fmt.Sprint("key-", i), 1))
		refresh(t, c)
	}
	if o.loads.Load() != 1 || o.changes.Load() != 4 {
		t.Errorf("%d loads and %d looks for changes", o.loads.Load(), o.changes.Load())
	}
}

func stale(t *testing.T, c *store.Cache) {
	t.Helper()
	var e *keys.Error
	if s, err := c.Snapshot(); !errors.Is(err, keys.ErrStale) || !errors.As(err, &e) || s != nil {
		t.Errorf("Snapshot: %v, want keys.ErrStale with a detail", err)
	}
	if all, err := c.Keys(); !errors.Is(err, keys.ErrStale) || all != nil {
		t.Errorf("Keys: %v, want keys.ErrStale", err)
	}
}

func TestStaleness(t *testing.T) {
	t.Parallel()
	db, _ := newSQLite(t)
	o := &observed{Store: db}
	now := time.Now()
	c := store.NewCache(o, store.CacheConfig{MaxStaleness: 10 * time.Second, Now: func() time.Time { return now }})
	create(t, db, storetest.NewKey("payments", 1))
	stale(t, c)
	if c.Age() != math.MaxInt64 {
		t.Errorf("before the first load the age is %s", c.Age())
	}
	has(t, refresh(t, c), "payments")
	now = now.Add(10 * time.Second)
	if all, err := c.Keys(); err != nil || len(all) != 1 {
		t.Errorf("at the limit: %v, %v", all, err)
	}
	now = now.Add(1)
	stale(t, c)
	if c.Age() != 10*time.Second+1 {
		t.Errorf("the age is %s", c.Age())
	}
	o.down.Store(true)
	if err := c.Refresh(t.Context()); !errors.Is(err, keys.ErrStore) {
		t.Errorf("Refresh: %v", err)
	}
	stale(t, c) // to have tried is not enough
	o.down.Store(false)
	has(t, refresh(t, c), "payments")
	if c.Age() != 0 {
		t.Errorf("the age is %s", c.Age())
	}
}

// TestContactIsWhenReadingBegan: what was read is as old as the beginning of
// the reading.
func TestContactIsWhenReadingBegan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		o := &observed{Store: db}
		c := store.NewCache(o, store.CacheConfig{MaxStaleness: 10 * time.Second})
		refresh(t, c)
		o.hold = make(chan struct{})
		done := make(chan error)
		go func() { done <- c.Refresh(t.Context()) }()
		synctest.Wait()
		<-time.After(8 * time.Second)
		o.hold <- struct{}{}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if c.Age() < 8*time.Second {
			t.Errorf("the age is %s", c.Age())
		}
		<-time.After(3 * time.Second)
		stale(t, c)
	})
}

// TestClockSteps: the default clock is the monotonic one, which no step of
// the wall clock moves.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	db, _ := newSQLite(t)
	c := store.NewCache(db, store.CacheConfig{})
	for range 2 { // by Load, then by Changed
		refresh(t, c)
		if at := c.Contact(); at == at.Round(0) {
			t.Errorf("%s has no monotonic part", at)
		}
	}
}

// TestRefreshIsShared: those who come while a refresh runs wait for the next
// one, all for the same.
func TestRefreshIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		o := &observed{Store: db}
		c := store.NewCache(o, store.CacheConfig{})
		refresh(t, c)
		o.hold = make(chan struct{})
		var wg sync.WaitGroup
		start := func(n int) {
			for range n {
				wg.Go(func() {
					if err := c.Refresh(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		start(1) // reads now
		start(50)
		if n := o.changes.Load(); n != 1 {
			t.Errorf("%d read at once", n)
		}
		o.hold <- struct{}{}
		synctest.Wait()
		o.hold <- struct{}{}
		wg.Wait()
		if n := o.changes.Load(); n != 2 {
			t.Errorf("51 refreshes read %d times", n)
		}
	})
}

// TestRefreshOfOneWhoLeaves: a caller whose context ends takes nobody along,
// neither who waits behind nor who counted on the same reading.
func TestRefreshOfOneWhoLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		o := &observed{Store: db, hold: make(chan struct{})}
		c := store.NewCache(o, store.CacheConfig{})
		refresh(t, c)
		leaving, cancel := context.WithCancel(t.Context())
		var results []chan error
		for _, ctx := range []context.Context{t.Context(), leaving, t.Context(), leaving} {
			result := make(chan error, 1)
			results = append(results, result)
			go func() { result <- c.Refresh(ctx) }()
			synctest.Wait() // the first reads, the others wait in this order
		}
		o.hold <- struct{}{}
		synctest.Wait() // the second reads
		cancel()
		synctest.Wait() // the third reads
		o.hold <- struct{}{}
		for i, leaves := range []bool{false, true, false, true} {
			if err := <-results[i]; leaves != errors.Is(err, context.Canceled) || !leaves && err != nil {
				t.Errorf("number %d, who leaves (%v): %v", i, leaves, err)
			}
		}
	})
}

// TestRefreshBehindCommit: a commit that returned is in the snapshot once a
// Refresh that began afterwards has returned.
func TestRefreshBehindCommit(t *testing.T) {
	t.Parallel()
	db, _ := newSQLite(t)
	c := store.NewCache(db, store.CacheConfig{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			k := storetest.NewKey(fmt.Sprint("key-", i), 1)
			for range 15 {
				if err := db.Commit(t.Context(), store.Change{Key: k, FromEpoch: k.Epoch - 1}); err != nil {
					t.Error(err)
					return
				}
				if err := c.Refresh(t.Context()); err != nil {
					t.Error(err)
					return
				}
				s, err := c.Snapshot()
				if err != nil {
					t.Error(err)
					return
				}
				if got, ok := s.Key(k.Name); !ok || got.Epoch != k.Epoch {
					t.Errorf("%s is at epoch %d, the snapshot has %+v", k.Name, k.Epoch, got)
					return
				}
				k = storetest.Step(k, func(*keys.Key) {})
			}
		})
	}
	wg.Wait()
}

// run starts c.Run; stop ends it and waits.
func run(t *testing.T, c *store.Cache) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestRunPolls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		o := &observed{Store: db}
		c := store.NewCache(o, store.CacheConfig{})
		stop := run(t, c)
		settle(t, o, 1)
		s, err := c.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		has(t, s)
		create(t, db, storetest.NewKey("payments", 1)) // by another gateway, say
		settle(t, o, 2)
		if s, err = c.Snapshot(); err != nil {
			t.Fatal(err)
		}
		has(t, s, "payments")
		began := time.Now()
		settle(t, o, 12)
		if d := time.Since(began); d < 9*time.Second || d > 11*time.Second {
			t.Errorf("ten polls took %s", d)
		}
		stop()
	})
}

// settle lets the bubble's time go on until the store was read n times, and
// the last of it is done.
func settle(t *testing.T, o *observed, n int64) {
	t.Helper()
	for limit := time.Now().Add(time.Hour); o.loads.Load()+o.changes.Load() < n; <-time.After(100 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("in an hour the store was read %d times, not %d", o.loads.Load()+o.changes.Load(), n)
		}
	}
	<-time.After(100 * time.Millisecond)
}

func TestRunLogsChangesOfState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		o := &observed{Store: db}
		var log bytes.Buffer
		c := store.NewCache(o, store.CacheConfig{MaxStaleness: 5 * time.Second, Log: slog.New(slog.NewTextHandler(&log, nil))})
		stop := run(t, c)
		for cycle := range 2 {
			settle(t, o, 3+40*int64(cycle))
			o.down.Store(true)
			settle(t, o, 23+40*int64(cycle))
			stale(t, c)
			o.down.Store(false)
			settle(t, o, 40+40*int64(cycle))
			if _, err := c.Snapshot(); err != nil {
				t.Error(err)
			}
		}
		stop()
		var levels []string
		for line := range strings.Lines(log.String()) {
			_, rest, _ := strings.Cut(line, "level=")
			level, _, _ := strings.Cut(rest, " ")
			levels = append(levels, level)
		}
		if got := strings.Join(levels, " "); got != "WARN ERROR INFO WARN ERROR INFO" {
			t.Errorf("the levels are %s:\n%s", got, log.String())
		}
	})
}

func TestRunWithoutAStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		o := &observed{Store: db}
		o.down.Store(true)
		var log bytes.Buffer
		c := store.NewCache(o, store.CacheConfig{Log: slog.New(slog.NewTextHandler(&log, nil))})
		stop := run(t, c)
		settle(t, o, 20)
		stale(t, c)
		o.down.Store(false)
		settle(t, o, 22)
		if _, err := c.Snapshot(); err != nil {
			t.Error(err)
		}
		stop()
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines:\n%s", n, log.String())
		}
	})
}

// TestStoreWentBack: a store that was put back to an older copy may have
// forgotten a revocation. The keys go stale, until an operator has looked.
func TestStoreWentBack(t *testing.T) {
	t.Parallel()
	now := time.Now()
	db, _ := newSQLite(t)
	c := store.NewCache(db, store.CacheConfig{Now: func() time.Time { return now }})
	create(t, db, storetest.NewKey("payments", 1))
	refresh(t, c)
	db.Exec(t, "UPDATE meta SET revision = 0")
	if err := c.Refresh(t.Context()); !errors.Is(err, keys.ErrStore) {
		t.Errorf("Refresh: %v", err)
	}
	now = now.Add(time.Minute)
	stale(t, c)
}

// Not parallel: AllocsPerRun counts what the whole process allocates.
func TestSnapshotAllocatesNothing(t *testing.T) {
	db, _ := newSQLite(t)
	c := store.NewCache(db, store.CacheConfig{})
	create(t, db, storetest.NewKey("payments", 1))
	refresh(t, c)
	n := testing.AllocsPerRun(1000, func() {
		s, err := c.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := s.Key("payments"); !ok {
			t.Fatal("no key")
		}
	})
	if n != 0 {
		t.Errorf("Snapshot allocates %v times", n)
	}
}
