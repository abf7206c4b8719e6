package gateway_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
)

// retired makes a key with a version 1 that nothing speaks for any more.
func (w *world) retired(name string) {
	w.t.Helper()
	w.key(name, keys.ES256)
	w.rotate(name)
	w.news()
}

// ask orders a destruction that waits for another person.
func (w *world) ask(who gateway.Request, name string, n uint32) api.Approval {
	w.t.Helper()
	out := of(w.Destroy(w.t.Context(), who, name, n, api.DestroyRequest{Reason: "old"})).ok(w.t)
	if out.Approval == nil || out.Key != nil {
		w.t.Fatalf("%+v", out)
	}
	return *out.Approval
}

func (w *world) stateOf(name string, n int) string {
	w.t.Helper()
	k := of(w.Key(w.t.Context(), admin, name)).ok(w.t)
	return k.Versions[len(k.Versions)-n].State
}

func TestTwoPeopleDestroyAVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.retired("payments")
	a := w.ask(admin, "payments", 1)
	if a.State != "pending" || a.Action != "destroy" || a.Key != "payments" || a.Version != 1 || a.Reason != "old" || !a.Mine ||
		a.RequestedBy != admin.Caller.ID || a.ExpiresAt.Sub(a.RequestedAt.Time) != 24*time.Hour || len(a.ID) != 26 {
		t.Errorf("%+v", a)
	}
	recs := w.news()
	if len(recs) != 2 || recs[0].Outcome != audit.OutcomeIntent || recs[1].Outcome != audit.OutcomeOK || recs[1].Reason != "approval-pending" ||
		recs[1].Details["approval"] != a.ID || recs[1].Action != "destroy" || recs[1].KeyID != "payments.v1" || *recs[1].Intent != recs[0].Seq {
		t.Errorf("recorded as %+v", recs)
	}
	if s := w.stateOf("payments", 1); s != "deactivated" {
		t.Errorf("before the approval it is %s", s)
	}
	// The same again is the same approval.
	if b := w.ask(admin, "payments", 1); b.ID != a.ID {
		t.Errorf("%s and %s", a.ID, b.ID)
	}
	if got := of(w.Approval(ctx, second, a.ID)).ok(t); got.Mine || got.State != "pending" {
		t.Errorf("%+v", got)
	}
	w.news()
	done := of(w.Approve(ctx, second, a.ID, api.DecisionRequest{Reason: "checked"})).ok(t)
	if done.State != "done" || done.DecidedBy != second.Caller.ID || done.Decision != "checked" || done.DecidedAt.IsZero() || done.Error != "" {
		t.Errorf("%+v", done)
	}
	if s := w.stateOf("payments", 1); s != "destroy-scheduled" {
		t.Errorf("it is %s", s)
	}
	// Intent and outcome of the decision around those of the act, which bear
	// both names.
	recs = w.news()
	recs = recs[:len(recs)-1] // stateOf
	if len(recs) != 4 {
		t.Fatalf("recorded as %+v", recs)
	}
	for i, want := range []struct{ action, outcome, who string }{
		{"approve", "intent", second.Caller.ID}, {"destroy", "intent", admin.Caller.ID},
		{"destroy", "ok", admin.Caller.ID}, {"approve", "ok", second.Caller.ID},
	} {
		r := recs[i]
		if r.Action != want.action || r.Outcome != want.outcome || r.Principal != want.who || r.Key != "payments" || r.Version != 1 {
			t.Errorf("record %d is %+v", i, r)
		}
		var both strings.Builder
		both.WriteString(r.Principal)
		for _, v := range r.Details {
			both.WriteString(" " + v)
		}
		if s := both.String(); !strings.Contains(s, admin.Caller.ID) || !strings.Contains(s, second.Caller.ID) || !strings.Contains(s, a.ID) {
			t.Errorf("record %d does not bear both names: %+v", i, r)
		}
	}
	of(w.Approve(ctx, second, a.ID, api.DecisionRequest{})).fails(t, keys.ErrConflict)
	of(w.Reject(ctx, second, a.ID, api.DecisionRequest{})).fails(t, keys.ErrConflict)
	if k := of(w.Restore(ctx, admin, "payments", 1, api.VersionActRequest{Reason: "after all"})).ok(t); k.Versions[1].State != "deactivated" {
		t.Errorf("%+v", k.Versions[1])
	}
}

