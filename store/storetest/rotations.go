package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

func testRotationRows(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("payments", 1))
	r := NewRotation(id(1), "payments", 2)
	must(t, s.Commit(ctx, store.Change{Rotation: r}))
	check := func(want *keys.Rotation) {
		t.Helper()
		got, err := s.Rotation(ctx, r.ID)
		must(t, err)
		same(t, want, got)
		if got.StartedAt.Location() != time.UTC {
			t.Error("a time is not in UTC")
		}
	}
	check(r)
	for what, change := range map[string]func(r *keys.Rotation){
		"another key":       func(r *keys.Rotation) { r.Key = "other" },
		"another start":     func(r *keys.Rotation) { r.From = 9 },
		"another version":   func(r *keys.Rotation) { r.To = 9 },
		"another reason":    func(r *keys.Rotation) { r.Reason = keys.ReasonInitial },
		"another initiator": func(r *keys.Rotation) { r.StartedBy = "jwt:corp:mallory" },
		"another request":   func(r *keys.Rotation) { r.RequestID = "x" },
		"another time":      func(r *keys.Rotation) { r.StartedAt = t0.Add(time.Hour) },
		"another note":      func(r *keys.Rotation) { r.Note = "x" },
		"another lead":      func(r *keys.Rotation) { r.Announce = time.Hour },
		"other acks":        func(r *keys.Rotation) { r.Acks.Require = keys.AckAll },
		"a coordinated one": func(r *keys.Rotation) { r.ActivateAt = t0.Add(time.Hour) },
		"no phase":          func(r *keys.Rotation) { r.Phase = "x" },
		"what is no text":   func(r *keys.Rotation) { r.Error = "\xff" },
		"whom nobody knows": func(r *keys.Rotation) { r.Expected = []string{"\xff"} },
	} {
		unchanged(t, s, what, func() {
			next := *r
			change(&next)
			is(t, what, s.Commit(ctx, store.Change{Rotation: &next}), keys.ErrInternal)
		})
	}
	activated := *r
	activated.Phase, activated.CompletedAt = keys.PhaseActivated, t0.Add(time.Second)
	k := stored(t, s, "payments")
	must(t, s.Commit(ctx, store.Change{Key: Step(k, touch), FromEpoch: 1, Rotation: &activated}))
	check(&activated)
	for _, phase := range []keys.Phase{keys.PhaseReserved, keys.PhaseAborted} {
		unchanged(t, s, "behind the switch", func() {
			back := activated
			back.Phase = phase
			detailed(t, "behind the switch, to "+string(phase), s.Commit(ctx, store.Change{Rotation: &back}), keys.ErrConflict)
		})
	}
	must(t, s.Commit(ctx, store.Change{Rotation: &activated})) // the same once more
	completed := activated
	completed.Phase = keys.PhaseCompleted
	must(t, s.Commit(ctx, store.Change{Rotation: &completed}))
	check(&completed)
	for _, phase := range []keys.Phase{keys.PhaseReserved, keys.PhaseActivated, keys.PhaseCompleted, keys.PhaseAborted} {
		unchanged(t, s, "an ended rotation", func() {
			late := completed
			late.Phase, late.Error = phase, "late"
			detailed(t, "an ended rotation", s.Commit(ctx, store.Change{Rotation: &late}), keys.ErrConflict)
			// The key of a late change stays as it is, too.
			now := stored(t, s, "payments")
			is(t, "a key with it", s.Commit(ctx, store.Change{Key: Step(now, touch), FromEpoch: now.Epoch, Rotation: &late}), keys.ErrConflict)
		})
	}
	unchanged(t, s, "a rotation of no key", func() {
		detailed(t, "a rotation of no key", s.Commit(ctx, store.Change{Rotation: NewRotation(id(2), "missing", 1)}), keys.ErrKeyNotFound)
	})
	_, err := s.Rotation(ctx, strings.Repeat("x", 1000))
	detailed(t, "a missing rotation", err, keys.ErrNotFound)
}

