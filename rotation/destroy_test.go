package rotation_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
)

// two makes a key with a predecessor that has served for a while.
func (k *kit) two(name string, p keys.Policy) {
	k.t.Helper()
	k.create(name, p)
	k.pass(time.Minute)
	k.rotate(name)
	k.pass(time.Minute)
}

// TestDestroyRefuses what is in use, in the making, or not there, forced or
// not where it must never be.
func TestDestroyRefuses(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", announces)
	if k.active("payments") != 1 {
		t.Fatal("version 2 is to be announced for an hour")
	}
	k.two("used", keys.Policy{})
	k.use("used", 1, "jwt:corp:batch")
	k.two("overlap", keys.Policy{Overlap: 10 * time.Hour})
	k.create("suspended", keys.Policy{})
	_, err := k.Suspend(t.Context(), alice, "suspended", 1, "")
	k.must(err)
	force := rotation.DestroySpec{Force: true, Note: "because"}
	for _, c := range []struct {
		name string
		n    uint32
		s    rotation.DestroySpec
		want error
		text string
	}{
		{"payments", 1, force, keys.ErrVersionState, "active"},
		{"payments", 2, force, keys.ErrVersionState, "pre-activation"},
		{"payments", 3, force, keys.ErrVersionNotFound, ""},
		{"nothing", 1, force, keys.ErrKeyNotFound, ""},
		{"used", 2, force, keys.ErrVersionState, "active"},
		{"used", 1, rotation.DestroySpec{}, keys.ErrInUse, "jwt:corp:batch"},
		{"used", 1, rotation.DestroySpec{Force: true, Note: " "}, keys.ErrInvalid, "reason"},
		{"overlap", 1, rotation.DestroySpec{}, keys.ErrInUse, "overlap ends"},
		{"suspended", 1, rotation.DestroySpec{}, keys.ErrInUse, "newest"},
	} {
		before := len(k.records())
		_, err := k.Destroy(t.Context(), alice, c.name, c.n, c.s)
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s.v%d: %v, want %v with %q", c.name, c.n, err, c.want, c.text)
		}
		if n := len(k.records()) - before; n != 0 {
			t.Errorf("%s.v%d: %d records of what was refused", c.name, c.n, n)
		}
	}
	entered, release := k.faulty.Block(hsmtest.Generate, 1)
	made := make(chan error, 1)
	go func() {
		_, err := k.Rotate(t.Context(), alice, "used", rotation.RotateSpec{Reason: keys.ReasonManual})
		made <- err
	}()
	<-entered
	if _, err := k.Destroy(t.Context(), alice, "used", 3, force); !errors.Is(err, keys.ErrVersionNotFound) {
		t.Errorf("a version in the making: %v", err)
	}
	release()
	k.must(<-made)
	k.consistent0("payments")
}

// consistent0 aborts what is under way of a key and checks that all is whole.
func (k *kit) consistent0(name string) {
	k.t.Helper()
	_, err := k.AbortRotation(k.t.Context(), alice, k.latest(name).ID, "")
	k.must(err)
	k.consistent()
}

// TestDestroyForced overrides what speaks against it, says so, and observes
// the delay.
func TestDestroyForced(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", keys.Policy{Overlap: 10 * time.Hour})
	k.use("payments", 1, "jwt:corp:batch")
	key, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{Force: true, Note: "sold"})
	if err != nil {
		t.Fatal(err)
	}
	if d := key.Versions[0].DestroyAt.Sub(k.now()); d < 23*time.Hour || d > 24*time.Hour {
		t.Errorf("it is destroyed in %s", d)
	}
	r := k.acted("payments", "destroy")
	over := r.Details["overridden_1"] + r.Details["overridden_2"]
	if r.Principal != alice.Principal || r.Details["force"] != "true" || r.Details["note"] != "sold" || r.Details["destroy_at"] == "" ||
		!strings.Contains(over, "jwt:corp:batch") || !strings.Contains(over, "overlap") {
		t.Errorf("%+v", r)
	}
	if _, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{}); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("a second order: %v", err)
	}
	k.pass(25 * time.Hour)
	k.tick()
	k.hasStates("payments", keys.Destroyed, keys.Active)
	k.consistent()
}

