package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// testMany writes more rows in one call than go into one statement, some of
// them twice.
func testMany(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	const many = 600
	var counted []keys.Usage
	var seen []store.Sighting
	for i := range many {
		counted = append(counted, keys.Usage{Key: "a", Version: 1, Principal: fmt.Sprintf("p%04d", i), Applied: uint64(i), LastUse: t0})
		seen = append(seen, store.Sighting{Principal: fmt.Sprintf("p%04d", i), At: t0})
	}
	for round := range 2 {
		twice := counted[7*round+3]
		twice.Applied, twice.Version = 7, 1
		must(t, s.ReserveUsage(ctx, "n", append(slices.Clone(counted), twice)))
		got, err := s.Usage(ctx, "a", "n")
		must(t, err)
		want := slices.Clone(counted)
		want[7*round+3] = twice
		same(t, want, got)
	}
	must(t, s.SeeAgents(ctx, append(seen, store.Sighting{Principal: "p0003", At: t0.Add(time.Hour)}, store.Sighting{Principal: "p0003", At: t0.Add(time.Minute)})))
	got, err := s.Agents(ctx, store.AgentFilter{})
	must(t, err)
	if len(got) != many {
		t.Fatalf("%d of %d were seen", len(got), many)
	}
	same(t, &keys.Agent{Principal: "p0003", FirstSeen: t0, LastSeen: t0.Add(time.Hour)}, got[3])
	same(t, &keys.Agent{Principal: "p0004", FirstSeen: t0, LastSeen: t0}, got[4])
	must(t, s.ReserveUsage(ctx, "n", nil))
	must(t, s.SeeAgents(ctx, nil))
}
