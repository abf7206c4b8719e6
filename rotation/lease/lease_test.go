package lease_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"keyhole/keys"
	"keyhole/rotation/lease"
	"keyhole/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

func open(t *testing.T) (*store.SQLite, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyhole.db")
	db, err := store.OpenSQLite(t.Context(), path, []byte("32 bytes to seal rows of a test."))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db, path
}

func lapse(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(30000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "UPDATE leases SET until = 0"); err != nil {
		t.Fatal(err)
	}
}

func keeper(s lease.Store, ttl time.Duration) *lease.Keeper {
	return lease.New(lease.Config{Store: s, TTL: ttl, Log: slog.New(slog.DiscardHandler)})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Of many goroutines of several processes one has a lease at one time.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	var inside atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		k := keeper(db, 0)
		for range 4 {
			wg.Go(func() {
				held, done, err := k.Wait(t.Context(), "work")
				if err != nil {
					t.Error(err)
					return
				}
				defer done()
				if inside.Add(1) != 1 || held.Err() != nil || lease.Check(held) != nil {
					t.Error("two have it")
				}
				if _, _, err := k.Try(t.Context(), "work"); !errors.Is(err, lease.ErrTaken) {
					t.Errorf("%v, want ErrTaken", err)
				}
				inside.Add(-1)
			})
		}
	}
	wg.Wait()
}

// Whoever dies blocks the others until the lease has lapsed, and no longer.
func TestLapse(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	dead, other := keeper(db, 0), keeper(db, 0)
	_, done, err := dead.Try(t.Context(), "work")
	must(t, err)
	defer done()
	if _, _, err := other.Try(t.Context(), "work"); !errors.Is(err, lease.ErrTaken) {
		t.Fatalf("%v, want ErrTaken", err)
	}
	lapse(t, path)
	_, done2, err := other.Try(t.Context(), "work")
	must(t, err)
	done2()
}

// A lease is prolonged while the work runs; when another one has it, or the
// store cannot be used, the context of the work ends.
func TestLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(s *flaky){
		"taken":          func(s *flaky) { s.taken.Store(true) },
		"store is gone":  func(s *flaky) { s.down.Store(true) },
		"store is stuck": func(s *flaky) { s.stuck.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, _ := open(t)
			s := &flaky{Store: db, calls: make(chan struct{}, 100)}
			k := keeper(s, 2*time.Second)
			held, done := prolonged(t, k, s)
			defer func() { done() }()
			lose(s)
			select {
			case <-held.Done():
			case <-time.After(patience):
				t.Fatal("the work goes on")
			}
			if !errors.Is(context.Cause(held), lease.ErrLost) || !errors.Is(lease.Check(held), lease.ErrLost) {
				t.Errorf("the cause is %v", context.Cause(held))
			}
		})
	}
}

// prolonged returns a lease that was prolonged twice. On a machine that stands
// still for seconds it may take more than one.
func prolonged(t *testing.T, k *lease.Keeper, s *flaky) (held context.Context, done func()) {
	t.Helper()
	for {
		held, done, err := k.Try(t.Context(), "work")
		must(t, err)
		<-s.calls // it was taken
		for n := 0; held.Err() == nil; n++ {
			if n == 2 {
				return held, done
			}
			select {
			case <-s.calls:
			case <-held.Done():
			}
		}
		done()
	}
}

// flaky is a store that is used by others, or not at all, from some moment on.
type flaky struct {
	lease.Store
	calls              chan struct{}
	taken, down, stuck atomic.Bool
}

func (f *flaky) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error) {
	switch {
	case f.taken.Load():
		return false, nil
	case f.down.Load():
		return false, keys.ErrStore
	case f.stuck.Load():
		<-ctx.Done()
		return false, ctx.Err()
	}
	held, err := f.Store.AcquireLease(ctx, name, holder, ttl)
	select {
	case f.calls <- struct{}{}:
	default:
	}
	return held, err
}

// Work that outlives its caller keeps its lease; what waits for a lease does
// not outlive it.
func TestCallers(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	k := keeper(db, 0)
	ctx, cancel := context.WithCancel(t.Context())
	held, done, err := k.TryToEnd(ctx, "work")
	must(t, err)
	waits := make(chan error, 1)
	go func() {
		_, _, err := k.Wait(ctx, "work")
		waits <- err
	}()
	cancel()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
	if held.Err() != nil {
		t.Error("it ended with its caller")
	}
	done()
	if held.Err() == nil {
		t.Error("it did not end")
	}
	if _, _, err := k.TryToEnd(ctx, "work"); err == nil {
		t.Error("taken for one who has left")
	}
	if k.Busy("work") {
		t.Error("it is still claimed")
	}
	_, done, err = k.Try(t.Context(), "work")
	must(t, err)
	done()
	if lease.Check(t.Context()) != nil {
		t.Error("a context without a lease")
	}
}