// TestDestroyFromEveryState that it may come from; Restore leads back.
func TestDestroyFromEveryState(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("deactivated", keys.Policy{})
	k.two("archived", keys.Policy{Overlap: time.Second})
	k.two("suspended", keys.Policy{})
	k.two("compromised", keys.Policy{})
	k.tick()
	_, err := k.Suspend(t.Context(), alice, "suspended", 1, "")
	k.must(err)
	_, err = k.Revoke(t.Context(), alice, "compromised", 1, "leaked")
	k.must(err)
	for _, want := range []keys.State{keys.Deactivated, keys.Archived, keys.Suspended, keys.Compromised} {
		name := string(want)
		if s := k.state(name, 1); s != want {
			t.Fatalf("it is %s, want %s", s, want)
		}
		_, err := k.Destroy(t.Context(), alice, name, 1, rotation.DestroySpec{Note: "old"})
		k.must(err)
		if s := k.state(name, 1); s != keys.DestroyScheduled || s.CheckUse(keys.UseRecover) == nil {
			t.Errorf("%s: it is %s after the order", name, s)
		}
		key, err := k.Restore(t.Context(), bob, name, 1, "a mistake")
		k.must(err)
		if s := key.StateAt(key.Versions[0], k.now()); s != want {
			t.Errorf("%s: it came back as %s", name, s)
		}
		if n := k.noticed(name, keys.NoticeRestored); len(n) != 1 || n[0].Version != 1 || n[0].Reason != "a mistake" {
			t.Errorf("%s: %+v", name, n)
		}
		if r := k.acted(name, "restore"); r.Principal != bob.Principal || r.Details["note"] != "a mistake" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	k.pass(100 * time.Hour)
	k.tick()
	k.consistent()
	if n := len(k.hsm.Objects()); n != 8 {
		t.Errorf("%d objects, want 8", n)
	}
}

// TestRestoreInTime: until the last moment, and not from then on.
func TestRestoreInTime(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", keys.Policy{})
	order := func() {
		t.Helper()
		_, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{})
		k.must(err)
	}
	restore := func() error {
		_, err := k.Restore(t.Context(), alice, "payments", 1, "")
		return err
	}
	if err := restore(); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("nothing was ordered: %v", err)
	}
	order()
	k.pass(24*time.Hour - time.Minute)
	if err := restore(); err != nil {
		t.Errorf("a minute before: %v", err)
	}
	k.pass(time.Hour)
	k.tick()
	k.hasStates("payments", keys.Deactivated, keys.Active)
	order()
	k.pass(24 * time.Hour)
	if err := restore(); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("at the moment: %v", err)
	}
	k.pass(-time.Hour) // a step back opens it again, while it is there
	k.must(restore())
	order()
	k.pass(25 * time.Hour)
	k.tick()
	k.pass(-48 * time.Hour)
	if err := restore(); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("destroyed, and the clock set back: %v", err)
	}
	k.tick()
	k.hasStates("payments", keys.Destroyed, keys.Active)
	k.consistent()
}

// TestRestoreBesideDestruction: while a version is being destroyed, and after
// a crash in the middle of it, it cannot be restored, whatever the clock
// says.
func TestRestoreBesideDestruction(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", keys.Policy{})
	_, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{})
	k.must(err)
	k.pass(25 * time.Hour)
	entered, release := k.faulty.Block(hsmtest.Destroy, 1)
	k.faulty.Fail(hsmtest.Inspect, 1, hsmtest.NotDone, keys.ErrHSM)
	ended := make(chan error, 1)
	go func() { ended <- k.Tick(t.Context()) }()
	<-entered
	k.pass(-24 * time.Hour)
	if _, err := k.Restore(t.Context(), alice, "payments", 1, ""); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("while it is being destroyed: %v", err)
	}
	release()
	k.must(<-ended)
	k.hasStates("payments", keys.DestroyScheduled, keys.Active) // the proof failed
	k.reload()
	if _, err := k.Restore(t.Context(), alice, "payments", 1, ""); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("after the restart, without objects: %v", err)
	}
	k.pass(25 * time.Hour)
	k.tick()
	k.hasStates("payments", keys.Destroyed, keys.Active)
	k.consistent()
}

