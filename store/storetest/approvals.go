package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// newApproval returns a pending approval that expires n hours after t0.
func newApproval(id, key string, n int) *keys.Approval {
	return &keys.Approval{
		ID: id, Action: "destroy", Key: key, Version: 1, Note: "no use \x00 any more", State: keys.ApprovalPending,
		RequestedBy: "jwt:corp:alice", RequestedAs: []string{"jwt:corp:alice", "mtls:alice"}, RequestID: "req-" + id,
		RequestedAt: t0, ExpiresAt: t0.Add(time.Duration(n) * time.Hour),
	}
}

func decide(a *keys.Approval, state keys.ApprovalState) *keys.Approval {
	c := *a
	c.State = state
	if a.State == keys.ApprovalPending {
		c.DecidedBy, c.DecidedAt, c.DecidedNote = "jwt:corp:bob", t0.Add(time.Minute), "yes"
	}
	return &c
}

func testApprovals(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	check := func(want *keys.Approval) {
		t.Helper()
		got, err := s.Approval(ctx, want.ID)
		must(t, err)
		same(t, want, got)
	}
	pending := newApproval(id(1), "payments", 24) // the key need not be there
	must(t, s.PutApproval(ctx, pending, ""))
	check(pending)
	detailed(t, "the same once more", s.PutApproval(ctx, pending, ""), keys.ErrConflict)
	_, err := s.Approval(ctx, id(9))
	detailed(t, "a missing approval", err, keys.ErrNotFound)
	detailed(t, "deciding what is missing", s.PutApproval(ctx, decide(newApproval(id(9), "payments", 1), keys.ApprovalApproved), keys.ApprovalPending), keys.ErrNotFound)

	for what, change := range map[string]func(a *keys.Approval){
		"another action":        func(a *keys.Approval) { a.Action = "delete-key" },
		"another key":           func(a *keys.Approval) { a.Key = "other" },
		"another version":       func(a *keys.Approval) { a.Version = 0 },
		"by force":              func(a *keys.Approval) { a.Force = true },
		"another note":          func(a *keys.Approval) { a.Note = "x" },
		"another requester":     func(a *keys.Approval) { a.RequestedBy = "jwt:corp:mallory" },
		"other identities":      func(a *keys.Approval) { a.RequestedAs = a.RequestedAs[:1] },
		"another request":       func(a *keys.Approval) { a.RequestID = "x" },
		"another time":          func(a *keys.Approval) { a.RequestedAt = t0.Add(1000) },
		"longer":                func(a *keys.Approval) { a.ExpiresAt = a.ExpiresAt.Add(time.Hour) },
		"decided by nobody":     func(a *keys.Approval) { a.DecidedBy = "" },
		"decided at no time":    func(a *keys.Approval) { a.DecidedAt = time.Time{} },
		"an unknown state":      func(a *keys.Approval) { a.State = "x" },
		"stored as expired":     func(a *keys.Approval) { a.State = keys.ApprovalExpired },
		"a text that is no one": func(a *keys.Approval) { a.DecidedNote = "\xff" },
	} {
		a := decide(pending, keys.ApprovalApproved)
		a.RequestedAs = slices.Clone(a.RequestedAs)
		change(a)
		is(t, what, s.PutApproval(ctx, a, keys.ApprovalPending), keys.ErrInternal)
		is(t, what+", by a commit", s.Commit(ctx, store.Change{Approval: a}), keys.ErrInternal)
		check(pending)
	}
	is(t, "approved from the start", s.PutApproval(ctx, decide(newApproval(id(2), "payments", 1), keys.ApprovalApproved), ""), keys.ErrInternal)

	approved := decide(pending, keys.ApprovalApproved)
	must(t, s.PutApproval(ctx, approved, keys.ApprovalPending))
	check(approved)
	detailed(t, "approving twice", s.PutApproval(ctx, approved, keys.ApprovalPending), keys.ErrConflict)
	other := decide(approved, keys.ApprovalDone)
	other.DecidedBy = "jwt:corp:mallory"
	is(t, "another approver", s.PutApproval(ctx, other, keys.ApprovalApproved), keys.ErrInternal)
	done := decide(approved, keys.ApprovalDone)
	must(t, s.PutApproval(ctx, done, keys.ApprovalApproved))
	check(done)
	failed := decide(approved, keys.ApprovalFailed)
	failed.Error = "late"
	detailed(t, "an approval that served", s.PutApproval(ctx, failed, keys.ApprovalApproved), keys.ErrConflict)
	if _, revision := load(t, s); revision != 0 {
		t.Errorf("approvals made revision %d", revision)
	}
}

// testApprovalSteps tries every way from state to state.
func testApprovalSteps(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	steps := map[keys.ApprovalState][]keys.ApprovalState{
		keys.ApprovalPending:  {keys.ApprovalApproved, keys.ApprovalRejected},
		keys.ApprovalApproved: {keys.ApprovalDone, keys.ApprovalFailed},
		keys.ApprovalDone:     nil, keys.ApprovalFailed: nil, keys.ApprovalRejected: nil,
	}
	way := map[keys.ApprovalState][]keys.ApprovalState{ // to a state
		keys.ApprovalPending: nil, keys.ApprovalApproved: {keys.ApprovalApproved}, keys.ApprovalRejected: {keys.ApprovalRejected},
		keys.ApprovalDone: {keys.ApprovalApproved, keys.ApprovalDone}, keys.ApprovalFailed: {keys.ApprovalApproved, keys.ApprovalFailed},
	}
	n := 0
	for from, allowed := range steps {
		for to := range steps {
			for _, byCommit := range []bool{false, true} {
				n++
				a := newApproval(id(n), "payments", 1)
				must(t, s.PutApproval(ctx, a, ""))
				for _, state := range way[from] {
					next := decide(a, state)
					must(t, s.PutApproval(ctx, next, a.State))
					a = next
				}
				next := decide(a, to)
				var err error
				if byCommit {
					err = s.Commit(ctx, store.Change{Approval: next})
				} else {
					err = s.PutApproval(ctx, next, a.State)
				}
				switch {
				case slices.Contains(allowed, to):
					must(t, err)
				case err == nil:
					t.Errorf("from %s to %s", from, to)
				default:
					next = a
				}
				got, err := s.Approval(ctx, a.ID)
				must(t, err)
				same(t, next, got)
			}
		}
	}
}

