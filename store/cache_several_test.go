package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

// far is a real store behind a network that can fail in two ways, which has
// hints and a heartbeat that can be refused.
type far struct {
	store.Store
	cut   atomic.Bool // nothing answers; whoever asks hangs until he leaves
	down  atomic.Bool // it refuses
	hints chan struct{}
	reads atomic.Int64
}

func newFar(s store.Store) *far { return &far{Store: s, hints: make(chan struct{}, 1)} }

func (f *far) reach(ctx context.Context) error {
	f.reads.Add(1)
	if f.cut.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if f.down.Load() {
		return errDown
	}
	return nil
}

func (f *far) Load(ctx context.Context) ([]*keys.Key, uint64, error) {
	if err := f.reach(ctx); err != nil {
		return nil, 0, err
	}
	return f.Store.Load(ctx)
}

func (f *far) Changed(ctx context.Context, since uint64) ([]*keys.Key, []string, uint64, error) {
	if err := f.reach(ctx); err != nil {
		return nil, nil, 0, err
	}
	return f.Store.Changed(ctx, since)
}

func (f *far) Hints() <-chan struct{} { return f.hints }

// tokens are where marks are kept.
type tokens struct {
	marks atomic.Pointer[[]keys.RevocationMark]
	gone  atomic.Bool // they do not answer
	asked atomic.Int64
}

func (k *tokens) revoked(ctx context.Context) ([]keys.RevocationMark, error) {
	k.asked.Add(1)
	if k.gone.Load() {
		<-ctx.Done()
		return nil, keys.ErrHSM
	}
	if all := k.marks.Load(); all != nil {
		return *all, nil
	}
	return nil, nil
}

func (k *tokens) mark(all ...keys.RevocationMark) { k.marks.Store(&all) }

// pass lets the bubble's time go on, and what is due then be done.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// severalConfig is that of a gateway of several.
func severalConfig(w *tokens, log *bytes.Buffer) store.CacheConfig {
	return store.CacheConfig{MaxStaleness: 30 * time.Second, Blind: 2 * time.Second, Witness: w.revoked, Log: slog.New(slog.NewTextHandler(log, nil))}
}

// levels are those of the lines of a log.
func levels(log *bytes.Buffer) string {
	var all []string
	for line := range strings.Lines(log.String()) {
		_, rest, _ := strings.Cut(line, "level=")
		level, _, _ := strings.Cut(rest, " ")
		all = append(all, level)
	}
	return strings.Join(all, " ")
}

func revokedIn(t *testing.T, c *store.Cache, key string, n uint32) bool {
	t.Helper()
	s, err := c.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	k, ok := s.Key(key)
	if !ok {
		t.Fatalf("no key %s", key)
	}
	v, err := k.Version(n)
	if err != nil {
		t.Fatal(err)
	}
	return !v.RevokedAt.IsZero()
}

func markOf(k *keys.Key, n uint32) keys.RevocationMark {
	v, _ := k.Version(n)
	return keys.RevocationMark{Token: k.Token, Version: k.ID(v), ObjectID: v.ObjectID, RevokedAt: time.Now()}
}

