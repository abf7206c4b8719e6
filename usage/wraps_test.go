package usage_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/usage"
)

// near brings a version close to its end: left wraps are left. That was some
// time ago.
func near(t *testing.T, k *kit, left uint64) {
	t.Helper()
	err := k.store.SQLite.ReserveUsage(t.Context(), "long ago", []keys.Usage{
		{Key: "payments", Version: 1, Principal: "past", Applied: usage.WrapsLimit - left, LastUse: time.Now()},
	})
	if err != nil {
		t.Fatal(err)
	}
	k.clock.pass(time.Minute)
}

func (k *kit) wrap(principal string) error {
	return k.CountWrap(k.t.Context(), "payments", 1, principal, 10)
}

// TestWrapsEnd: a version wraps as often as it may, and no more, over
// restarts and for all principals together.
func TestWrapsEnd(t *testing.T) {
	t.Parallel()
	s, c := fresh(t), &clock{}
	k := kitOn(t, s, "node", c)
	near(t, k, 100)
	k = kitOn(t, s, "node", c)
	done := 0
	for i := range 300 {
		if i == 40 {
			k.stop()
			k = kitOn(t, s, "node", c)
		}
		if i == 60 { // a crash, with what was reserved
			k = kitOn(t, s, "node", c)
		}
		switch err := k.wrap(fmt.Sprint(i % 3)); {
		case err == nil:
			done++
		case !errors.Is(err, keys.ErrVersionState):
			t.Fatal(err)
		}
		if i%20 == 0 {
			k.tick()
		}
	}
	// The crash counts what was reserved as used.
	if done > 100 || done < 40 {
		t.Errorf("%d wraps were done, 100 were left", done)
	}
	if u := k.Of("payments", 1); u.Applied > usage.WrapsLimit {
		t.Errorf("%d wraps of %d", u.Applied, uint64(usage.WrapsLimit))
	}
	if err := k.wrap("newcomer"); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("%v, want ErrVersionState", err)
	}
	// Everything else goes on: other uses, other versions, other algorithms.
	if err := k.Count(t.Context(), "payments", 1, "0", keys.UseProcess, 1); err != nil {
		t.Error(err)
	}
	if err := k.CountWrap(t.Context(), "payments", 2, "0", 1); err != nil {
		t.Error(err)
	}
}

// TestWrapsLeft: without crashes every wrap that is left can be had.
func TestWrapsLeft(t *testing.T) {
	t.Parallel()
	s, c := fresh(t), &clock{}
	k := kitOn(t, s, "node", c)
	near(t, k, 25)
	done := 0
	for ; done < 100 && k.wrap("app") == nil; done++ {
	}
	if done != 25 {
		t.Errorf("%d wraps were done, 25 were left", done)
	}
}

// TestWrapsOfNodes: nodes that come to the end at the same time do not go
// beyond it together.
func TestWrapsOfNodes(t *testing.T) {
	t.Parallel()
	s, c := fresh(t), &clock{}
	nodes := []*kit{kitOn(t, s, "a", c), kitOn(t, s, "b", c), kitOn(t, s, "c", c)}
	const left = 200
	near(t, nodes[0], left)
	var done atomic.Int64
	var wg sync.WaitGroup
	for _, k := range nodes {
		for p := range 2 {
			wg.Go(func() {
				for range left {
					if k.wrap(fmt.Sprint(p)) == nil {
						done.Add(1)
					}
				}
			})
		}
	}
	wg.Wait()
	if n := done.Load(); n > left || n == 0 {
		t.Errorf("%d wraps were done, %d were left", n, left)
	}
}

// TestWrapsAfterCount: what was reserved without the bound comes under it.
func TestWrapsAfterCount(t *testing.T) {
	t.Parallel()
	s, c := fresh(t), &clock{}
	k := kitOn(t, s, "node", c)
	k.count(1, "app")
	near(t, k, 5)
	done := 1
	for ; done < 50 && k.wrap("app") == nil; done++ {
	}
	if done != 5 {
		t.Errorf("%d wraps were done, 5 were left", done)
	}
}