func testRotationRoundTrip(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("payments", 1))
	at := func(n int) time.Time { return t0.Add(time.Duration(n) * time.Microsecond) }
	r := NewRotation(id(1), "payments", 2)
	r.Note, r.Announce, r.ActivateAt = "a \x00 \"note\"", time.Hour+1, at(1)
	r.Acks = keys.Acks{Require: keys.AckQuorum, Quorum: 51, Timeout: 2 * time.Hour, OnTimeout: keys.TimeoutActivate, AbsentAfter: time.Minute}
	check := func() {
		t.Helper()
		must(t, s.Commit(ctx, store.Change{Rotation: r}))
		got, err := s.Rotation(ctx, r.ID)
		must(t, err)
		same(t, r, got)
	}
	check()
	r.Phase, r.AnnouncedAt, r.Expected = keys.PhaseAnnounced, at(2), []string{"jwt:corp:bob", "", "ü"}
	check()
	for _, other := range []time.Time{{}, at(3)} {
		unchanged(t, s, "announced at another time", func() {
			next := *r
			next.AnnouncedAt = other
			is(t, "announced at another time", s.Commit(ctx, store.Change{Rotation: &next}), keys.ErrInternal)
		})
	}
	r.Expected = append(r.Expected, "late")
	check()
	r.Phase, r.SwitchAt, r.Skipped = keys.PhaseScheduled, at(4), []string{"late"}
	check()
	r.SwitchAt, r.ForcedBy = at(3), "jwt:corp:alice" // brought forward
	check()
	r.Phase, r.CompletedAt = keys.PhaseActivated, at(5)
	check()
	unchanged(t, s, "switched at another time", func() {
		next := *r
		next.SwitchAt = at(9)
		is(t, "switched at another time", s.Commit(ctx, store.Change{Rotation: &next}), keys.ErrInternal)
	})
	r.Phase = keys.PhaseCompleted
	check()
	r2 := NewRotation(id(2), "payments", 3)
	r2.Phase, r2.EndedBy, r2.Error = keys.PhaseAborted, "jwt:corp:alice", "no"
	r = r2
	check()
}

// testRotationPhases tries every way from phase to phase.
func testRotationPhases(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	phases := []keys.Phase{keys.PhaseReserved, keys.PhaseAnnounced, keys.PhaseScheduled, keys.PhaseActivated, keys.PhaseCompleted, keys.PhaseAborted}
	for i, from := range phases {
		for j, to := range phases {
			name := fmt.Sprintf("key-%d-%d", i, j)
			r := NewRotation(id(10*i+j), name, 2)
			r.Phase = from
			must(t, s.Commit(ctx, store.Change{Key: NewKey(name, 1), Rotation: r}))
			next := *r
			next.Phase = to
			switch err := s.Commit(ctx, store.Change{Rotation: &next}); {
			case from.Leads(to):
				must(t, err)
			default:
				detailed(t, fmt.Sprintf("from %s to %s", from, to), err, keys.ErrConflict)
				next = *r
			}
			got, err := s.Rotation(ctx, r.ID)
			must(t, err)
			same(t, &next, got)
		}
	}
}

func testRotationRunning(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("payments", 1), NewKey("other", 1))
	first := NewRotation(id(1), "payments", 2)
	must(t, s.Commit(ctx, store.Change{Rotation: first}))
	refused := func(c store.Change) {
		t.Helper()
		unchanged(t, s, "a second rotation", func() {
			err := s.Commit(ctx, c)
			detailed(t, "a second rotation", err, keys.ErrRotationRunning)
			if err != nil && !strings.Contains(err.Error(), first.ID) {
				t.Errorf("the error does not name the running rotation: %v", err)
			}
		})
	}
	second := NewRotation(id(2), "payments", 2)
	refused(store.Change{Rotation: second})
	refused(store.Change{Key: Step(stored(t, s, "payments"), touch), FromEpoch: 1, Rotation: second})
	must(t, s.Commit(ctx, store.Change{Rotation: NewRotation(id(3), "other", 2)})) // one per key

	activated := *first
	activated.Phase = keys.PhaseActivated
	must(t, s.Commit(ctx, store.Change{Rotation: &activated}))
	refused(store.Change{Rotation: second})
	completed := activated
	completed.Phase = keys.PhaseCompleted
	must(t, s.Commit(ctx, store.Change{Rotation: &completed}))
	must(t, s.Commit(ctx, store.Change{Rotation: second}))
	aborted := *second
	aborted.Phase = keys.PhaseAborted
	must(t, s.Commit(ctx, store.Change{Rotation: &aborted}))
	must(t, s.Commit(ctx, store.Change{Rotation: NewRotation(id(4), "payments", 3)}))
}

