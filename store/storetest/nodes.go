package storetest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// patience is how long a test waits for what has to come.
const patience = time.Minute

// until polls until something is so.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		<-tick.C
	}
}

func testLeases(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	other := open()
	defer other.Close()
	expect := func(what string, s store.Store, name, holder string, ttl time.Duration, want bool) {
		t.Helper()
		held, err := s.AcquireLease(ctx, name, holder, ttl)
		must(t, err)
		if held != want {
			t.Errorf("%s: that %s has %s is %v", what, holder, name, held)
		}
	}
	expect("a free one", s, "due", "one", time.Hour, true)
	expect("a taken one", other, "due", "two", time.Hour, false)
	expect("prolonged", other, "due", "one", time.Hour, true)
	expect("another one", other, "reconcile", "two", time.Hour, true)
	must(t, other.ReleaseLease(ctx, "due", "two")) // who has none gives none up
	expect("still taken", other, "due", "two", time.Hour, false)
	must(t, s.ReleaseLease(ctx, "due", "one"))
	must(t, s.ReleaseLease(ctx, "due", "one"))
	expect("given up", other, "due", "two", time.Hour, true)
	expect("now another's", s, "due", "one", time.Hour, false)
	must(t, other.ReleaseLease(ctx, "due", "two"))

	expect("for a moment", s, "due", "one", time.Microsecond, true)
	until(t, "a lease ends", func() bool {
		held, err := other.AcquireLease(ctx, "due", "two", time.Hour)
		must(t, err)
		return held
	})
	expect("too late to prolong", s, "due", "one", time.Hour, false)
	must(t, s.ReleaseLease(ctx, "due", "one")) // of whom it was taken from
	expect("the new one's", other, "due", "two", time.Microsecond, true)
	expect("prolonged though it may have ended", other, "due", "two", time.Hour, true)

	for what, bad := range map[string]func() (bool, error){
		"no name":   func() (bool, error) { return s.AcquireLease(ctx, "", "one", time.Hour) },
		"no holder": func() (bool, error) { return s.AcquireLease(ctx, "x", "", time.Hour) },
		"no time":   func() (bool, error) { return s.AcquireLease(ctx, "x", "one", 0) },
	} {
		held, err := bad()
		is(t, what, err, keys.ErrInternal)
		if held {
			t.Errorf("%s: held", what)
		}
	}
	if _, revision := load(t, s); revision != 0 {
		t.Errorf("leases made revision %d", revision)
	}
}

// testLeasesAtOnce: never do two have it.
func testLeasesAtOnce(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	other := open()
	defer other.Close()
	var within, entered atomic.Int32
	together(6, func(i int) {
		s, holder := []store.Store{s, other}[i%2], fmt.Sprint("holder-", i)
		for range 5 {
			for {
				held, err := s.AcquireLease(ctx, "due", holder, time.Hour)
				if err != nil {
					t.Error(err)
					return
				}
				if held {
					break
				}
			}
			if n := within.Add(1); n != 1 {
				t.Errorf("%d have the lease", n)
			}
			entered.Add(1)
			within.Add(-1)
			if err := s.ReleaseLease(ctx, "due", holder); err != nil {
				t.Error(err)
			}
		}
	})
	if n := entered.Load(); n != 30 {
		t.Errorf("the lease was held %d times", n)
	}
}