func TestOnePersonIsNotTwo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.retired("payments")
	mtls := func(name string) gateway.Request {
		r := as("x", "admins")
		r.Caller.ID, r.Caller.Method = "mtls:"+name, authz.MethodMTLS
		return r
	}
	other := as("root", "admins")
	other.Caller.ID = "jwt:other:ROOT"
	a := w.ask(also(admin, "mtls:laptop-7"), "payments", 1)
	w.news()
	for what, who := range map[string]gateway.Request{
		"the same":                      admin,
		"another issuer, another case":  other,
		"by certificate":                mtls("root"),
		"by the requester's second one": mtls("laptop-7"),
		"behind another token":          also(second, "mtls:Laptop-7"),
		"behind another certificate":    also(second, "mtls:root"),
	} {
		of(w.Approve(ctx, who, a.ID, api.DecisionRequest{})).fails(t, keys.ErrForbidden)
		if r := w.record(); r.Action != "approve" || r.Outcome != audit.OutcomeDenied || r.Reason != "same-person" || r.Details["approval"] != a.ID {
			t.Errorf("%s: recorded as %+v", what, r)
		}
		if got := of(w.Approval(ctx, who, a.ID)).ok(t); !got.Mine {
			t.Errorf("%s: it is not theirs", what)
		}
		w.news()
	}
	if s := w.stateOf("payments", 1); s != "deactivated" {
		t.Errorf("it is %s", s)
	}
	of(w.Approve(ctx, also(second, "mtls:desk-3"), a.ID, api.DecisionRequest{})).ok(t)
}

func TestApprovalsByPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.retired("payments")
	a := w.ask(admin, "payments", 1)
	w.news()
	for _, act := range []func(gateway.Request, string) error{
		func(r gateway.Request, id string) error { return of(w.Approve(ctx, r, id, api.DecisionRequest{})).err },
		func(r gateway.Request, id string) error { return of(w.Reject(ctx, r, id, api.DecisionRequest{})).err },
	} {
		hidden, none := act(nobody, a.ID), act(nobody, "01JJJJJJJJJJJJJJJJJJJJJJJJ")
		if !errors.Is(hidden, keys.ErrNotFound) || !errors.Is(none, keys.ErrNotFound) {
			t.Errorf("%v, %v", hidden, none)
		}
		for _, r := range w.news() {
			if r.Action != "approve" || r.Outcome == audit.OutcomeOK {
				t.Errorf("recorded as %+v", r)
			}
		}
		if err := act(auditor, a.ID); !errors.Is(err, keys.ErrForbidden) {
			t.Errorf("%v", err)
		}
		if r := w.record(); r.Outcome != audit.OutcomeDenied || r.Reason != "forbidden" {
			t.Errorf("recorded as %+v", r)
		}
	}
	of(w.Approvals(ctx, auditor, "", "", 0)).fails(t, keys.ErrForbidden)
	of(w.Approval(ctx, auditor, a.ID)).fails(t, keys.ErrForbidden)
	for _, r := range w.news() {
		if r.Action != "list-approvals" || r.Outcome != audit.OutcomeDenied {
			t.Errorf("recorded as %+v", r)
		}
	}
	// Who lists them sees those of keys that they may read.
	clerk := as("clerk", "clerks")
	if list := of(w.Approvals(ctx, clerk, "", "", 0)).ok(t); len(list.Approvals) != 0 {
		t.Errorf("%+v", list)
	}
	of(w.Approval(ctx, clerk, a.ID)).fails(t, keys.ErrNotFound)
	reader := as("reader", "clerks", "auditors")
	if list := of(w.Approvals(ctx, reader, "pending", "", 0)).ok(t); len(list.Approvals) != 1 || list.Approvals[0].ID != a.ID || list.Approvals[0].Mine {
		t.Errorf("%+v", list)
	}
	of(w.Approval(ctx, reader, a.ID)).ok(t)
}

func TestApprovalsInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	var ids []string
	for _, name := range []string{"a", "b", "c"} {
		w.retired(name)
		ids = append(ids, w.ask(admin, name, 1).ID)
		w.offset.Add(int64(2 * time.Millisecond))
	}
	of(w.Reject(ctx, admin, ids[0], api.DecisionRequest{})).ok(t)
	page := of(w.Approvals(ctx, admin, "", "", 2)).ok(t)
	if len(page.Approvals) != 2 || page.Approvals[0].ID != ids[2] || page.Approvals[1].ID != ids[1] || page.Next != ids[1] {
		t.Errorf("%+v", page)
	}
	rest := of(w.Approvals(ctx, admin, "", page.Next, 2)).ok(t)
	if len(rest.Approvals) != 1 || rest.Approvals[0].ID != ids[0] || rest.Next != "" || rest.Approvals[0].State != "rejected" {
		t.Errorf("%+v", rest)
	}
	if list := of(w.Approvals(ctx, admin, "rejected", "", 0)).ok(t); len(list.Approvals) != 1 {
		t.Errorf("%+v", list)
	}
	w.offset.Add(int64(24 * time.Hour))
	if err := w.cache.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	for state, want := range map[string]int{"pending": 0, "expired": 2, "": 3} {
		if list := of(w.Approvals(ctx, admin, state, "", 0)).ok(t); len(list.Approvals) != want {
			t.Errorf("%q: %+v", state, list)
		}
	}
	for _, state := range []string{"nonsense", "Pending", strings.Repeat("x", 10_000)} {
		of(w.Approvals(ctx, admin, state, "", 0)).fails(t, keys.ErrInvalid)
	}
}

func TestApprovalsThatAreNotGiven(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.retired("payments")
	rejected := w.ask(admin, "payments", 1)
	w.news()
	of(w.Approve(ctx, second, rejected.ID, api.DecisionRequest{Reason: strings.Repeat("x", 201)})).fails(t, keys.ErrInvalid)
	w.news()
	got := of(w.Reject(ctx, second, rejected.ID, api.DecisionRequest{Reason: "needed"})).ok(t)
	if got.State != "rejected" || got.DecidedBy != second.Caller.ID || got.Decision != "needed" {
		t.Errorf("%+v", got)
	}
	if recs := w.news(); len(recs) != 2 || recs[0].Outcome != audit.OutcomeIntent || recs[1].Reason != "rejected" || recs[1].Details["requested_by"] != admin.Caller.ID {
		t.Errorf("recorded as %+v", recs)
	}
	of(w.Approve(ctx, second, rejected.ID, api.DecisionRequest{})).fails(t, keys.ErrConflict)

	// Whoever asked may take it back, by any identity, and nobody else may
	// without the permission.
	withdrawn := w.ask(as("boss", "destroyers"), "payments", 1)
	if withdrawn.ID == rejected.ID {
		t.Error("a rejected approval was used again")
	}
	of(w.Reject(ctx, as("mallory", "destroyers"), withdrawn.ID, api.DecisionRequest{})).fails(t, keys.ErrForbidden)
	if got := of(w.Reject(ctx, as("boss", "destroyers"), withdrawn.ID, api.DecisionRequest{})).ok(t); got.State != "rejected" {
		t.Errorf("%+v", got)
	}

	expired := w.ask(admin, "payments", 1)
	w.offset.Add(int64(24 * time.Hour))
	if err := w.cache.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	of(w.Approve(ctx, second, expired.ID, api.DecisionRequest{})).fails(t, keys.ErrConflict)
	of(w.Reject(ctx, second, expired.ID, api.DecisionRequest{})).fails(t, keys.ErrConflict)
	if s := w.stateOf("payments", 1); s != "deactivated" {
		t.Errorf("it is %s", s)
	}
	if again := w.ask(admin, "payments", 1); again.ID == expired.ID || again.State != "pending" {
		t.Errorf("%+v", again)
	}
}

