package usage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/usage"
	"keyhole/usage/internal/spill"
)

// errGone is how a store fails that is not there.
var errGone = fmt.Errorf("no connection: %w", keys.ErrStore)

// use counts one use of a version of a key.
func (k *kit) use(key string, version uint32, principal string, kind keys.Use) {
	k.t.Helper()
	if err := k.Count(k.t.Context(), key, version, principal, kind, 10); err != nil {
		k.t.Fatal(err)
	}
}

// out has the store go away, and the meter find out if there is something to
// write.
func (k *kit) out() {
	k.t.Helper()
	k.store.leave(errGone)
	if err := k.Tick(k.t.Context()); err != nil && !errors.Is(err, keys.ErrStore) {
		k.t.Fatalf("a tick while the store is down: %v", err)
	}
}

// back has the store come back.
func (k *kit) back() {
	k.t.Helper()
	k.store.leave(nil)
	k.tick()
	if k.Outage() {
		k.t.Fatal("the outage goes on")
	}
}

// spilled returns what the file in a directory holds, as a crash leaves it.
func spilled(tb testing.TB, dir string) int {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(dir, spill.Name))
	if err != nil {
		tb.Fatal(err)
	}
	copied := tb.TempDir()
	if err := os.WriteFile(filepath.Join(copied, spill.Name), data, 0o600); err != nil {
		tb.Fatal(err)
	}
	f, err := spill.Open(copied, "node")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	return f.Len()
}

// TestOutage: counting goes on while the store is down, of known and of new
// triples, and after it everything is in the store, exactly.
func TestOutage(t *testing.T) {
	t.Parallel()
	s, c, dir := fresh(t), &clock{}, t.TempDir()
	past := kitIn(t, dir, s, "node", c)
	past.count(7, "old")
	past.count(5, "app")
	past.stop()
	k := kitIn(t, dir, s, "node", c)
	k.count(3, "app")
	k.out()
	for round := range 3 {
		k.count(5000, "app")
		k.count(200, "old")
		k.count(100, fmt.Sprint("new ", round))
		for range 40 {
			k.use("mail", 2, "app", keys.UseProcess)
		}
		c.pass(time.Second)
		if err := k.Tick(t.Context()); !errors.Is(err, keys.ErrStore) || !k.Outage() {
			t.Errorf("a tick while the store is down: %v", err)
		}
	}
	if n := spilled(t, dir); n != 6 {
		t.Errorf("the file holds %d triples, want 6", n)
	}
	if u := k.Of("payments", 1); u.Applied != 12+3+3*5300 {
		t.Errorf("in memory: %+v", u)
	}
	if _, err := k.ByAgent(t.Context(), "payments"); !errors.Is(err, keys.ErrStore) {
		t.Errorf("ByAgent: %v, want ErrStore", err)
	}
	k.back()
	if n := spilled(t, dir); n != 0 {
		t.Errorf("the file holds %d triples after the outage", n)
	}
	by, err := k.ByAgent(t.Context(), "payments")
	if err != nil || len(by) != 5 || by[0].Principal != "app" || by[0].Applied != 15008 || by[4].Principal != "old" || by[4].Applied != 607 {
		t.Errorf("%+v, %v", by, err)
	}
	k.count(1, "app")
	k.stop()
	for principal, want := range map[string]uint64{"app": 15009, "old": 607, "new 0": 100, "new 2": 100} {
		if u := k.stored(principal); u.Applied != want || u.Bytes != 10*want || u.LastUse.IsZero() {
			t.Errorf("%s used it %d times, stored is %+v", principal, want, u)
		}
	}
	if u := k.Of("mail", 2); u.Processed != 120 {
		t.Errorf("%+v", u)
	}
	if u := kitIn(t, dir, s, "node", c).Of("payments", 1); u.Applied != 15009+607+300 {
		t.Errorf("after a restart: %+v", u)
	}
}

