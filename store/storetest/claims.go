package storetest

import (
	"sync/atomic"
	"testing"

	"keyhole/keys"
	"keyhole/store"
)

// testUsageClaims: whoever has lost the counters of a node lowers them no
// more, whatever it knew of them.
func testUsageClaims(t *testing.T, open func() store.Store) {
	ctx, old := start(t, open)
	next := open()
	defer next.Close()
	use := func(n uint64) []keys.Usage {
		return []keys.Usage{{Key: "a", Version: 1, Principal: "bob", Applied: n}}
	}
	stored := func(node string, want uint64) {
		t.Helper()
		got, err := next.Usage(ctx, "a", node)
		must(t, err)
		same(t, []keys.Usage{{Key: "a", Version: 1, Principal: "bob", Applied: want}}, got)
	}
	is(t, "a claim without a name", old.ClaimUsage(ctx, ""), keys.ErrInternal)
	must(t, old.ClaimUsage(ctx, "n"))
	must(t, old.ReserveUsage(ctx, "n", use(10)))
	must(t, next.ClaimUsage(ctx, "n"))
	must(t, next.ReserveUsage(ctx, "n", use(20)))
	is(t, "the old one writes", old.ReserveUsage(ctx, "n", use(5)), keys.ErrConflict)
	stored("n", 20)
	must(t, old.ClaimUsage(ctx, "other")) // the claims of other nodes are others
	must(t, old.ReserveUsage(ctx, "other", use(1)))
	must(t, next.ReserveUsage(ctx, "n", use(21)))
	must(t, old.ClaimUsage(ctx, "n")) // and back
	must(t, old.ReserveUsage(ctx, "n", use(22)))
	is(t, "the next one writes", next.ReserveUsage(ctx, "n", use(7)), keys.ErrConflict)
	stored("n", 22)
	if held, err := next.AcquireLease(ctx, "usage/n", "somebody", 1); held || err != nil {
		t.Errorf("a claim was taken like a lease: %v, %v", held, err)
	}

	// Of many who claim and write at once one holds the counters at the end,
	// and what is stored then is its own.
	const many = 8
	var refused atomic.Int32
	stores := make([]store.Store, many)
	for i := range stores {
		stores[i] = open()
		defer stores[i].Close()
	}
	together(many, func(i int) {
		if err := stores[i].ClaimUsage(ctx, "n"); err != nil {
			t.Error(err)
		}
		if err := stores[i].ReserveUsage(ctx, "n", use(uint64(100+i))); err != nil {
			is(t, "a write after a lost claim", err, keys.ErrConflict)
			refused.Add(1)
		}
	})
	if n := refused.Load(); n == many {
		t.Error("nobody holds the counters")
	}
	holders := 0
	for i, s := range stores {
		if s.ReserveUsage(ctx, "n", use(uint64(200+i))) == nil {
			holders++
			stored("n", uint64(200+i))
		}
	}
	if holders != 1 {
		t.Errorf("%d hold the counters", holders)
	}
}
