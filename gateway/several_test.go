package gateway_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// lapse lets all leases lapse, as if their time had passed.
func (w *world) lapse() {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.dbDir, "keyhole.db")+"?_pragma=busy_timeout(30000)")
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(w.t.Context(), "UPDATE leases SET until = 0"); err != nil {
		w.t.Fatal(err)
	}
}

// A retry that comes to another gateway while the first request is at work is
// told so; when the first gateway is dead, it is answered by what stands.
func TestRetryElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	other := gateway.New(w.config)
	request := func(id, fingerprint string) gateway.Request {
		r := admin
		r.ID, r.Once = id, &gateway.Once{Key: "k", Fingerprint: fingerprint, Status: 202}
		return r
	}
	entered, release := w.hsm.Block(hsmtest.Generate, 1)
	first := make(chan result[api.Rotation], 1)
	go func() { first <- of(w.Rotate(ctx, request("req-1", "f"), "payments", api.RotateRequest{})) }()
	<-entered
	of(other.Rotate(ctx, request("req-2", "f"), "payments", api.RotateRequest{})).fails(t, keys.ErrConflict)
	w.lapse()                                                                                                // the first one is given up, though it still works
	of(other.Rotate(ctx, request("req-3", "f"), "payments", api.RotateRequest{})).fails(t, keys.ErrConflict) // the rotation is not made yet
	release()
	r := (<-first).ok(t)
	again := request("req-4", "f")
	if got := of(other.Rotate(ctx, again, "payments", api.RotateRequest{})).ok(t); got.ID != r.ID || !again.Once.Replayed {
		t.Errorf("%+v, want %s", got, r.ID)
	}
	of(other.Rotate(ctx, request("req-5", "g"), "payments", api.RotateRequest{})).fails(t, keys.ErrInvalid)
	if k, err := w.store.Key(ctx, "payments"); err != nil || len(k.Versions) != 2 {
		t.Errorf("%d versions, %v", len(k.Versions), err)
	}
}

// unavailable is a store that cannot be used for a while.
type unavailable struct {
	gateway.Store
	err error
}

func (u *unavailable) Approvals(ctx context.Context, f store.ApprovalFilter) ([]*keys.Approval, error) {
	if u.err != nil {
		return nil, u.err
	}
	return u.Store.Approvals(ctx, f)
}

// An act that was approved and interrupted is done by one gateway; a store or
// an HSM that cannot be used at the moment stops no start.
func TestApprovalsOfSeveralGateways(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.retired("payments")
	id := w.ask(admin, "payments", 1).ID
	a, err := w.store.Approval(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	a.State, a.DecidedBy, a.DecidedAt = keys.ApprovalApproved, second.Caller.ID, w.now()
	if err := w.store.PutApproval(ctx, a, keys.ApprovalPending); err != nil {
		t.Fatal(err)
	}
	state := func() string { return of(w.Approval(ctx, admin, id)).ok(t).State }

	c := w.config
	u := &unavailable{Store: w.store, err: keys.ErrStore}
	c.Store = u
	if err := gateway.New(c).ResumeApprovals(ctx); err != nil {
		t.Errorf("the start fails: %v", err)
	}
	u.err = nil
	c.Lifecycle = failing{c.Lifecycle}
	if err := gateway.New(c).ResumeApprovals(ctx); err != nil || state() != "approved" {
		t.Errorf("the start fails: %v; it is %s", err, state())
	}

	// Another gateway is at it.
	if held, err := w.store.AcquireLease(ctx, "approval/"+id, "another", 1<<40); err != nil || !held {
		t.Fatal(held, err)
	}
	w.news()
	if err := w.ResumeApprovals(ctx); err != nil || state() != "approved" {
		t.Errorf("%v; it is %s", err, state())
	}
	of(w.Approve(ctx, second, id, api.DecisionRequest{})).fails(t, keys.ErrConflict)
	w.lapse()
	if err := w.ResumeApprovals(ctx); err != nil || state() != "done" {
		t.Errorf("%v; it is %s", err, state())
	}
	if s := w.stateOf("payments", 1); s != "destroy-scheduled" {
		t.Errorf("it is %s", s)
	}
}

// failing is a lifecycle whose HSM is gone.
type failing struct{ gateway.Lifecycle }

func (failing) Destroy(context.Context, rotation.Actor, string, uint32, rotation.DestroySpec) (*keys.Key, error) {
	return nil, errors.Join(keys.ErrHSM, errors.New("no"))
}
