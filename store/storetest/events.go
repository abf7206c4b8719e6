package storetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// notice tells of a key; the time of it grows with n.
func notice(key string, n int) keys.Notice {
	return keys.Notice{Type: keys.NoticeAnnounced, At: t0.Add(time.Duration(n) * time.Minute), Key: key, Version: uint32(n)}
}

// tell writes events, one commit each.
func tell(t *testing.T, s store.Store, all ...keys.Notice) {
	t.Helper()
	for _, n := range all {
		must(t, s.Commit(t.Context(), store.Change{Notices: []keys.Notice{n}}))
	}
}

func eventRange(t *testing.T, s store.Store, oldest, newest uint64) {
	t.Helper()
	o, n, err := s.EventRange(t.Context())
	must(t, err)
	if o != oldest || n != newest {
		t.Errorf("the events are %d to %d, want %d to %d", o, n, oldest, newest)
	}
}

func testEvents(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	eventRange(t, s, 0, 0)
	none, err := s.Events(ctx, 0, 10)
	must(t, err)
	same(t, []keys.Notice{}, none)

	k := NewKey("payments", 1)
	full := keys.Notice{
		ID: 77, Type: keys.NoticeScheduled, At: t0, Key: "payments", Version: 1<<32 - 1, When: t0.Add(time.Hour), Rotation: id(1), Reason: "a\x00ü\"",
	}
	must(t, s.Commit(ctx, store.Change{Key: k, Notices: []keys.Notice{full, notice("payments", 1), notice("payments", 2)}}))
	must(t, s.Commit(ctx, store.Change{Rotation: NewRotation(id(1), "payments", 2), Notices: []keys.Notice{notice("payments", 3)}}))
	tell(t, s, keys.Notice{Type: keys.NoticeKeyDeleted, At: t0, Key: "gone"})
	if _, revision := load(t, s); revision != 3 {
		t.Errorf("three commits made revision %d", revision)
	}
	all, err := s.Events(ctx, 0, 10)
	must(t, err)
	want := []keys.Notice{full, notice("payments", 1), notice("payments", 2), notice("payments", 3), {Type: keys.NoticeKeyDeleted, At: t0, Key: "gone"}}
	for i := range want {
		want[i].ID = uint64(i + 1)
	}
	same(t, want, all)
	if all[0].At.Location() != time.UTC || all[0].When.Location() != time.UTC {
		t.Error("a time is not in UTC")
	}
	eventRange(t, s, 1, 5)
	for _, tt := range []struct {
		after uint64
		limit int
		want  []keys.Notice
	}{{0, 2, want[:2]}, {2, 2, want[2:4]}, {4, 2, want[4:]}, {5, 2, nil}, {1 << 63, 2, nil}, {0, 0, nil}} {
		got, err := s.Events(ctx, tt.after, tt.limit)
		must(t, err)
		same(t, tt.want, got)
	}

	// What is refused leaves no event, and no event comes without its change.
	unchanged(t, s, "a refused change", func() {
		err := s.Commit(ctx, store.Change{Key: NewKey("payments", 1), Notices: []keys.Notice{notice("payments", 9)}})
		is(t, "a refused change", err, keys.ErrKeyExists)
	})
	for what, n := range map[string]keys.Notice{
		"no type": {At: t0, Key: "payments"}, "another type": {Type: "x", At: t0, Key: "payments"}, "no time": {Type: keys.NoticeRevoked, Key: "payments"},
		"no key": {Type: keys.NoticeRevoked, At: t0}, "another key": {Type: keys.NoticeRevoked, At: t0, Key: "other"},
		"no text": {Type: keys.NoticeRevoked, At: t0, Key: "payments", Reason: "\xff"},
	} {
		unchanged(t, s, what, func() {
			c := store.Change{Key: Step(k, touch), FromEpoch: 1, Notices: []keys.Notice{notice("payments", 9), n}}
			is(t, what, s.Commit(ctx, c), keys.ErrInternal)
			is(t, what+", of a rotation", s.Commit(ctx, store.Change{Rotation: NewRotation(id(2), "payments", 2), Notices: []keys.Notice{n}}), keys.ErrInternal)
		})
	}
	eventRange(t, s, 1, 5)
	must(t, s.Close())
	s2 := open()
	defer s2.Close()
	tell(t, s2, notice("payments", 10))
	eventRange(t, s2, 1, 6)
}

func testEventsExpire(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	tell(t, s, notice("a", 1), notice("a", 2), notice("a", 9), notice("a", 3), notice("a", 4)) // a clock that stepped back
	expire := func(minutes, want int) {
		t.Helper()
		n, err := s.ExpireEvents(ctx, t0.Add(time.Duration(minutes)*time.Minute))
		must(t, err)
		if n != want {
			t.Errorf("%d expired, want %d", n, want)
		}
	}
	expire(1, 0)
	expire(2, 1)
	eventRange(t, s, 2, 5)
	expire(5, 1) // those behind one that stays, stay: the stream has no holes
	eventRange(t, s, 3, 5)
	expire(10, 3)
	eventRange(t, s, 6, 5)
	expire(10, 0)
	left, err := s.Events(ctx, 0, 10)
	must(t, err)
	same(t, []keys.Notice{}, left)
	tell(t, s, notice("a", 1)) // ids do not come again
	eventRange(t, s, 6, 6)
}