// TestWitnessTellsOfARevocation: with the store out of reach, however that
// shows, a mark on a token takes its version out of use, and no other, within
// the time that a gateway may not know of it; and what the store says counts
// again when it is back.
func TestWitnessTellsOfARevocation(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"cut", "down"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db, _ := newSQLite(t)
				payments := storetest.NewKey("payments", 2)
				create(t, db, payments, storetest.NewKey("other", 2))
				f, w, log := newFar(db), &tokens{}, &bytes.Buffer{}
				c := store.NewCache(f, severalConfig(w, log))
				stop := run(t, c)
				defer stop()
				pass(10 * time.Second)
				if n := w.asked.Load(); n != 0 {
					t.Errorf("the tokens were asked %d times while the store answered", n)
				}
				map[string]*atomic.Bool{"cut": &f.cut, "down": &f.down}[how].Store(true)
				pass(5 * time.Second)
				if h := c.Health(); h.Mode != store.ModeWitness || h.StoreAge < 5*time.Second || h.WitnessAge > time.Second || h.Marked != 0 {
					t.Errorf("after 5 s without the store: %+v", h)
				}
				if revokedIn(t, c, "payments", 1) {
					t.Error("revoked without a mark")
				}
				changed := c.Changed()
				w.mark(keys.RevocationMark{ObjectID: keys.NewObjectID(), RevokedAt: time.Now()}, markOf(payments, 1))
				pass(time.Second)
				if !revokedIn(t, c, "payments", 1) || revokedIn(t, c, "payments", 2) || revokedIn(t, c, "other", 1) {
					t.Error("not exactly the marked version is revoked")
				}
				if h := c.Health(); h.Marked != 1 || !closed(changed) {
					t.Errorf("it is not told: %+v", h)
				}
				before, _ := c.Snapshot()
				pass(3 * time.Second)
				if again, _ := c.Snapshot(); again != before {
					t.Error("nothing new was said, and the snapshot is another one")
				}

				// The store is back, and does not know of it: it stays so.
				f.cut.Store(false)
				f.down.Store(false)
				pass(10 * time.Second)
				if h := c.Health(); h.Mode != store.ModeStore || h.Marked != 1 || !revokedIn(t, c, "payments", 1) {
					t.Errorf("a store that lost a commit brings a version back: %+v", h)
				}
				// It says the same.
				next := storetest.Step(payments, func(k *keys.Key) { k.Versions[0].RevokedAt = time.Now() })
				if err := db.Commit(t.Context(), store.Change{Key: next, FromEpoch: payments.Epoch}); err != nil {
					t.Fatal(err)
				}
				pass(2 * time.Second)
				if h := c.Health(); h.Mode != store.ModeStore || h.Marked != 0 || !revokedIn(t, c, "payments", 1) {
					t.Errorf("the store's word is not taken again: %+v", h)
				}
				damaged(t, c)
				if got := levels(log); got != "WARN ERROR INFO" {
					t.Errorf("the levels are %s:\n%s", got, log)
				}
			})
		})
	}
}

// TestRevocationWithinTwoSeconds: at whatever moment the store goes and a
// version is revoked, within two seconds and a question the version is out of
// use here, or every key is.
func TestRevocationWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	for _, gone := range []bool{false, true} { // the tokens too, from then on
		for offset := time.Duration(0); offset <= 3*time.Second; offset += 400 * time.Millisecond {
			t.Run(fmt.Sprint(gone, offset), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					db, _ := newSQLite(t)
					k := storetest.NewKey("payments", 1)
					create(t, db, k)
					f, w := newFar(db), &tokens{}
					c := store.NewCache(f, severalConfig(w, &bytes.Buffer{}))
					defer run(t, c)()
					pass(10*time.Second + 130*time.Millisecond)
					f.cut.Store(true)
					pass(offset)
					w.mark(markOf(k, 1))
					w.gone.Store(gone)
					pass(2*time.Second + time.Millisecond)
					if _, err := c.Snapshot(); err == nil && !revokedIn(t, c, "payments", 1) {
						t.Error("a revoked version is in use")
					} else if gone && err == nil || !gone && err != nil {
						t.Errorf("the snapshot: %v", err)
					}
				})
			})
		}
	}
}