// What a requester may not do, or nobody can, is refused before anybody is
// asked.
func TestWhatNeedsNoSecondPersonToRefuse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.retired("payments")
	of(w.Destroy(ctx, admin, "payments", 2, api.DestroyRequest{})).fails(t, keys.ErrVersionState) // the active one
	of(w.Destroy(ctx, admin, "payments", 2, api.DestroyRequest{Reason: "x", Force: true})).fails(t, keys.ErrVersionState)
	of(w.Destroy(ctx, admin, "payments", 9, api.DestroyRequest{})).fails(t, keys.ErrVersionNotFound)
	of(w.Destroy(ctx, admin, "payments", 1, api.DestroyRequest{Force: true})).fails(t, keys.ErrInvalid)
	of(w.Destroy(ctx, admin, "payments", 1, api.DestroyRequest{Force: true, Reason: " \t"})).fails(t, keys.ErrInvalid)
	of(w.DeleteKey(ctx, admin, "payments", api.DestroyRequest{Force: true})).fails(t, keys.ErrInvalid)
	of(w.Destroy(ctx, admin, "payments", 1, api.DestroyRequest{Reason: "\xff"})).fails(t, keys.ErrInvalid)
	for _, r := range w.news() {
		if r.Outcome != audit.OutcomeError {
			t.Errorf("recorded as %+v", r)
		}
	}
	if list := of(w.Approvals(ctx, admin, "", "", 0)).ok(t); len(list.Approvals) != 0 {
		t.Errorf("%+v", list)
	}
	w.ask(admin, "payments", 1)
	of(w.Destroy(ctx, second, "payments", 1, api.DestroyRequest{})).fails(t, keys.ErrConflict) // approve that instead
}

// A version that was used lately is destroyed only if that is overridden,
// which needs a reason and another person whatever the configuration says.
func TestForcedDestruction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) { c.TwoPeople = []string{} })
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.ES256)
	w.rotate("mail")
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
	w.rotate("payments")
	w.news()
	of(w.Destroy(ctx, admin, "payments", 1, api.DestroyRequest{Reason: "old"})).fails(t, keys.ErrInUse)
	if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "version_in_use" || r.KeyID != "payments.v1" {
		t.Errorf("recorded as %+v", r)
	}
	out := of(w.Destroy(ctx, admin, "payments", 1, api.DestroyRequest{Reason: "it leaked", Force: true})).ok(t)
	if out.Approval == nil || !out.Approval.Force {
		t.Fatalf("%+v", out)
	}
	if got := of(w.Approve(ctx, second, out.Approval.ID, api.DecisionRequest{})).ok(t); got.State != "done" {
		t.Errorf("%+v", got)
	}
	// Without two people, what nothing speaks against is done at once.
	direct := of(w.Destroy(ctx, admin, "mail", 1, api.DestroyRequest{Reason: "old"})).ok(t)
	if direct.Key == nil || direct.Approval != nil || direct.Key.Versions[1].State != "destroy-scheduled" || direct.Key.Versions[1].DestroyAt.IsZero() {
		t.Fatalf("%+v", direct)
	}
}

func TestTwoPeopleDeleteAKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	out := of(w.DeleteKey(ctx, admin, "payments", api.DestroyRequest{Reason: "unused"})).ok(t)
	if out.Approval == nil || out.Approval.Action != "delete-key" || out.Approval.Version != 0 {
		t.Fatalf("%+v", out)
	}
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
	// It was used between the order and the approval.
	failed := of(w.Approve(ctx, second, out.Approval.ID, api.DecisionRequest{})).ok(t)
	if failed.State != "failed" || !strings.Contains(failed.Error, "alice") {
		t.Errorf("%+v", failed)
	}
	recs := w.news()
	if last := recs[len(recs)-1]; last.Action != "approve" || last.Outcome != audit.OutcomeError || last.Reason != "version_in_use" {
		t.Errorf("recorded as %+v", last)
	}
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
	of(w.Approve(ctx, second, out.Approval.ID, api.DecisionRequest{})).fails(t, keys.ErrConflict)

	out = of(w.DeleteKey(ctx, admin, "payments", api.DestroyRequest{Reason: "really", Force: true})).ok(t)
	of(w.Approve(ctx, second, out.Approval.ID, api.DecisionRequest{})).ok(t)
	k := of(w.Key(ctx, admin, "payments")).ok(t)
	if k.DeleteAt.IsZero() || k.ActiveVersion != 0 || k.Versions[0].State != "destroy-scheduled" {
		t.Errorf("%+v", k)
	}
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).fails(t, keys.ErrNoActiveVersion)
	of(w.DeleteKey(ctx, admin, "payments", api.DestroyRequest{Reason: "again"})).fails(t, keys.ErrVersionState)
	if k := of(w.RestoreKey(ctx, admin, "payments", api.VersionActRequest{Reason: "after all"})).ok(t); k.ActiveVersion != 1 || !k.DeleteAt.IsZero() {
		t.Errorf("%+v", k)
	}
}

// What the version has become meanwhile decides, not what it was.
func TestChangedBeforeTheApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.retired("payments")
	a := w.ask(admin, "payments", 1)
	of(w.Suspend(ctx, admin, "payments", 2, api.VersionActRequest{})).ok(t) // 1 is active again
	got := of(w.Approve(ctx, second, a.ID, api.DecisionRequest{})).ok(t)
	if got.State != "failed" || got.Error == "" {
		t.Errorf("%+v", got)
	}
	if s := w.stateOf("payments", 1); s != "active" {
		t.Errorf("it is %s", s)
	}
}

