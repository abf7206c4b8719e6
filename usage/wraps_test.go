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