// TestBlind: without a witness nothing is used when the store was silent for
// Blind; with one until MaxStaleness, and not while the witness is silent too.
// Each change is logged once.
func TestBlind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		create(t, db, storetest.NewKey("payments", 1))
		f, log := newFar(db), &bytes.Buffer{}
		cfg := severalConfig(&tokens{}, log)
		cfg.Witness = nil
		c := store.NewCache(f, cfg)
		stop := run(t, c)
		pass(5 * time.Second)
		f.cut.Store(true)
		pass(1300 * time.Millisecond)
		if h := c.Health(); h.Mode != store.ModeSnapshot {
			t.Errorf("after a second: %+v", h)
		}
		pass(time.Second)
		if h := c.Health(); h.Mode != store.ModeStale {
			t.Errorf("after two: %+v", h)
		}
		stale(t, c)
		pass(time.Minute)
		f.cut.Store(false)
		pass(7 * time.Second) // the longest that a reading hangs, and a poll
		if h := c.Health(); h.Mode != store.ModeStore {
			t.Errorf("the store is back: %+v", h)
		}
		stop()
		if got := levels(log); got != "WARN ERROR INFO" && got != "ERROR INFO" {
			t.Errorf("the levels are %s:\n%s", got, log)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		create(t, db, storetest.NewKey("payments", 1))
		f, w, log := newFar(db), &tokens{}, &bytes.Buffer{}
		c := store.NewCache(f, severalConfig(w, log))
		stop := run(t, c)
		pass(5 * time.Second)
		f.cut.Store(true)
		pass(10 * time.Second)
		w.gone.Store(true)
		pass(3 * time.Second)
		stale(t, c)
		w.gone.Store(false)
		pass(3 * time.Second)
		if h := c.Health(); h.Mode != store.ModeWitness {
			t.Errorf("the tokens answer again: %+v", h)
		}
		pass(12 * time.Second)
		if h := c.Health(); h.Mode != store.ModeWitness || h.StoreAge < 27*time.Second {
			t.Errorf("before max_staleness: %+v", h)
		}
		pass(3 * time.Second)
		stale(t, c)
		stop()
		if got := levels(log); got != "WARN ERROR WARN ERROR" {
			t.Errorf("the levels are %s:\n%s", got, log)
		}
	})
}

// TestHintsAreFollowed at once, and go on mattering after the store was away.
func TestHintsAreFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		f := newFar(db)
		c := store.NewCache(f, store.CacheConfig{Poll: 10 * time.Second})
		stop := run(t, c)
		synctest.Wait()
		for i := range 5 {
			pass(time.Second)
			create(t, db, storetest.NewKey(fmt.Sprint("key-", i), 1))
			f.hints <- struct{}{}
			pass(time.Millisecond)
			if s, err := c.Snapshot(); err != nil || len(s.Names()) != i+1 {
				t.Errorf("after hint %d: %v, %v", i, s.Names(), err)
			}
		}
		close(f.hints)
		n := f.reads.Load()
		pass(time.Minute)
		if got := f.reads.Load() - n; got < 5 || got > 7 {
			t.Errorf("%d readings in a minute without hints", got)
		}
		stop()
	})
}

// beats are the heartbeats of a gateway.
type beats struct {
	mu        sync.Mutex
	revisions []uint64
	at        []time.Time
	err       error
}

// kept returns what was told and when, so far.
func (b *beats) kept() ([]uint64, []time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.revisions), slices.Clone(b.at)
}

// fail lets every heartbeat from now on fail.
func (b *beats) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *beats) beat(_ context.Context, revision uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	b.revisions, b.at = append(b.revisions, revision), append(b.at, time.Now())
	return nil
}

// TestHeartbeats: they come each BeatEvery, at once when the revision has
// changed, never say more than the snapshot has, and without them the store
// counts as lost, though what it said is in use.
func TestHeartbeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		f, b := newFar(db), &beats{}
		var c *store.Cache
		c = store.NewCache(f, store.CacheConfig{BeatEvery: 10 * time.Second, MaxStaleness: 30 * time.Second, Log: slog.New(slog.DiscardHandler), Beat: func(ctx context.Context, revision uint64) error {
			if h := c.Health(); h.StoreAge != time.Duration(1<<63-1) && h.Revision < revision {
				t.Errorf("revision %d is told, and %d is in use", revision, h.Revision)
			}
			return b.beat(ctx, revision)
		}})
		refresh(t, c)
		if _, at := b.kept(); len(at) != 1 {
			t.Fatalf("%d heartbeats at the first refresh", len(at))
		}
		create(t, db, storetest.NewKey("a", 1))
		refresh(t, c) // of one who acts: Run tells
		if _, at := b.kept(); len(at) != 1 {
			t.Errorf("%d heartbeats at the second refresh", len(at))
		}
		stop := run(t, c)
		pass(100 * time.Millisecond)
		if told, _ := b.kept(); len(told) != 2 || told[1] != told[0]+1 {
			t.Errorf("a new revision is not told: %v", told)
		}
		pass(time.Minute)
		_, at := b.kept()
		if n := len(at); n < 7 || n > 9 {
			t.Errorf("%d heartbeats in a minute", n)
		}
		for i := 1; i < len(at); i++ {
			if d := at[i].Sub(at[i-1]); d > 11*time.Second {
				t.Errorf("%s between two heartbeats", d)
			}
		}
		b.fail(errDown)
		create(t, db, storetest.NewKey("b", 1))
		pass(12 * time.Second)
		s, err := c.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, "a", "b")
		if h := c.Health(); h.Mode == store.ModeStore {
			t.Errorf("nobody hears this gateway: %+v", h)
		}
		if err := c.Refresh(t.Context()); !errors.Is(err, keys.ErrStore) {
			t.Errorf("Refresh: %v", err)
		}
		pass(30 * time.Second)
		stale(t, c)
		b.fail(nil)
		pass(2 * time.Second)
		if h := c.Health(); h.Mode != store.ModeStore {
			t.Errorf("it is heard again: %+v", h)
		}
		stop()
	})
}