// Of many who approve and reject at one time, one decides.
func TestOneDecision(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.retired("payments")
	a := w.ask(admin, "payments", 1)
	var wg sync.WaitGroup
	var mu sync.Mutex
	states := map[string]int{}
	for i := range 8 {
		who := as("admin"+string(rune('a'+i)), "admins")
		wg.Go(func() {
			decide := w.Approve
			if i%2 == 0 {
				decide = w.Reject
			}
			got, err := decide(ctx, who, a.ID, api.DecisionRequest{})
			if err != nil && !errors.Is(err, keys.ErrConflict) {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			states[got.State]++
		})
	}
	wg.Wait()
	final := of(w.Approval(ctx, admin, a.ID)).ok(t).State
	if states["rejected"]+min(states["done"], 1) != 1 || states[final] == 0 {
		t.Errorf("decided: %v, and it is %s", states, final)
	}
	if want := map[string]string{"done": "destroy-scheduled", "rejected": "deactivated"}[final]; w.stateOf("payments", 1) != want {
		t.Errorf("it is %s, want %s", w.stateOf("payments", 1), want)
	}
}

// An act that was approved and interrupted is taken up again: by approving
// again, or at the next start.
func TestInterruptedApprovals(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(w *world, id string) error{
		"approved again": func(w *world, id string) error {
			return of(w.Approve(w.t.Context(), second, id, api.DecisionRequest{})).err
		},
		"at the start": func(w *world, _ string) error { return w.ResumeApprovals(w.t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			ctx := t.Context()
			w.retired("payments")
			w.retired("mail")
			id, moot := w.ask(admin, "payments", 1).ID, w.ask(admin, "mail", 1).ID
			for _, id := range []string{id, moot} { // the process died behind the decision
				a, err := w.store.Approval(ctx, id)
				if err != nil {
					t.Fatal(err)
				}
				a.State, a.DecidedBy, a.DecidedAt = keys.ApprovalApproved, second.Caller.ID, w.now()
				if err := w.store.PutApproval(ctx, a, keys.ApprovalPending); err != nil {
					t.Fatal(err)
				}
			}
			of(w.Suspend(ctx, admin, "mail", 2, api.VersionActRequest{})).ok(t)
			of(w.Approve(ctx, admin, id, api.DecisionRequest{})).fails(t, keys.ErrForbidden)
			w.news()
			if err := again(w, id); err != nil {
				t.Fatal(err)
			}
			recs := w.news()
			if got := of(w.Approval(ctx, admin, id)).ok(t); got.State != "done" || got.DecidedBy != second.Caller.ID {
				t.Errorf("%+v", got)
			}
			if s := w.stateOf("payments", 1); s != "destroy-scheduled" {
				t.Errorf("it is %s", s)
			}
			if name == "at the start" {
				if got := of(w.Approval(ctx, admin, moot)).ok(t); got.State != "failed" {
					t.Errorf("%+v", got)
				}
				last := recs[len(recs)-1]
				if last.Principal != audit.SystemPrincipal || last.Action != "approve" || last.Reason != "version_state" || last.Details["approved_by"] != second.Caller.ID {
					t.Errorf("recorded as %+v", last)
				}
				if err := w.ResumeApprovals(ctx); err != nil || len(w.news()) == 0 {
					t.Error(err)
				}
			}
		})
	}
}

// The act of somebody who was blocked since is not done.
func TestBlockedRequester(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.retired("payments")
	a := w.ask(also(as("insider", "destroyers"), "mtls:insider-pc"), "payments", 1)
	of(w.BlockAgent(ctx, admin, keys.AgentID("mtls:insider-pc"), api.BlockRequest{Principal: "mtls:insider-pc"})).ok(t)
	w.news()
	of(w.Approve(ctx, second, a.ID, api.DecisionRequest{})).fails(t, keys.ErrForbidden)
	if r := w.record(); r.Outcome != audit.OutcomeDenied || r.Reason != "requester-blocked" {
		t.Errorf("recorded as %+v", r)
	}
	of(w.Reject(ctx, second, a.ID, api.DecisionRequest{})).ok(t)
}

// One caller cannot fill the store with orders that nobody approves.
func TestPendingApprovalsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.retired("payments")
	for i := range 100 {
		a := &keys.Approval{
			ID: keys.NewID(w.now()), Action: "destroy", Key: "payments", Version: uint32(1000 + i), State: keys.ApprovalPending,
			RequestedBy: admin.Caller.ID, RequestedAs: []string{admin.Caller.ID}, RequestedAt: w.now(), ExpiresAt: w.now().Add(time.Hour),
		}
		if err := w.store.PutApproval(ctx, a, ""); err != nil {
			t.Fatal(err)
		}
	}
	of(w.Destroy(ctx, admin, "payments", 1, api.DestroyRequest{})).fails(t, keys.ErrConflict)
	w.ask(second, "payments", 1)
}

// A retried order asks once, and a retried approval acts once.
func TestApprovalsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.retired("payments")
	order, approve := admin, second
	order.Once = &gateway.Once{Key: "order", Fingerprint: "a", Status: 202}
	first := of(w.Destroy(ctx, order, "payments", 1, api.DestroyRequest{})).ok(t)
	order.Once = &gateway.Once{Key: "order", Fingerprint: "a", Status: 202}
	if again := of(w.Destroy(ctx, order, "payments", 1, api.DestroyRequest{})).ok(t); again.Approval.ID != first.Approval.ID || !order.Once.Replayed {
		t.Errorf("%+v", again)
	}
	approve.Once = &gateway.Once{Key: "approve", Fingerprint: "b", Status: 200}
	of(w.Approve(ctx, approve, first.Approval.ID, api.DecisionRequest{})).ok(t)
	approve.Once = &gateway.Once{Key: "approve", Fingerprint: "b", Status: 200}
	if again := of(w.Approve(ctx, approve, first.Approval.ID, api.DecisionRequest{})).ok(t); again.State != "done" || !approve.Once.Replayed {
		t.Errorf("%+v", again)
	}
}

// Keyhole's own key is not deleted, and nobody is asked to approve that.
func TestDeletionOfTheAuditKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.engine.EnsureAuditKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	of(w.DeleteKey(t.Context(), admin, keys.AuditKeyName, api.DestroyRequest{Reason: "x", Force: true})).fails(t, keys.ErrInvalid)
}