// wraps does as many wraps as go, most at most, and returns how many.
func (k *kit) wraps(principal string, most int) (done int, err error) {
	for ; done < most; done++ {
		if err = k.wrap(principal); err != nil {
			return done, err
		}
	}
	return done, nil
}

// TestWrapsInAnOutage: each node has its share, once, and all nodes together
// stay below the end.
func TestWrapsInAnOutage(t *testing.T) {
	t.Parallel()
	const share = 300
	s, c := fresh(t), &clock{}
	var nodes []*kit
	for i := range 3 {
		k := kitIn(t, t.TempDir(), s, fmt.Sprint(i), c)
		k.Share(share)
		nodes = append(nodes, k)
	}
	near(t, nodes[0], 20)
	total := 0
	for _, k := range nodes {
		c.pass(2 * time.Second)
		k.tick()
		k.out()
		first, err := k.wraps("app", share/3)
		if err != nil {
			t.Fatalf("after %d: %v", first, err)
		}
		second, err := k.wraps("new", 10*share)
		if !errors.Is(err, keys.ErrStore) {
			t.Errorf("after %d and %d: %v, want ErrStore", first, second, err)
		}
		third, err := k.wraps("app", 10*share)
		if !errors.Is(err, keys.ErrStore) || first+second+third != share {
			t.Errorf("%d wraps were done in an outage, want %d (%v)", first+second+third, share, err)
		}
		total += share
		// Everything else goes on.
		if err := k.Count(t.Context(), "payments", 1, "app", keys.UseProcess, 1); err != nil {
			t.Error(err)
		}
		if err := k.CountWrap(t.Context(), "payments", 2, "app", 1); err != nil {
			t.Error(err)
		}
	}
	for _, k := range nodes {
		k.back()
	}
	for _, k := range nodes { // each has seen that it is over
		c.pass(2 * time.Second)
		k.tick()
		if _, err := k.wraps("app", 1); !errors.Is(err, keys.ErrVersionState) {
			t.Errorf("beyond the end: %v, want ErrVersionState", err)
		}
		k.out()
		if n, err := k.wraps("app", 10); n > 0 || !errors.Is(err, keys.ErrStore) {
			t.Errorf("%d wraps in the next outage, %v", n, err)
		}
	}
	if u := nodes[0].Of("payments", 1); u.Applied != usage.WrapsLimit-20+uint64(total) {
		t.Errorf("%d wraps are stored, %d were done", u.Applied-(usage.WrapsLimit-20), total)
	}
}

// TestWrapsShareComesBack: far from the end, a node has its share in every
// outage, once what it took in the one before is in the store.
func TestWrapsShareComesBack(t *testing.T) {
	t.Parallel()
	s, c, dir := fresh(t), &clock{}, t.TempDir()
	k := kitIn(t, dir, s, "node", c)
	for round := range 3 {
		k.Share(100)
		k.out()
		reserved := k.stored("app").Applied
		_, err := k.wraps("app", 1<<20)
		if got := k.Of("payments", 1).Applied; !errors.Is(err, keys.ErrStore) || got != reserved+100 {
			t.Errorf("round %d: %d wraps, of which %d were reserved, %v", round, got, reserved, err)
		}
		if round == 1 { // a crash does not give it anew
			k = newKitIn(t, dir, s, "node", c)
			k.store.leave(errGone)
			if err := k.Load(t.Context()); !errors.Is(err, keys.ErrStore) {
				t.Errorf("Load: %v", err)
			}
			if n, err := k.wraps("app", 10); n > 0 || !errors.Is(err, keys.ErrStore) {
				t.Errorf("%d wraps before anything was read, %v", n, err)
			}
			k.store.leave(nil)
			if err := k.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		k.back()
	}
	if usage.WrapsLimit+64*usage.WrapsShare != uint64(keys.MaxWraps) {
		t.Error("the shares of 64 nodes are not what is kept for outages")
	}
}
