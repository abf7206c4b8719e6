package store_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// later lets time go by for all nodes and leases of a store.
func later(t *testing.T, s interface {
	Exec(tb testing.TB, query string, args ...any)
}, d time.Duration,
) {
	t.Helper()
	s.Exec(t, "UPDATE nodes SET started_at = started_at - ?, seen_at = seen_at - ?, until = until - ?", d.Microseconds(), d.Microseconds(), d.Microseconds())
	s.Exec(t, "UPDATE leases SET until = until - ? WHERE until < ?", d.Microseconds(), int64(1)<<62)
}

func nodeNames(t *testing.T, s store.Store) (all []string) {
	t.Helper()
	nodes, _, err := s.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		all = append(all, n.Instance)
	}
	return all
}

// TestTakeover: a gateway that was killed starts again under its name, and
// one that was away for long finds its name taken.
func TestTakeover(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, _ := newPostgres(t)
	old, next := keys.Node{Instance: "old", Name: "a"}, keys.Node{Instance: "next", Name: "a"}
	beat := func(n keys.Node) error { return s.Beat(ctx, n, time.Hour) }
	if err := beat(old); err != nil {
		t.Fatal(err)
	}
	later(t, s, 6*time.Second)
	if err := beat(old); err != nil {
		t.Errorf("back after a while, with nobody in its place: %v", err)
	}
	later(t, s, 6*time.Second)
	if err := beat(next); err != nil {
		t.Errorf("after one that was killed: %v", err)
	}
	s.SetTakeover(time.Hour) // however busy the machine
	later(t, s, 2*time.Hour)
	if err := beat(next); err != nil {
		t.Error(err)
	}
	if err := beat(old); !errors.Is(err, keys.ErrConflict) {
		t.Errorf("back, and another one is in its place: %v", err)
	}
	if got := nodeNames(t, s); !slices.Equal(got, []string{"old", "next"}) {
		t.Errorf("the nodes are %v: what may still use keys is to be known", got)
	}
}

// TestOneGatewayRestarts: SQLite has no other gateway, and one that was killed
// starts at once.
func TestOneGatewayRestarts(t *testing.T) {
	t.Parallel()
	s, _ := newSQLite(t)
	for _, instance := range []string{"one", "two"} {
		if err := s.Beat(t.Context(), keys.Node{Instance: instance, Name: "a"}, time.Hour); err != nil {
			t.Errorf("%s: %v", instance, err)
		}
	}
	if got := nodeNames(t, s); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("the nodes are %v", got)
	}
}

// TestForgetting: what ended long ago is gone when a new gateway comes.
func TestForgetting(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	one, _ := newSQLite(t)
	two, _ := newPostgres(t)
	for _, s := range []interface {
		store.Store
		Exec(tb testing.TB, query string, args ...any)
		Ask(tb testing.TB, writer bool, query string) string
	}{one, two} {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		lease := func(name string, ttl time.Duration) {
			t.Helper()
			_, err := s.AcquireLease(ctx, name, "a", ttl)
			must(err)
		}
		must(s.Beat(ctx, keys.Node{Instance: "a", Name: "a"}, time.Second))
		must(s.Beat(ctx, keys.Node{Instance: "long", Name: "long"}, 72*time.Hour))
		must(s.ClaimUsage(ctx, "a"))
		lease("ended", time.Second)
		lease("long", 72*time.Hour)
		later(t, s, 23*time.Hour)
		must(s.Beat(ctx, keys.Node{Instance: "b", Name: "b"}, time.Hour))
		if got := nodeNames(t, s); !slices.Equal(got, []string{"a", "b", "long"}) {
			t.Errorf("after less than a day: %v", got)
		}
		later(t, s, 2*time.Hour)
		must(s.Beat(ctx, keys.Node{Instance: "b", Name: "b"}, time.Hour))
		if got := nodeNames(t, s); !slices.Equal(got, []string{"a", "b", "long"}) {
			t.Errorf("when nobody new came: %v", got)
		}
		must(s.Beat(ctx, keys.Node{Instance: "c", Name: "c"}, time.Hour))
		if got := nodeNames(t, s); !slices.Equal(got, []string{"b", "c", "long"}) {
			t.Errorf("after more than a day: %v", got)
		}
		if got := s.Ask(t, true, "SELECT count(*) FROM leases WHERE name IN ('long', 'usage/a')"); got != "2" {
			t.Errorf("%s leases that have not ended are left", got)
		}
		if got := s.Ask(t, true, "SELECT count(*) FROM leases"); got != "2" {
			t.Errorf("%s leases are left", got)
		}
	}
}