// TestOutageOfTheUnknown: what the store holds of a triple need not be known
// for it to be counted.
func TestOutageOfTheUnknown(t *testing.T) {
	t.Parallel()
	s, c, dir := fresh(t), &clock{}, t.TempDir()
	const kept = 100
	many := make([]keys.Usage, 3*kept)
	for i := range many {
		many[i] = keys.Usage{Key: "many", Version: 1, Principal: fmt.Sprint(i), Applied: 1000}
	}
	if err := s.ReserveUsage(t.Context(), "node", many); err != nil {
		t.Fatal(err)
	}
	k := newKitIn(t, dir, s, "node", c)
	k.Cold(kept)
	if err := k.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.out()
	for i := range 50 {
		for range i {
			k.use("many", 1, fmt.Sprint(i), keys.UseApply)
		}
	}
	want := k.Of("many", 1).Applied
	if want != 1000*uint64(len(many))+49*50/2 {
		t.Errorf("in memory: %d", want)
	}
	crashed := copied(t, dir)
	k.back()
	if u := k.Of("many", 1); u.Applied != want {
		t.Errorf("after the outage: %+v, want %d", u, want)
	}
	k.stop()
	if u := kitIn(t, dir, s, "node", c).Of("many", 1); u.Applied != want {
		t.Errorf("after a restart: %+v, want %d", u, want)
	}
	// A crash between the store and the file counts twice what was in it.
	if u := kitIn(t, crashed, s, "node", c).Of("many", 1); u.Applied < want {
		t.Errorf("after a crash: %+v, want %d at least", u, want)
	}
}

// copied copies a spill, as it is at a crash.
func copied(tb testing.TB, dir string) string {
	tb.Helper()
	to := tb.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		tb.Fatal(err)
	}
	return to
}

// TestOutageCrash: what was acknowledged during an outage outlives a crash,
// with or without a word of the store in between.
func TestOutageCrash(t *testing.T) {
	t.Parallel()
	s, c, dir := fresh(t), &clock{}, t.TempDir()
	k := kitIn(t, dir, s, "node", c)
	k.count(100, "app")
	want := uint64(100)
	for round := range 4 {
		k.out()
		n := 50 << (2 * round)
		k.count(n, "app")
		want += uint64(n)
		if round == 2 { // the store was back for a moment
			k.back()
			k.count(10, "app")
			want += 10
		}
		k = kitIn(t, dir, s, "node", c) // a crash
		got := k.stored("app").Applied
		if got < want || got > 100*want {
			t.Errorf("round %d: %d uses were acknowledged, %d are stored", round, want, got)
		}
		if u := k.Of("payments", 1); u.Applied != got {
			t.Errorf("round %d: in memory %d, stored %d", round, u.Applied, got)
		}
		want = got
		if n := spilled(t, dir); n != 0 {
			t.Errorf("round %d: the file holds %d triples", round, n)
		}
	}
}

// TestOutageToTheEnd: whoever ends in order during an outage has counted
// exactly, and so has the next one.
func TestOutageToTheEnd(t *testing.T) {
	t.Parallel()
	s, c, dir := fresh(t), &clock{}, t.TempDir()
	k := kitIn(t, dir, s, "node", c)
	k.count(1, "app")
	k.stop()
	k = kitIn(t, dir, s, "node", c)
	k.out()
	k.count(500, "app")
	k.stop()
	k.count(5, "app") // by requests that are late
	next := kitIn(t, dir, s, "node", c)
	if u := next.stored("app"); u.Applied != 506 || u.Bytes != 5060 {
		t.Errorf("stored is %+v, want 506 uses", u)
	}
	next.count(4, "app")
	next.stop()
	if u := next.stored("app"); u.Applied != 510 {
		t.Errorf("stored is %+v, want 510 uses", u)
	}
}