// TestNameTaken: a gateway that finds another one under its name ends, and no
// act fails of a conflict that is not its own.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		b := &beats{}
		c := store.NewCache(db, store.CacheConfig{Beat: b.beat, Log: slog.New(slog.DiscardHandler)})
		done := make(chan error, 1)
		go func() { done <- c.Run(t.Context()) }()
		pass(5 * time.Second)
		b.fail(keys.Errorf(keys.ErrConflict, "another gateway runs under the name"))
		if err := <-done; !errors.Is(err, store.ErrNameTaken) {
			t.Errorf("Run: %v", err)
		}
		if err := c.Refresh(t.Context()); !errors.Is(err, store.ErrNameTaken) || errors.Is(err, keys.ErrConflict) || !errors.Is(err, keys.ErrStore) {
			t.Errorf("Refresh: %v", err)
		}
	})
}

// TestSlowStore: one that needs longer than a reading is given at first is
// read all the same.
func TestSlowStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		o := &slow{Store: db}
		log := &bytes.Buffer{}
		c := store.NewCache(o, severalConfig(&tokens{}, log))
		defer run(t, c)()
		pass(5 * time.Second)
		o.takes.Store(int64(3 * time.Second))
		create(t, db, storetest.NewKey("payments", 1))
		pass(20 * time.Second)
		s, err := c.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, "payments")
		o.takes.Store(int64(time.Hour)) // a caller is not kept longer than that either
		before := time.Now()
		if err := c.Refresh(t.Context()); !errors.Is(err, keys.ErrStore) || time.Since(before) > 15*time.Second {
			t.Errorf("Refresh: %v after %s", err, time.Since(before))
		}
	})
}

type slow struct {
	store.Store
	takes atomic.Int64
}

func (s *slow) Changed(ctx context.Context, since uint64) ([]*keys.Key, []string, uint64, error) {
	select {
	case <-time.After(time.Duration(s.takes.Load())):
		return s.Store.Changed(ctx, since)
	case <-ctx.Done():
		return nil, nil, 0, ctx.Err()
	}
}

// TestLateReadings: a machine that is slow for a moment is no loss of the
// store, and fills no log.
func TestLateReadings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		o, log := &slow{Store: db}, &bytes.Buffer{}
		c := store.NewCache(o, severalConfig(&tokens{}, log))
		stop := run(t, c)
		for range 10 {
			pass(5 * time.Second)
			o.takes.Store(int64(900 * time.Millisecond))
			pass(5 * time.Second)
			o.takes.Store(0)
		}
		stop()
		if log.Len() > 0 {
			t.Errorf("it is told:\n%s", log)
		}
	})
}

// TestLateRun: when Run begins long after the first load, and the store is
// gone by then, the witness is asked at once.
func TestLateRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		f, w := newFar(db), &tokens{}
		c := store.NewCache(f, severalConfig(w, &bytes.Buffer{}))
		refresh(t, c)
		f.cut.Store(true)
		<-time.After(1900 * time.Millisecond)
		defer run(t, c)()
		pass(50 * time.Millisecond)
		if n := w.asked.Load(); n != 1 {
			t.Errorf("the tokens were asked %d times", n)
		}
		pass(200 * time.Millisecond)
		if _, err := c.Snapshot(); err != nil {
			t.Error(err)
		}
	})
}