// TestRestoreWithoutHSM: a token that does not answer does not let the moment
// pass.
func TestRestoreWithoutHSM(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", keys.Policy{})
	_, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{})
	k.must(err)
	k.faulty.Fail(hsmtest.Inspect, 1, hsmtest.NotDone, keys.ErrHSM)
	if _, err := k.Restore(t.Context(), alice, "payments", 1, ""); err != nil {
		t.Error(err)
	}
	k.hasStates("payments", keys.Deactivated, keys.Active)
}

// TestRestoreBeyondOverlap: what the policy destroyed comes back archived, or
// the policy would order it again at once.
func TestRestoreBeyondOverlap(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", destroying)
	k.pass(time.Hour)
	k.tick()
	k.hasStates("payments", keys.DestroyScheduled, keys.Active)
	_, err := k.Restore(t.Context(), alice, "payments", 1, "")
	k.must(err)
	k.pass(time.Hour)
	k.tick()
	k.hasStates("payments", keys.Archived, keys.Active)
	k.consistent()
}

// TestRestoredVersionSigns: where the successor is gone meanwhile, the
// restored version is the active one again.
func TestRestoredVersionSigns(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", keys.Policy{})
	_, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{})
	k.must(err)
	_, err = k.Suspend(t.Context(), alice, "payments", 2, "")
	k.must(err)
	if n := k.active("payments"); n != 0 {
		t.Fatalf("version %d is active", n)
	}
	_, err = k.Restore(t.Context(), alice, "payments", 1, "")
	k.must(err)
	if n := k.active("payments"); n != 1 {
		t.Errorf("version %d is active", n)
	}
	k.told("payments", "version.restored 1", "version.activated 1")
}

// approve enters an approved approval.
func (k *kit) approve(action, name string, n uint32) *keys.Approval {
	k.t.Helper()
	now := k.now().UTC().Truncate(time.Microsecond)
	a := &keys.Approval{
		ID: "01J00000000000000000000000", Action: action, Key: name, Version: n, State: keys.ApprovalPending, Note: "old", RequestedBy: alice.Principal,
		RequestedAs: []string{alice.Principal}, RequestID: "req-1", RequestedAt: now, ExpiresAt: now.Add(time.Hour),
	}
	k.must(k.store.PutApproval(k.t.Context(), a, ""))
	b := *a
	b.State, b.DecidedBy, b.DecidedAt = keys.ApprovalApproved, bob.Principal, now
	k.must(k.store.PutApproval(k.t.Context(), &b, keys.ApprovalPending))
	return &b
}

// TestApprovalIsUsedOnce, in the write of the act, and both names are in the
// log.
func TestApprovalIsUsedOnce(t *testing.T) {
	t.Parallel()
	for _, action := range []string{"destroy", "delete-key"} {
		k := newKit(t)
		k.two("payments", keys.Policy{})
		a := k.approve(action, "payments", 1)
		act, undo := func() error {
			_, err := k.Destroy(t.Context(), bob, "payments", 1, rotation.DestroySpec{Approval: a})
			return err
		}, func() error {
			_, err := k.Restore(t.Context(), alice, "payments", 1, "")
			return err
		}
		if action == "delete-key" {
			act, undo = func() error {
				_, err := k.DeleteKey(t.Context(), bob, "payments", rotation.DestroySpec{Approval: a})
				return err
			}, func() error {
				_, err := k.RestoreKey(t.Context(), alice, "payments", "")
				return err
			}
		}
		k.must(act())
		if got, err := k.store.Approval(t.Context(), a.ID); err != nil || got.State != keys.ApprovalDone {
			t.Errorf("%s: the approval is %+v, %v", action, got, err)
		}
		if a.State != keys.ApprovalApproved {
			t.Errorf("%s: the caller's approval was changed", action)
		}
		r := k.acted("payments", action)
		if r.Details["requested_by"] != alice.Principal || r.Details["approved_by"] != bob.Principal || r.Details["approval"] != a.ID {
			t.Errorf("%s: %+v", action, r)
		}
		k.must(undo())
		if err := act(); !errors.Is(err, keys.ErrConflict) {
			t.Errorf("%s: an approval was used twice: %v", action, err)
		}
		if s := k.state("payments", 1); s != keys.Deactivated {
			t.Errorf("%s: the version is %s", action, s)
		}
	}
}