// TestOutageHangs: a store that does not answer is not waited for but once,
// and nobody waits while Run looks whether it is back.
func TestOutageHangs(t *testing.T) {
	t.Parallel()
	k := kitIn(t, t.TempDir(), fresh(t), "node", &clock{})
	k.count(1, "app")
	k.Patience(50 * time.Millisecond)
	k.store.hang(true)
	for i := range 20 {
		k.use("payments", 1, fmt.Sprint("new ", i), keys.UseApply)
	}
	if !k.Outage() {
		t.Error("this is no outage")
	}
	k.Patience(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	probed := make(chan error, 1)
	go func() { probed <- k.Tick(ctx) }()
	k.count(5000, "app")
	if _, err := k.ByAgent(t.Context(), "payments"); !errors.Is(err, keys.ErrStore) {
		t.Errorf("ByAgent: %v, want ErrStore", err)
	}
	cancel()
	<-probed
	k.store.hang(false)
	k.Patience(time.Minute)
	k.back()
	k.stop()
	if u := k.Of("payments", 1); u.Applied != 5021 || k.stored("app").Applied != 5001 {
		t.Errorf("%+v, %+v", u, k.stored("app"))
	}
}

// TestOutageOfBoth: without a file nothing is done uncounted; and when there
// is room again, counting goes on.
func TestOutageOfBoth(t *testing.T) {
	t.Parallel()
	s, dir := fresh(t), t.TempDir()
	k := kitIn(t, dir, s, "node", &clock{})
	k.count(1, "app")
	k.out()
	k.count(100, "app")
	full := filepath.Join(dir, spill.Name+".new") // every write of it fails: no space left on the device
	if err := errors.Join(usage.Drop(k.Meter), os.Symlink("/dev/full", full)); err != nil {
		t.Fatal(err)
	}
	done := uint64(101)
	var err error
	for ; done < 100_000; done++ {
		if err = k.Count(t.Context(), "payments", 1, "app", keys.UseApply, 10); err != nil {
			break
		}
	}
	if !errors.Is(err, keys.ErrStore) {
		t.Fatalf("after %d uses: %v, want ErrStore", done, err)
	}
	for _, principal := range []string{"app", "stranger"} {
		if err := k.Count(t.Context(), "payments", 1, principal, keys.UseApply, 10); !errors.Is(err, keys.ErrStore) {
			t.Errorf("%s: %v, want ErrStore", principal, err)
		}
	}
	if err := k.Tick(t.Context()); !errors.Is(err, keys.ErrStore) {
		t.Errorf("a tick: %v, want ErrStore", err)
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	k.count(50, "app")
	done += 50
	k.back()
	k.stop()
	if u := k.stored("app"); u.Applied != done || k.stored("stranger").Applied != 0 {
		t.Errorf("%d uses, stored is %+v", done, u)
	}
}

// TestSpillIsDamaged: nobody counts on when what was promised cannot be read,
// and the file stays as it is for a person to look at.
func TestSpillIsDamaged(t *testing.T) {
	t.Parallel()
	s, c, dir := fresh(t), &clock{}, t.TempDir()
	k := kitIn(t, dir, s, "node", c)
	k.out()
	k.count(100, "app")
	k.count(100, "other")
	path := filepath.Join(dir, spill.Name)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := []byte(strings.Replace(string(whole), `"payments"`, `"paymemts"`, 1))
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	next := newKitIn(t, dir, s, "node", c)
	var told *keys.Error
	for range 2 {
		if err := next.Load(t.Context()); !errors.As(err, &told) || !errors.Is(err, keys.ErrStore) || !strings.Contains(told.Detail, path) {
			t.Errorf("Load: %v", err)
		}
	}
	if err := newKitIn(t, dir, s, "another", c).Load(t.Context()); !errors.Is(err, keys.ErrStore) {
		t.Errorf("Load of another node: %v", err)
	}
	if u := next.stored("app"); u.Applied != 0 {
		t.Errorf("stored is %+v", u)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil { // put back
		t.Fatal(err)
	}
	if err := next.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if u := next.stored("app"); u.Applied < 100 || next.stored("other").Applied < 100 {
		t.Errorf("stored is %+v", u)
	}
}

// TestFlappingSpill is TestFlapping with a spill: nobody is refused, and at
// the end everything is exact.
func TestFlappingSpill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := kitIn(t, dir, fresh(t), "node", &clock{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var counted [6]atomic.Uint64
	for i := range counted {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := k.Count(t.Context(), "payments", 1, fmt.Sprint(i, " ", n%3), keys.UseApply, 1); err != nil {
					t.Error(err)
					return
				}
				counted[i].Add(1)
			}
		})
	}
	for n := range 60 {
		switch n % 6 {
		case 0:
			k.store.fail(nil, false)
		case 1:
			k.store.fail(errGone, false)
		case 3:
			k.store.fail(errGone, true)
		case 4:
			k.store.leave(errGone)
		case 5:
			k.store.leave(nil)
		}
		k.clock.pass(time.Duration(n%5) * time.Second)
		if err := k.Tick(t.Context()); err != nil && !errors.Is(err, keys.ErrStore) {
			t.Error(err)
		}
		before := counted[n%len(counted)].Load()
		eventually(t, "somebody counts", func() bool { return counted[n%len(counted)].Load() > before || t.Failed() })
	}
	cancel()
	wg.Wait()
	k.store.fail(nil, false)
	k.tick()
	k.stop()
	for i := range counted {
		var got uint64
		for n := range 3 {
			got += k.stored(fmt.Sprint(i, " ", n)).Applied
		}
		if want := counted[i].Load(); got != want {
			t.Errorf("%d uses were acknowledged, %d are stored at the end", want, got)
		}
	}
	if n := spilled(t, dir); n != 0 {
		t.Errorf("the file holds %d triples", n)
	}
}
