package usage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/usage"
)

// TestExact: many count at once while Run is at work; after its end what is
// stored is what was counted.
func TestExact(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	const principals, each = 20, 2000
	begin := k.clock.now()
	var wg sync.WaitGroup
	for p := range principals {
		for _, use := range []keys.Use{keys.UseApply, keys.UseProcess, keys.UseRecover} {
			wg.Go(func() {
				for n := range each {
					if err := k.Count(t.Context(), "payments", 1, fmt.Sprint(p), use, n%3); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	bytes := uint64(0)
	for n := range each {
		bytes += uint64(n % 3)
	}
	want := keys.Usage{Key: "payments", Version: 1, Applied: principals * each, Processed: 2 * principals * each, Bytes: 3 * principals * bytes}
	same := func(what string, got keys.Usage) {
		t.Helper()
		if got.LastUse.Sub(begin).Abs() > time.Second {
			t.Errorf("%s: the last use was at %s", what, got.LastUse)
		}
		got.LastUse = time.Time{}
		if got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	same("in memory", k.Of("payments", 1))
	sum := func() keys.Usage {
		t.Helper()
		by, err := k.ByAgent(t.Context(), "payments")
		if err != nil || len(by) != principals {
			t.Errorf("%d principals, %v", len(by), err)
		}
		sum := keys.Usage{Key: "payments", Version: 1}
		for _, u := range by {
			sum.Add(u)
		}
		return sum
	}
	same("by agent", sum())
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	same("in memory after the end", k.Of("payments", 1))
	same("stored", sum())
	again := kitOn(t, k.store.SQLite, "node", k.clock)
	same("loaded", again.Of("payments", 1))
	// Whatever comes after the end is counted by itself.
	want.Applied, want.Bytes = want.Applied+3, want.Bytes+30
	k.count(3, "7")
	same("stored after the end", sum())
	if u := kitOn(t, k.store.SQLite, "node", k.clock).Of("payments", 1); u.Applied != want.Applied {
		t.Errorf("after the end %d are stored, want %d", u.Applied, want.Applied)
	}
}

// TestFirstUse: those who come while the first one waits for the store share
// one more write.
func TestFirstUse(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	entered, release := k.store.block()
	var wg sync.WaitGroup
	wg.Go(func() { k.count(1, "first") })
	<-entered
	var done atomic.Int32
	for i := range 40 {
		wg.Go(func() {
			if err := k.Count(t.Context(), "payments", 1, fmt.Sprint("other ", i%20), keys.UseApply, 1); err != nil {
				t.Error(err)
			}
			done.Add(1)
		})
	}
	eventually(t, "20 principals wait", func() bool { return usage.Waiting(k.Meter) == 20 })
	if n := done.Load(); n != 0 {
		t.Errorf("%d uses went on before they were stored", n)
	}
	release()
	wg.Wait()
	// One of the 40 may have come when the others were served.
	if n := k.store.count(); n > 3 {
		t.Errorf("41 first uses of 21 principals took %d writes", n)
	}
	before := k.store.count()
	k.count(usage.MinBlock/2, "first")
	if n := k.store.count() - before; n != 0 {
		t.Errorf("later uses took %d writes", n)
	}
}

// TestLeaverHarmsNobody: the one who writes for all leaves; the others do not
// fail by that.
func TestLeaverHarmsNobody(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	entered, release := k.store.block()
	defer release()
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- k.Count(ctx, "payments", 1, "leaver", keys.UseApply, 1) }()
	<-entered
	stayed := make(chan error, 1)
	go func() { stayed <- k.Count(t.Context(), "payments", 1, "leaver", keys.UseApply, 1) }()
	eventually(t, "the other one waits", func() bool { return usage.Waiting(k.Meter) == 1 })
	leave()
	if err := <-left; !errors.Is(err, keys.ErrStore) || !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left: %v", err)
	}
	if err := <-stayed; err != nil {
		t.Error(err)
	}
	k.stop()
	if u := k.stored("leaver"); u.Applied != 1 {
		t.Errorf("%d uses are stored, want 1", u.Applied)
	}
}

// TestStoreDown: operations go on while what is reserved lasts, and not
// beyond; what is acknowledged is covered by the store at every moment.
func TestStoreDown(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{false, true} {
		k := newKit(t)
		k.count(1, "app")
		reserved := k.stored("app").Applied
		k.store.fail(errors.Join(errors.New("down"), keys.ErrStore), done)
		n := uint64(1)
		var err error
		for ; err == nil && n < 10*reserved; n++ {
			err = k.Count(t.Context(), "payments", 1, "app", keys.UseApply, 10)
		}
		n-- // the last one was refused
		if !errors.Is(err, keys.ErrStore) || n != reserved {
			t.Errorf("done %v: %d of %d reserved uses went on, then: %v", done, n, reserved, err)
		}
		if err := k.Count(t.Context(), "payments", 1, "stranger", keys.UseApply, 1); !errors.Is(err, keys.ErrStore) {
			t.Errorf("done %v: a first use went on: %v", done, err)
		}
		if err := k.Tick(t.Context()); !errors.Is(err, keys.ErrStore) {
			t.Errorf("done %v: Tick: %v", done, err)
		}
		if u := k.stored("app"); u.Applied < n {
			t.Errorf("done %v: %d uses went on, %d are stored", done, n, u.Applied)
		}
		k.store.fail(nil, false)
		k.count(5, "app")
		k.stop()
		if u := k.stored("app"); u.Applied != n+5 || u.Bytes != 10*(n+5) {
			t.Errorf("done %v: %d uses came to %+v", done, n+5, u)
		}
		if u := k.stored("stranger"); u.Applied != 0 {
			t.Errorf("done %v: a refused use was stored: %+v", done, u)
		}
	}
}

// TestStopFails: what could not be given back stays reserved, and is told.
func TestStopFails(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.count(1, "app")
	k.store.fail(errors.New("down"), false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Run(ctx); !errors.Is(err, keys.ErrStore) {
		t.Errorf("%v, want ErrStore", err)
	}
	if u := k.stored("app"); u.Applied <= 1 {
		t.Errorf("%d are stored", u.Applied)
	}
}

// TestFlapping: the store comes and goes, in the middle of writes too; at
// every look it covers what was acknowledged before.
func TestFlapping(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	acknowledged := []*atomic.Uint64{{}, {}, {}}
	for i := range acknowledged {
		wg.Go(func() {
			for ctx.Err() == nil {
				if k.Count(ctx, "payments", 1, fmt.Sprint(i), keys.UseApply, 1) == nil {
					acknowledged[i].Add(1)
				}
			}
		})
	}
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			k.clock.pass(time.Duration(n%5) * time.Second)
			if err := k.Tick(ctx); err != nil && !errors.Is(err, keys.ErrStore) && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	busy := func() bool {
		return !slices.ContainsFunc(acknowledged, func(n *atomic.Uint64) bool { return n.Load() < 1000 })
	}
	deadline := time.Now().Add(30 * time.Second)
	for n := 0; (n < 60 || !busy()) && time.Now().Before(deadline); n++ {
		k.store.fail([]error{nil, keys.ErrStore, nil, keys.ErrStore}[n%4], n%4 == 3)
		for i := range acknowledged {
			want := acknowledged[i].Load()
			if got := k.stored(fmt.Sprint(i)).Applied; got < want {
				t.Errorf("%d uses were acknowledged, %d are stored", want, got)
			}
		}
	}
	cancel()
	wg.Wait()
	k.store.fail(nil, false)
	k.stop()
	for i := range acknowledged {
		if got, want := k.stored(fmt.Sprint(i)).Applied, acknowledged[i].Load(); got != want || want == 0 {
			t.Errorf("%d uses were acknowledged, %d are stored at the end", want, got)
		}
	}
}

// TestAhead: who uses a version at a steady rate has seconds in hand.
func TestAhead(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	for range 4 {
		k.count(1000, "app")
		k.clock.pass(time.Second)
		k.tick()
	}
	k.store.fail(keys.ErrStore, false)
	k.count(4000, "app")
	k.store.fail(nil, false)
	k.tick()
	// And who does not, gives back.
	k.clock.pass(usage.IdleAfter)
	k.tick()
	k.tick()
	if u := k.stored("app"); u.Applied < 8000 || u.Applied > 8000+usage.MinBlock {
		t.Errorf("8000 uses, and %d are stored after a while", u.Applied)
	}
}

// TestRunReservesAhead: Run tops up what runs low without being waited for.
func TestRunReservesAhead(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	k.count(1, "app")
	before := k.stored("app").Applied
	k.count(int(before)-1, "app") // down to nothing
	eventually(t, "more is reserved", func() bool { return k.stored("app").Applied > before })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestForgets: what is idle, or too much, goes from memory exactly, and comes
// back as it was.
func TestForgets(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.Bound(50)
	for i := range 120 {
		k.count(i%7+1, fmt.Sprint("agent ", i))
	}
	total := k.Of("payments", 1)
	k.tick()
	if n := k.Live(); n > 50 {
		t.Errorf("%d triples are in memory, want 50 at most", n)
	}
	k.clock.pass(usage.EvictAfter)
	k.tick()
	if n := k.Live(); n != 0 {
		t.Errorf("%d triples are in memory after a long rest", n)
	}
	if got := k.Of("payments", 1); got != total {
		t.Errorf("%+v after a rest, %+v before", got, total)
	}
	for i := range 120 {
		if u := k.stored(fmt.Sprint("agent ", i)); u.Applied != uint64(i%7+1) {
			t.Errorf("agent %d used it %d times, %d are stored", i, i%7+1, u.Applied)
		}
		k.count(1, fmt.Sprint("agent ", i))
	}
	k.stop()
	if u := k.Of("payments", 1); u.Applied != total.Applied+120 || u.Bytes != total.Bytes+1200 {
		t.Errorf("%+v, want 120 more than %+v", u, total)
	}
	if u := k.stored("agent 3"); u.Applied != 5 {
		t.Errorf("agent 3 used it 5 times, %d are stored", u.Applied)
	}
}

// TestForgetsUnderUse: triples are given up and taken up again while they are
// used. No use is lost; one that was refused at that very moment may be
// counted all the same.
func TestForgetsUnderUse(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.Bound(2)
	ctx, cancel := context.WithCancel(t.Context())
	var counted [6]atomic.Uint64
	var wg sync.WaitGroup
	for i := range counted {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := k.Count(t.Context(), "payments", 1, fmt.Sprint(i), keys.UseProcess, 0); err != nil {
					t.Error(err)
					return
				}
				counted[i].Add(1)
			}
		})
	}
	for range 100 {
		k.tick()
	}
	cancel()
	wg.Wait()
	k.stop()
	for i := range counted {
		if got, want := k.stored(fmt.Sprint(i)).Processed, counted[i].Load(); got < want || got > want+10 {
			t.Errorf("%d uses of principal %d, %d are stored", want, i, got)
		}
	}
}

// TestNodes: each node knows what the others have stored, soon.
func TestNodes(t *testing.T) {
	t.Parallel()
	s, c := fresh(t), &clock{}
	a, b := kitOn(t, s, "a", c), kitOn(t, s, "b", c)
	a.count(100, "app")
	b.count(7, "app")
	b.count(3, "other")
	a.stop()
	c.pass(2 * time.Second)
	b.tick()
	if u := b.Of("payments", 1); u.Applied != 110 || u.Bytes != 1100 {
		t.Errorf("%+v, want 110 uses", u)
	}
	by, err := b.ByAgent(t.Context(), "payments")
	if err != nil || len(by) != 2 || by[0].Principal != "app" || by[0].Applied != 107 || by[1].Applied != 3 {
		t.Errorf("%+v, %v", by, err)
	}
	if u := b.Of("payments", 2); u.Applied != 0 || u.Key != "payments" || u.Version != 2 {
		t.Errorf("an unused version: %+v", u)
	}
	// Another node's use is the last one.
	c.pass(time.Hour)
	d := kitOn(t, s, "d", c)
	d.count(1, "app")
	d.stop()
	c.pass(time.Minute)
	b.tick()
	if u := b.Of("payments", 1); c.now().Sub(u.LastUse) > 2*time.Minute {
		t.Errorf("the last use was %s ago", c.now().Sub(u.LastUse))
	}
}

// TestLastUse is right to about a second, in the store too.
func TestLastUse(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	for range 5 {
		k.clock.pass(90 * time.Second)
		k.count(1, "app")
		at := k.clock.now()
		k.tick()
		for what, u := range map[string]keys.Usage{"memory": k.Of("payments", 1), "store": k.stored("app")} {
			if d := at.Sub(u.LastUse).Abs(); d > 2*time.Second {
				t.Errorf("%s: the last use is %s off", what, d)
			}
		}
	}
	k.clock.pass(-time.Hour) // a clock that steps back makes no use earlier
	before := k.Of("payments", 1).LastUse
	k.count(1, "app")
	k.tick()
	if after := k.Of("payments", 1).LastUse; after.Before(before) {
		t.Errorf("the last use went from %s back to %s", before, after)
	}
}

// TestSeen: agents are noted soon, and again when they come again.
func TestSeen(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.Bound(10)
	lastSeen := func(principal string) time.Time {
		t.Helper()
		a, err := k.store.Agent(t.Context(), keys.AgentID(principal))
		if err != nil {
			t.Fatalf("%s: %v", principal, err)
		}
		return a.LastSeen
	}
	for i := range 30 {
		k.Seen(fmt.Sprint("agent ", i), k.clock.now())
	}
	first := k.clock.now()
	k.tick()
	if at := lastSeen("agent 29"); first.Sub(at).Abs() > time.Second {
		t.Errorf("seen at %s, stored %s", first, at)
	}
	if n := k.SeenLive(); n > 10 {
		t.Errorf("%d principals are in memory, want 10 at most", n)
	}
	k.clock.pass(time.Minute)
	k.Seen("agent 3", k.clock.now())
	k.stop()
	if at := lastSeen("agent 3"); at.Sub(first) < 59*time.Second {
		t.Errorf("seen a minute later, stored %s later", at.Sub(first))
	}
	k.Seen("agent 4", k.clock.now())
	k.clock.pass(usage.EvictAfter)
	k.tick()
	k.tick()
	if n := k.SeenLive(); n != 0 {
		t.Errorf("%d principals are in memory after a long rest", n)
	}
}

// TestBadSize: a size below nothing is refused.
func TestBadSize(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	if err := k.Count(t.Context(), "payments", 1, "app", keys.UseApply, -1); !errors.Is(err, keys.ErrInternal) {
		t.Errorf("%v, want ErrInternal", err)
	}
	// And one above every block is not.
	if err := k.Count(t.Context(), "payments", 1, "app", keys.UseApply, 1<<40); err != nil {
		t.Error(err)
	}
	if all, err := k.ByAgent(t.Context(), "payments"); err != nil || !slices.ContainsFunc(all, func(u keys.Usage) bool { return u.Bytes == 1<<40 && u.Applied == 1 }) {
		t.Errorf("%+v, %v", all, err)
	}
}