func testApprovalLists(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	var all []*keys.Approval // newest first
	for i := range 12 {
		a := newApproval(id(i), "payments", i)
		must(t, s.PutApproval(ctx, a, ""))
		if i%3 == 1 {
			next := decide(a, keys.ApprovalApproved)
			must(t, s.PutApproval(ctx, next, keys.ApprovalPending))
			a = next
		}
		all = slices.Insert(all, 0, a)
	}
	pick := func(f func(a *keys.Approval) bool) (out []*keys.Approval) {
		for _, a := range all {
			if f(a) {
				out = append(out, a)
			}
		}
		return out
	}
	noon := t0.Add(6 * time.Hour)
	for _, tt := range []struct {
		f    store.ApprovalFilter
		want []*keys.Approval
	}{
		{store.ApprovalFilter{}, all},
		{store.ApprovalFilter{Limit: 5}, all[:5]},
		{store.ApprovalFilter{Before: id(5)}, all[7:]},
		{store.ApprovalFilter{Before: id(0)}, nil},
		{store.ApprovalFilter{State: keys.ApprovalDone, At: noon}, nil},
		{store.ApprovalFilter{State: keys.ApprovalApproved, At: noon}, pick(func(a *keys.Approval) bool { return a.State == keys.ApprovalApproved })},
		{store.ApprovalFilter{State: keys.ApprovalPending, At: noon}, pick(func(a *keys.Approval) bool { return a.StateAt(noon) == keys.ApprovalPending })},
		{store.ApprovalFilter{State: keys.ApprovalExpired, At: noon}, pick(func(a *keys.Approval) bool { return a.StateAt(noon) == keys.ApprovalExpired })},
		{store.ApprovalFilter{State: keys.ApprovalExpired, At: noon, Before: id(4), Limit: 1}, pick(func(a *keys.Approval) bool { return a.ID == id(3) })},
		{store.ApprovalFilter{State: "' OR 1"}, nil},
	} {
		got, err := s.Approvals(ctx, tt.f)
		must(t, err)
		same(t, tt.want, got)
	}
}

// testApprovalServesOnce: the act that an approval is for and its end are one
// commit, and only one.
func testApprovalServesOnce(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("payments", 3))
	a := newApproval(id(1), "payments", 24)
	must(t, s.PutApproval(ctx, a, ""))
	approved := decide(a, keys.ApprovalApproved)
	must(t, s.PutApproval(ctx, approved, keys.ApprovalPending))
	done := decide(approved, keys.ApprovalDone)
	act := func(n int, done *keys.Approval) store.Change {
		k := stored(t, s, "payments")
		next := Step(k, func(k *keys.Key) { k.Versions[n].DestroyAt = t0 })
		return store.Change{Key: next, FromEpoch: k.Epoch, Approval: done}
	}
	unchanged(t, s, "another key's approval", func() {
		b := *done
		b.Key = "other"
		is(t, "another key's approval", s.Commit(ctx, act(0, &b)), keys.ErrInternal)
	})
	unchanged(t, s, "a missing approval", func() {
		b := *done
		b.ID = id(2)
		is(t, "a missing approval", s.Commit(ctx, act(0, &b)), keys.ErrNotFound)
	})
	stale := act(0, done)
	must(t, s.Commit(ctx, act(0, done)))
	is(t, "the key has moved on", s.Commit(ctx, stale), keys.ErrConflict)
	unchanged(t, s, "the approval again", func() {
		detailed(t, "the approval again", s.Commit(ctx, act(1, done)), keys.ErrConflict)
	})

	b := newApproval(id(3), "payments", 24)
	must(t, s.PutApproval(ctx, b, ""))
	must(t, s.PutApproval(ctx, decide(b, keys.ApprovalApproved), keys.ApprovalPending))
	second := decide(decide(b, keys.ApprovalApproved), keys.ApprovalDone)
	won := atOnce(t, open, 10, func(ctx context.Context, s store.Store, i int) error {
		n := notice("payments", i+1)
		return s.Commit(ctx, store.Change{Approval: second, Notices: []keys.Notice{n}})
	}, keys.ErrConflict)
	if len(won) != 1 {
		t.Errorf("%v used one approval", won)
	}
	eventRange(t, s, 1, 1)
}

// testApproveAtOnce: of many who decide, one does.
func testApproveAtOnce(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	a := newApproval(id(1), "payments", 24)
	must(t, s.PutApproval(ctx, a, ""))
	won := atOnce(t, open, 12, func(ctx context.Context, s store.Store, i int) error {
		c := decide(a, []keys.ApprovalState{keys.ApprovalApproved, keys.ApprovalRejected}[i/2%2])
		c.DecidedBy = fmt.Sprint(i)
		return s.PutApproval(ctx, c, keys.ApprovalPending)
	}, keys.ErrConflict)
	got, err := s.Approval(ctx, a.ID)
	must(t, err)
	if len(won) != 1 || got.DecidedBy != fmt.Sprint(won[0]) {
		t.Errorf("%v decided, and stored is %+v", won, got)
	}
}