// testEventsAtOnce: whoever follows the events by id misses none, whoever
// writes them.
func testEventsAtOnce(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	second := open()
	defer second.Close()
	const writers, each = 4, 15
	done := make(chan struct{})
	var seen []uint64
	together(2, func(i int) {
		if i == 0 {
			defer close(done)
			together(writers, func(i int) {
				for n := range each {
					c := store.Change{Notices: []keys.Notice{notice("a", n+1), notice("a", n+1)}}
					if err := []store.Store{s, second}[i%2].Commit(ctx, c); err != nil {
						t.Errorf("writer %d: %v", i, err)
						return
					}
				}
			})
			return
		}
		last, after := false, uint64(0)
		for !last {
			select {
			case <-done:
				last = true
			default:
			}
			got, err := second.Events(ctx, after, 1000)
			if err != nil {
				t.Errorf("following: %v", err)
				return
			}
			for _, n := range got {
				after = n.ID
				seen = append(seen, n.ID)
			}
		}
	})
	if len(seen) != 2*writers*each || !slices.IsSorted(seen) || seen[0] != 1 || seen[len(seen)-1] != uint64(len(seen)) {
		t.Errorf("of %d events a follower saw %v", 2*writers*each, seen)
	}
}

func testHooks(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	hook := func(want store.Hook) {
		t.Helper()
		got, err := s.Hook(ctx, want.Name)
		must(t, err)
		same(t, want, got)
	}
	hook(store.Hook{Name: "early"})
	tell(t, s, notice("a", 1), notice("a", 2), notice("a", 3))
	hook(store.Hook{Name: "early"})
	hook(store.Hook{Name: "late", Cursor: 3}) // it begins with what comes
	tell(t, s, notice("a", 4))
	hook(store.Hook{Name: "late", Cursor: 3})

	full := store.Hook{Name: "late", Cursor: 4, Failures: 7, FirstFail: t0, RetryAt: t0.Add(time.Hour), LastError: "no", LastOK: t0.Add(time.Minute)}
	must(t, s.PutHook(ctx, full))
	hook(full)
	hook(store.Hook{Name: "early"})
	must(t, s.PutHook(ctx, store.Hook{Name: "new", Cursor: 2}))
	hook(store.Hook{Name: "new", Cursor: 2})

	events, err := s.Events(ctx, 0, 10)
	must(t, err)
	dead := func(hook string, i int) store.DeadEvent {
		return store.DeadEvent{Hook: hook, Notice: events[i], Error: "gone", At: t0.Add(time.Duration(i) * time.Hour)}
	}
	check := func(hook string, limit int, want ...store.DeadEvent) {
		t.Helper()
		got, err := s.DeadEvents(ctx, hook, limit)
		must(t, err)
		same(t, want, got)
	}
	check("", 0)
	full.Cursor, full.Failures = 1, 0
	must(t, s.PutHook(ctx, full, dead("late", 1), dead("late", 0)))
	must(t, s.PutHook(ctx, store.Hook{Name: "early", Cursor: 1}, dead("early", 0)))
	hook(full)
	hook(store.Hook{Name: "early", Cursor: 1})
	check("late", 0, dead("late", 0), dead("late", 1))
	check("", 0, dead("early", 0), dead("late", 0), dead("late", 1))
	check("", 2, dead("early", 0), dead("late", 0))
	check("other", 0)
	again := dead("late", 1)
	again.Error = "gone again"
	must(t, s.PutHook(ctx, full, again))
	check("late", 0, dead("late", 0), again)
	for what, err := range map[string]error{
		"no name":      s.PutHook(ctx, store.Hook{Cursor: 1}),
		"another hook": s.PutHook(ctx, store.Hook{Name: "late", Cursor: 4}, dead("early", 1)),
		"no event":     s.PutHook(ctx, store.Hook{Name: "late", Cursor: 4}, store.DeadEvent{Hook: "late", At: t0}),
	} {
		is(t, what, err, keys.ErrInternal)
	}
	hook(full)
	_, err = s.Hook(ctx, "")
	is(t, "a hook without name", err, keys.ErrInternal)

	_, err = s.ExpireEvents(ctx, t0.Add(time.Hour)) // the dead stay
	must(t, err)
	must(t, s.ForgetDead(ctx, "late", 1))
	must(t, s.ForgetDead(ctx, "late", 1))
	must(t, s.ForgetDead(ctx, "nobody", 1))
	check("", 0, dead("early", 0), again)
}

// testHookAtOnce: a webhook that several enter at once begins at one place.
func testHookAtOnce(t *testing.T, open func() store.Store) {
	_, s := start(t, open)
	tell(t, s, notice("a", 1))
	won := atOnce(t, open, 8, func(ctx context.Context, s store.Store, _ int) error {
		h, err := s.Hook(ctx, "hook")
		if err == nil && h.Cursor != 1 {
			err = errors.New("it begins elsewhere")
		}
		return err
	}, nil)
	if len(won) != 8 {
		t.Errorf("only %v entered it", won)
	}
}