func testRotationLists(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("a", 1), NewKey("b", 1))
	var all []*keys.Rotation // newest first
	for i := range 20 {
		r := NewRotation(id(i), []string{"a", "b"}[i%2], uint32(i/2+2))
		if i < 18 {
			r.Phase = []keys.Phase{keys.PhaseCompleted, keys.PhaseAborted}[i/2%2]
		}
		must(t, s.Commit(ctx, store.Change{Rotation: r}))
		all = slices.Insert(all, 0, r)
	}
	pick := func(f func(r *keys.Rotation) bool) (out []*keys.Rotation) {
		for _, r := range all {
			if f(r) {
				out = append(out, r)
			}
		}
		return out
	}
	ofA := pick(func(r *keys.Rotation) bool { return r.Key == "a" })
	for _, tt := range []struct {
		f    store.RotationFilter
		want []*keys.Rotation
	}{
		{store.RotationFilter{}, all},
		{store.RotationFilter{Limit: 7}, all[:7]},
		{store.RotationFilter{Limit: 100}, all},
		{store.RotationFilter{Key: "a"}, ofA},
		{store.RotationFilter{Key: "missing"}, nil},
		{store.RotationFilter{OpenOnly: true}, all[:2]},
		{store.RotationFilter{OpenOnly: true, Key: "a"}, ofA[:1]},
		{store.RotationFilter{OpenOnly: true, Limit: 1}, all[:1]},
		{store.RotationFilter{Before: id(5)}, all[15:]},
		{store.RotationFilter{Before: id(0)}, nil},
		{store.RotationFilter{Before: "zzz"}, all},
		{store.RotationFilter{Key: "a", Before: id(10), Limit: 2}, ofA[5:7]},
		{store.RotationFilter{Key: "' OR '1'='1"}, nil},
	} {
		got, err := s.Rotations(ctx, tt.f)
		must(t, err)
		same(t, tt.want, got)
	}
	// Page by page, as the API does.
	var paged []*keys.Rotation
	for before := ""; ; {
		page, err := s.Rotations(ctx, store.RotationFilter{Before: before, Limit: 3})
		must(t, err)
		if len(page) == 0 {
			break
		}
		paged, before = append(paged, page...), page[len(page)-1].ID
	}
	same(t, all, paged)
}

func testRotationByRequest(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("a", 1), NewKey("b", 1), NewKey("c", 1), NewKey("d", 1))
	for i, key := range []string{"a", "b", "c", "d"} {
		r := NewRotation(id(i), key, 2)
		r.RequestID = []string{"", "req-1", "req-2", "req-1"}[i]
		must(t, s.Commit(ctx, store.Change{Rotation: r}))
	}
	for request, want := range map[string]string{"req-2": id(2), "req-1": id(3)} {
		r, err := s.RotationByRequest(ctx, request)
		must(t, err)
		if r.ID != want {
			t.Errorf("request %s began %s, want %s", request, r.ID, want)
		}
	}
	for _, request := range []string{"", "req-3", "REQ-1"} {
		_, err := s.RotationByRequest(ctx, request)
		detailed(t, fmt.Sprintf("request %q", request), err, keys.ErrNotFound)
	}
}

// testRotateAtOnce: of many who begin a rotation of one key, one does.
func testRotateAtOnce(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("payments", 1))
	won := atOnce(t, open, 12, func(ctx context.Context, s store.Store, i int) error {
		return s.Commit(ctx, store.Change{Rotation: NewRotation(id(i), "payments", 2)})
	}, keys.ErrRotationRunning)
	open1, err := s.Rotations(ctx, store.RotationFilter{OpenOnly: true})
	must(t, err)
	if len(won) != 1 || len(open1) != 1 || open1[0].ID != id(won[0]) {
		t.Errorf("%v began a rotation, %d are open", won, len(open1))
	}
}

// atOnce runs f n times at once, half of them over a store opened anew, and
// returns who succeeded. All others must fail with want.
func atOnce(t *testing.T, open func() store.Store, n int, f func(ctx context.Context, s store.Store, i int) error, want error) (won []int) {
	t.Helper()
	stores := []store.Store{open(), open()}
	results := make([]error, n)
	together(n, func(i int) { results[i] = f(t.Context(), stores[i%2], i) })
	for i, err := range results {
		switch {
		case err == nil:
			won = append(won, i)
		case !errors.Is(err, want):
			t.Errorf("number %d: %v, want %v", i, err, want)
		}
	}
	for _, s := range stores {
		must(t, s.Close())
	}
	return won
}
