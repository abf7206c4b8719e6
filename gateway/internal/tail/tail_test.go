package tail_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/gateway/internal/tail"
	"keyhole/keys"
	"keyhole/store"
)

// source is a store with a cache over it. It counts how often its events are
// read, and can be made to fail or to hang.
type source struct {
	*store.SQLite
	t     *testing.T
	cache *store.Cache
	reads atomic.Int64
	fail  atomic.Pointer[error]
	hang  chan struct{} // nil: it does not
	epoch uint64
	born  time.Time
}

func newSource(t *testing.T) (*source, *tail.Tail) {
	t.Helper()
	db, err := store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "keyhole.db"), []byte("32 bytes to seal rows of a test."))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := &source{SQLite: db, t: t, cache: store.NewCache(db, store.CacheConfig{}), born: time.Now()}
	s.refresh()
	return s, tail.New(s, s.cache)
}

func (s *source) refresh() {
	s.t.Helper()
	if err := s.cache.Refresh(context.Background()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *source) Events(ctx context.Context, after uint64, limit int) ([]keys.Notice, error) {
	s.reads.Add(1)
	if err := s.fail.Load(); err != nil {
		return nil, *err
	}
	if s.hang != nil {
		select {
		case <-s.hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.SQLite.Events(ctx, after, limit)
}

// write commits n events about the key a.
func (s *source) write(n int) {
	s.t.Helper()
	s.commit(store.Change{FromEpoch: s.epoch}, n)
	s.refresh()
}

func (s *source) commit(c store.Change, n int) {
	s.t.Helper()
	now := time.Now()
	s.epoch++
	if !c.Delete {
		c.Key = &keys.Key{
			Name: "a", Purpose: keys.PurposeSign, Algorithm: keys.ES256, Bits: 256, Token: "t", Epoch: s.epoch, CreatedAt: s.born, Tags: map[string]string{"team": "pay"},
		}
	}
	for range n {
		c.Notices = append(c.Notices, keys.Notice{Type: keys.NoticeAnnounced, At: now, Key: "a", Version: 1, When: now})
	}
	if err := s.Commit(context.Background(), c); err != nil {
		s.t.Fatal(err)
	}
}

// all reads to the end and returns how many events there were and the last id.
func all(t *testing.T, tl *tail.Tail, after uint64) (n int, last uint64) {
	t.Helper()
	last = after
	for {
		events, complete, err := tl.Next(t.Context(), last)
		if err != nil || !complete {
			t.Fatalf("behind %d: complete %v, %v", last, complete, err)
		}
		if len(events) == 0 {
			return n, last
		}
		for _, e := range events {
			if e.ID <= last {
				t.Fatalf("%d behind %d", e.ID, last)
			}
			last = e.ID
		}
		n += len(events)
	}
}

func TestManyFollowersReadOnce(t *testing.T) {
	t.Parallel()
	s, tl := newSource(t)
	s.write(3)
	start, err := tl.Newest(t.Context())
	if err != nil || start == 0 {
		t.Fatal(start, err)
	}
	for range 5 {
		before := s.reads.Load()
		s.write(2)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if n, last := all(t, tl, start); n != 2 || last <= start {
					t.Errorf("%d events up to %d", n, last)
				}
			})
		}
		wg.Wait()
		// The first one reads, which may bring a newer snapshot, and then
		// somebody finds nothing behind that.
		if n := s.reads.Load() - before; n < 1 || n > 2 {
			t.Errorf("the store was read %d times", n)
		}
		if start, err = tl.Newest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever is far behind reads the store, and comes to the same end.
func TestFarBehind(t *testing.T) {
	t.Parallel()
	s, tl := newSource(t)
	s.write(700)
	if n, err := tl.Newest(t.Context()); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	for range 5 {
		s.write(1500)
	}
	n, last := all(t, tl, 0)
	if newest, err := tl.Newest(t.Context()); err != nil || n != 700+5*1500 || last != newest {
		t.Errorf("%d events up to %d of %d, %v", n, last, newest, err)
	}
	// What is in memory needs no store.
	failure := errors.New("the store is gone")
	s.fail.Store(&failure)
	if n, _ := all(t, tl, last-4000); n != 4000 {
		t.Errorf("%d events from memory", n)
	}
	if _, _, err := tl.Next(t.Context(), last-5000); !errors.Is(err, failure) {
		t.Errorf("beyond what is kept: %v", err)
	}
}

func TestGone(t *testing.T) {
	t.Parallel()
	s, tl := newSource(t)
	s.write(10)
	if _, complete, err := tl.Next(t.Context(), 1<<40); err != nil || complete {
		t.Errorf("beyond the end: %v, %v", complete, err)
	}
	if n, err := s.ExpireEvents(t.Context(), time.Now().Add(time.Hour)); err != nil || n != 10 {
		t.Fatal(n, err)
	}
	if _, complete, err := tl.Next(t.Context(), 3); err != nil || complete {
		t.Errorf("expired: %v, %v", complete, err)
	}
	if events, complete, err := tl.Next(t.Context(), 10); err != nil || !complete || len(events) != 0 {
		t.Errorf("at the end: %v, %v, %v", events, complete, err)
	}
}

// A failure loses nothing.
func TestAfterAFailure(t *testing.T) {
	t.Parallel()
	s, tl := newSource(t)
	start, err := tl.Newest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.write(300)
	failure := errors.New("for a moment")
	s.fail.Store(&failure)
	if _, _, err := tl.Next(t.Context(), start); !errors.Is(err, failure) {
		t.Errorf("%v", err)
	}
	s.fail.Store(nil)
	if n, _ := all(t, tl, start); n != 300 {
		t.Errorf("%d events", n)
	}
}

// A follower need not wait for another one's hanging store.
func TestLeavesWhileAnotherReads(t *testing.T) {
	t.Parallel()
	s, tl := newSource(t)
	s.write(1)
	if _, err := tl.Newest(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.write(300)
	s.hang = make(chan struct{})
	reading := make(chan error, 1)
	go func() { _, _, err := tl.Next(context.Background(), 0); reading <- err }()
	s.hang <- struct{}{} // the first page, which makes it read on
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := tl.Next(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(s.hang)
	if err := <-reading; err != nil {
		t.Error(err)
	}
}

// How deleted keys were is known as long as somebody follows, and no longer.
func TestDeparted(t *testing.T) {
	t.Parallel()
	s, tl := newSource(t)
	s.write(1)
	formerly := tl.Join()
	if _, err := tl.Newest(t.Context()); err != nil {
		t.Fatal(err)
	}
	formerly()
	leave := tl.Join()
	start, err := tl.Newest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := tl.Departed("a"); ok {
		t.Error("it is still there")
	}
	s.commit(store.Change{FromEpoch: s.epoch, Delete: true, Key: &keys.Key{Name: "a"}}, 1)
	s.refresh()
	if n, _ := all(t, tl, start); n != 1 {
		t.Errorf("%d events", n)
	}
	if k, ok := tl.Departed("a"); !ok || k.Tags["team"] != "pay" {
		t.Errorf("%+v, %v", k, ok)
	}
	tl.Join()()
	if _, ok := tl.Departed("a"); !ok {
		t.Error("forgotten, though somebody follows")
	}
	leave()
	if _, ok := tl.Departed("a"); ok {
		t.Error("known, though nobody follows")
	}
}

func TestChanged(t *testing.T) {
	t.Parallel()
	s, tl := newSource(t)
	changed := tl.Changed()
	select {
	case <-changed:
		t.Fatal("nothing has changed")
	default:
	}
	s.write(1)
	select {
	case <-changed:
	case <-time.After(30 * time.Second):
		t.Fatal("the change is not told")
	}
}

// A store that does not answer is waited for by one follower, not by each of
// them after the other.
func TestManyWaitOnce(t *testing.T) {
	t.Parallel()
	s, tl := newSource(t)
	start, err := tl.Newest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tl.Rest(time.Hour)
	s.write(1)
	before := s.reads.Load()
	down := errors.Join(errors.New("no answer"), keys.ErrStore)
	s.fail.Store(&down)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, _, err := tl.Next(t.Context(), start); !errors.Is(err, keys.ErrStore) {
				t.Errorf("%v, want ErrStore", err)
			}
		})
	}
	wg.Wait()
	if n := s.reads.Load() - before; n != 1 {
		t.Errorf("the store was read %d times", n)
	}
	s.fail.Store(nil)
	tl.Rest(0)
	if n, _ := all(t, tl, start); n != 1 {
		t.Errorf("%d events when it is back", n)
	}
}