// TestObjections says in words what speaks against a destruction.
func TestObjections(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", keys.Policy{Overlap: 100 * time.Hour})
	for i := range 13 {
		k.use("payments", 1, fmt.Sprintf("jwt:corp:agent-%02d", i))
	}
	k.use("payments", 1, "jwt:corp:agent-00")
	objections := func(name string, n uint32) []string {
		t.Helper()
		got, err := k.Objections(t.Context(), k.key(name), n)
		k.must(err)
		return got
	}
	contains := func(got []string, text string) {
		t.Helper()
		if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, text) }) {
			t.Errorf("%q says nothing of %q", got, text)
		}
	}
	got := objections("payments", 1)
	contains(got, "overlap ends at")
	contains(got, "3 others")
	if strings.Contains(strings.Join(got, ""), "active version") || len(got) != 12 {
		t.Errorf("%d objections: %q", len(got), got)
	}
	contains(objections("payments", 2), "active version")
	k.pass(99 * time.Hour)
	k.use("payments", 1, "jwt:corp:agent-00")
	k.pass(2 * time.Hour)
	got = objections("payments", 1)
	if len(got) != 1 || !strings.Contains(got[0], "jwt:corp:agent-00: 3 operations") {
		t.Errorf("%q", got)
	}
	k.pass(100 * time.Hour)
	if got := objections("payments", 1); len(got) != 0 {
		t.Errorf("%q", got)
	}
	_, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{})
	k.must(err)
	contains(objections("payments", 1), "scheduled already")
	k.pass(25 * time.Hour)
	k.tick()
	contains(objections("payments", 1), "destroyed already")
	k.two("later", announces)
	contains(objections("later", 2), "rotation is under way")
	if _, err := k.Objections(t.Context(), k.key("payments"), 9); !errors.Is(err, keys.ErrVersionNotFound) {
		t.Errorf("%v, want ErrVersionNotFound", err)
	}
}

// TestTwoAtOnce: two orders for one version are one; two versions go
// together.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", keys.Policy{})
	k.rotate("payments")
	errs := make(chan error, 4)
	for i := range 4 {
		go func() {
			_, err := k.Destroy(t.Context(), alice, "payments", uint32(i%2+1), rotation.DestroySpec{})
			errs <- err
		}()
	}
	done := 0
	for range 4 {
		switch err := <-errs; {
		case err == nil:
			done++
		case !errors.Is(err, keys.ErrVersionState):
			t.Error(err)
		}
	}
	if done != 2 || len(k.noticed("payments", keys.NoticeDestroyScheduled)) != 2 {
		t.Errorf("%d orders were taken", done)
	}
	k.pass(25 * time.Hour)
	other := k.engine(nil) // another gateway over the same store and token
	both := make(chan error, 2)
	go func() { both <- k.Tick(t.Context()) }()
	go func() { both <- other.Tick(t.Context()) }()
	for range 2 {
		k.must(<-both)
	}
	k.tick()
	k.hasStates("payments", keys.Destroyed, keys.Destroyed, keys.Active)
	if n := len(k.noticed("payments", keys.NoticeDestroyed)); n != 2 {
		t.Errorf("%d notices", n)
	}
	for _, r := range k.recorded("payments", "destroy-objects") {
		if r.Outcome == audit.OutcomeError {
			t.Errorf("%+v", r)
		}
	}
	k.consistent()
}