func testNodes(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	other := open()
	defer other.Close()
	nodes := func() (all []keys.Node, revision uint64) {
		t.Helper()
		all, revision, err := s.Nodes(ctx)
		must(t, err)
		return all, revision
	}
	if all, revision := nodes(); len(all) != 0 || revision != 0 {
		t.Errorf("nobody was seen, and there are %+v at revision %d", all, revision)
	}
	create(t, s, NewKey("payments", 1))
	b := keys.Node{Instance: "i2", Name: "b", Version: "1.0", Revision: 0, SeenAt: t0, Until: t0, StartedAt: t0, Live: true} // times are the store's
	must(t, other.Beat(ctx, b, time.Hour))
	must(t, s.Beat(ctx, keys.Node{Instance: "i1", Name: "a", Version: "1.1", Revision: 1}, 35*time.Second))
	all, revision := nodes()
	if len(all) != 2 || revision != 1 {
		t.Fatalf("%+v at revision %d", all, revision)
	}
	one, two := all[0], all[1]
	for i, want := range []keys.Node{{Instance: "i1", Name: "a", Version: "1.1", Revision: 1, Live: true}, {Instance: "i2", Name: "b", Version: "1.0", Live: true}} {
		got := all[i]
		lapse := []time.Duration{35 * time.Second, time.Hour}[i]
		if !got.StartedAt.Equal(got.SeenAt) || got.Until.Sub(got.SeenAt) != lapse || got.SeenAt.Location() != time.UTC || got.SeenAt.Equal(t0) {
			t.Errorf("the times of %s are %s, %s and %s", got.Name, got.StartedAt, got.SeenAt, got.Until)
		}
		got.StartedAt, got.SeenAt, got.Until = time.Time{}, time.Time{}, time.Time{}
		same(t, want, got)
	}

	b.Revision = 1
	until(t, "a heartbeat is later than the one before", func() bool {
		must(t, other.Beat(ctx, b, time.Hour))
		all, _ = nodes()
		return all[1].SeenAt.After(two.SeenAt)
	})
	same(t, one, all[0])
	if got := all[1]; got.Revision != 1 || !got.StartedAt.Equal(two.StartedAt) || got.Until.Sub(got.SeenAt) != time.Hour {
		t.Errorf("after another heartbeat: %+v", got)
	}

	must(t, other.Beat(ctx, b, time.Microsecond))
	until(t, "a node that is not seen lapses", func() bool { all, _ = nodes(); return !all[1].Live })
	if len(all) != 2 || !all[0].Live {
		t.Errorf("when one has lapsed: %+v", all)
	}
	must(t, other.Beat(ctx, b, time.Hour))
	if all, _ = nodes(); !all[1].Live {
		t.Errorf("heard again: %+v", all[1])
	}

	for _, lease := range []string{"due", "reconcile"} {
		held, err := s.AcquireLease(ctx, lease, map[string]string{"due": "i1", "reconcile": "i2"}[lease], time.Hour)
		must(t, err)
		if !held {
			t.Errorf("%s is not free", lease)
		}
	}
	must(t, s.Leave(ctx, "i1"))
	must(t, s.Leave(ctx, "i1"))
	if all, _ = nodes(); len(all) != 1 || all[0].Instance != "i2" {
		t.Errorf("when one has left: %+v", all)
	}
	for lease, free := range map[string]bool{"due": true, "reconcile": false} {
		if held, err := s.AcquireLease(ctx, lease, "i3", time.Hour); held != free || err != nil {
			t.Errorf("when its holder has left or not, that %s is free is %v, %v", lease, held, err)
		}
	}
	if _, revision := nodes(); revision != 1 {
		t.Errorf("heartbeats made revision %d", revision)
	}
	for what, n := range map[string]keys.Node{"no instance": {Name: "a"}, "no name": {Instance: "i"}, "an endless revision": {Instance: "i", Name: "a", Revision: 1 << 63}} {
		is(t, what, s.Beat(ctx, n, time.Hour), keys.ErrInternal)
	}
	is(t, "no lapse", s.Beat(ctx, keys.Node{Instance: "i", Name: "a"}, 0), keys.ErrInternal)
}

// testNamesAreTaken: of two instances with one name, the one that was there
// goes on.
func testNamesAreTaken(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	other := open()
	defer other.Close()
	first, second := keys.Node{Instance: "i1", Name: "a"}, keys.Node{Instance: "i2", Name: "a"}
	must(t, s.Beat(ctx, first, time.Hour))
	detailed(t, "a second one", other.Beat(ctx, second, time.Hour), keys.ErrConflict)
	must(t, s.Beat(ctx, first, time.Hour))
	must(t, other.Beat(ctx, keys.Node{Instance: "i2", Name: "b"}, time.Hour))
	detailed(t, "one that is known, under a name that is taken", other.Beat(ctx, second, time.Hour), keys.ErrConflict)
	if all, _, err := s.Nodes(ctx); err != nil || len(all) != 2 || all[0].Instance != "i1" || all[1].Name != "b" {
		t.Errorf("%+v, %v", all, err)
	}
	must(t, s.Leave(ctx, "i1"))
	must(t, other.Beat(ctx, second, time.Hour))
	detailed(t, "the first one comes back", s.Beat(ctx, first, time.Hour), keys.ErrConflict)
}

// testNamesAtOnce: of many that come at one moment, one has the name.
func testNamesAtOnce(t *testing.T, open func() store.Store) {
	won := atOnce(t, open, 8, func(ctx context.Context, s store.Store, i int) error {
		return s.Beat(ctx, keys.Node{Instance: fmt.Sprint("i", i), Name: "a"}, time.Hour)
	}, keys.ErrConflict)
	if len(won) != 1 {
		t.Errorf("%v have the name", won)
	}
}

// testHints: a commit by anybody gives one.
func testHints(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	other := open()
	defer other.Close()
	hints := s.Hints()
	if hints == nil {
		t.Fatal("the store does not tell")
	}
	if hints != s.Hints() {
		t.Error("another channel for the same reader")
	}
	create(t, s, NewKey("payments", 1))
	for i, s := range []store.Store{other, s, other} {
		// What came before is taken away; the listener may still have to begin.
		until(t, fmt.Sprintf("a hint of commit %d", i), func() bool {
			select {
			case <-hints:
			default:
			}
			_, err := increment(ctx, s, "payments")
			must(t, err)
			select {
			case <-hints:
				return true
			case <-time.After(time.Second):
				return false
			}
		})
	}
	must(t, other.BlockAgent(ctx, "mallory", &keys.Block{At: t0}))
	select {
	case <-hints:
	case <-time.After(patience):
		t.Error("no hint of a block")
	}
}
