package usage_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/usage"
)

// The test binary runs itself as another process that counts in the same
// store; these say with which file.
const (
	childEnv = "KEYHOLE_USAGE_TEST_CHILD"
	spillEnv = "KEYHOLE_USAGE_TEST_SPILL" // the directory of its spill, or ""
)

func TestMain(m *testing.M) {
	path := os.Getenv(childEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	if err := countForever(context.Background(), path, os.Getenv(spillEnv)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(t *testing.T, path, spillDir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+path, spillEnv+"="+spillDir)
	cmd.Stderr = os.Stderr
	return cmd
}

var seal = bytes.Repeat([]byte{7}, 32)

func open(tb testing.TB, path string) *store.SQLite {
	tb.Helper()
	s, err := store.OpenSQLite(tb.Context(), path, seal)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func fresh(tb testing.TB) *store.SQLite {
	tb.Helper()
	return open(tb, filepath.Join(tb.TempDir(), "keyhole.db"))
}

// clock stands still until a test moves it.
type clock struct{ ahead atomic.Int64 }

var began = time.Now()

func (c *clock) now() time.Time       { return began.Add(time.Duration(c.ahead.Load())) }
func (c *clock) pass(d time.Duration) { c.ahead.Add(int64(d)) }

// kit is a meter over a real store that can be made to fail.
type kit struct {
	*usage.Meter
	t     testing.TB
	clock *clock
	store *faulty
	dir   string // of the spill
}

func newKit(tb testing.TB) *kit { return kitOn(tb, fresh(tb), "node", &clock{}) }

func kitOn(tb testing.TB, s *store.SQLite, node string, c *clock) *kit {
	tb.Helper()
	return kitIn(tb, "", s, node, c)
}

// kitIn is kitOn with a spill in dir.
func kitIn(tb testing.TB, dir string, s *store.SQLite, node string, c *clock) *kit {
	tb.Helper()
	k := newKitIn(tb, dir, s, node, c)
	if err := k.Load(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return k
}

// newKitIn is kitIn before it has loaded.
func newKitIn(tb testing.TB, dir string, s *store.SQLite, node string, c *clock) *kit {
	tb.Helper()
	k := &kit{t: tb, clock: c, store: &faulty{SQLite: s}, dir: dir}
	k.Meter = usage.New(usage.Config{Store: k.store, Node: node, Dir: dir, Now: c.now, Log: slog.New(slog.DiscardHandler)})
	k.Patience(time.Minute)
	return k
}

// count counts n signatures of 10 bytes by a principal.
func (k *kit) count(n int, principal string) {
	k.t.Helper()
	for range n {
		if err := k.Count(k.t.Context(), "payments", 1, principal, keys.UseApply, 10); err != nil {
			k.t.Fatal(err)
		}
	}
}

func (k *kit) tick() {
	k.t.Helper()
	if err := k.Tick(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
}

// stop lets Run begin and end.
func (k *kit) stop() {
	k.t.Helper()
	ctx, cancel := context.WithCancel(k.t.Context())
	cancel()
	if err := k.Run(ctx); err != nil {
		k.t.Fatal(err)
	}
}

// stored returns what the store holds for a principal.
func (k *kit) stored(principal string) keys.Usage {
	k.t.Helper()
	return stored(k.t, k.store.SQLite, principal)
}

func stored(tb testing.TB, s *store.SQLite, principal string) (sum keys.Usage) {
	tb.Helper()
	all, err := s.Usage(tb.Context(), "payments", "")
	if err != nil {
		tb.Fatal(err)
	}
	for _, u := range all {
		if u.Principal == principal {
			sum.Add(u)
		}
	}
	return sum
}

// eventually waits until something is so.
func eventually(tb testing.TB, what string, so func() bool) {
	tb.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(60 * time.Second); !so(); <-poll.C {
		if time.Now().After(deadline) {
			tb.Fatal("not in time: " + what)
		}
	}
}

// faulty is the store, unless it is down.
type faulty struct {
	*store.SQLite
	mu      sync.Mutex
	down    error
	done    bool  // it does what it says that it cannot
	gone    error // of everything
	hung    bool  // everything waits until its context ends
	writes  int
	entered chan struct{} // closed by the next write
	release chan struct{} // what that waits for
}

func (f *faulty) fail(err error, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down, f.done = err, done
}

// block makes the next write wait.
func (f *faulty) block() (entered <-chan struct{}, release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, r := make(chan struct{}), make(chan struct{})
	f.entered, f.release = e, r
	return e, sync.OnceFunc(func() { close(r) })
}

func (f *faulty) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

// leave has everything fail from now on, or with nil nothing.
func (f *faulty) leave(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = err
}

// hang has everything wait until its context ends, or not.
func (f *faulty) hang(hung bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hung = hung
}

func (f *faulty) there(ctx context.Context) error {
	f.mu.Lock()
	gone, hung := f.gone, f.hung
	f.mu.Unlock()
	if hung {
		<-ctx.Done()
		return ctx.Err()
	}
	return gone
}

func (f *faulty) ClaimUsage(ctx context.Context, node string) error {
	if err := f.there(ctx); err != nil {
		return err
	}
	return f.SQLite.ClaimUsage(ctx, node)
}

func (f *faulty) Usage(ctx context.Context, key, node string) ([]keys.Usage, error) {
	if err := f.there(ctx); err != nil {
		return nil, err
	}
	return f.SQLite.Usage(ctx, key, node)
}

func (f *faulty) SeeAgents(ctx context.Context, seen []store.Sighting) error {
	if err := f.there(ctx); err != nil {
		return err
	}
	return f.SQLite.SeeAgents(ctx, seen)
}

func (f *faulty) ReserveUsage(ctx context.Context, node string, counted []keys.Usage) error {
	if err := f.there(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	f.writes++
	down, done, entered, release := f.down, f.done, f.entered, f.release
	f.entered, f.release = nil, nil
	f.mu.Unlock()
	if entered != nil {
		close(entered)
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if down == nil || done {
		if err := f.SQLite.ReserveUsage(ctx, node, counted); err != nil {
			return err
		}
	}
	return down
}
