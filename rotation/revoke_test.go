package rotation_test

import (
	"errors"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// TestRevokeTakesWhatIsReady: the version of a rotation that waits is active
// in the same write in which the active one is revoked.
func TestRevokeTakesWhatIsReady(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]func(k *kit) rotation.RotateSpec{
		"announced": func(*kit) rotation.RotateSpec { return rotation.RotateSpec{Announce: ptr(time.Hour)} },
		"scheduled": func(k *kit) rotation.RotateSpec { return rotation.RotateSpec{ActivateAt: k.now().Add(time.Hour)} },
	} {
		k := newKit(t)
		k.propagation = time.Minute // not waited for in an emergency
		k.Engine = k.engine(nil)
		k.create("payments", keys.Policy{Acks: keys.Acks{Require: keys.AckAll, Timeout: time.Hour}})
		s := spec(k)
		if name == "announced" {
			k.subscribe("payments", "a")
		}
		k.begin("payments", s)
		k.phase("payments", keys.Phase(name))
		epoch, generated := k.key("payments").Epoch, k.faulty.Calls(hsmtest.Generate)
		key, err := k.Revoke(t.Context(), alice, "payments", 1, "leaked")
		k.must(err)
		if key.Epoch != epoch+1 || k.active("payments") != 2 || k.faulty.Calls(hsmtest.Generate) != generated {
			t.Errorf("%s: epoch %d after %d, version %d is active", name, key.Epoch, epoch, k.active("payments"))
		}
		k.told("payments", "version.revoked 1", "version.activated 2")
		k.phase("payments", keys.PhaseCompleted)
		if rec := k.outcome("payments", "rotate"); rec.Outcome != audit.OutcomeOK {
			t.Errorf("%s: %+v", name, rec)
		}
		k.consistent()
		k.marked("payments", 1)
	}
}

// TestRevokeTheNewVersion: its rotation ends, the active version stays, and
// the revoked one is kept as it is.
func TestRevokeTheNewVersion(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]func(k *kit) rotation.RotateSpec{
		"announced": func(*kit) rotation.RotateSpec { return rotation.RotateSpec{Announce: ptr(time.Hour)} },
		"scheduled": func(k *kit) rotation.RotateSpec { return rotation.RotateSpec{ActivateAt: k.now().Add(time.Hour)} },
	} {
		k := newKit(t)
		k.create("payments", keys.Policy{})
		k.begin("payments", spec(k))
		if _, err := k.Revoke(t.Context(), alice, "payments", 2, "leaked"); err != nil {
			t.Fatal(err)
		}
		r := k.phase("payments", keys.PhaseAborted)
		if r.Error == "" || k.active("payments") != 1 || k.state("payments", 2) != keys.Compromised {
			t.Errorf("%s: %+v", name, r)
		}
		k.told("payments", "version.revoked 2", "rotation.aborted 2")
		k.pass(2 * time.Hour)
		k.tick() // what would have been its switch
		if n := len(k.key("payments").Versions); n != 2 || k.active("payments") != 1 {
			t.Errorf("%s: %d versions, %d is active", name, n, k.active("payments"))
		}
		k.consistent()
	}
}

// TestRevokeWhileGenerating: the version that is being generated takes over
// as soon as it is there, whatever its plan.
func TestRevokeWhileGenerating(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Announce: time.Hour})
	entered, release := k.faulty.Block(hsmtest.Generate, 1)
	rotated, revoked := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual})
		rotated <- err
	}()
	<-entered
	go func() {
		_, err := k.Revoke(t.Context(), alice, "payments", 1, "leaked")
		revoked <- err
	}()
	k.until(func() bool { return !k.key("payments").Versions[0].RevokedAt.IsZero() })
	release()
	if err := errors.Join(<-rotated, <-revoked); err != nil {
		t.Fatal(err)
	}
	if n := k.active("payments"); n != 2 || len(k.key("payments").Versions) != 2 {
		t.Errorf("version %d of %d is active", n, len(k.key("payments").Versions))
	}
	k.consistent()
}

// TestRevokeTheStandIn: who revokes the version that stands in for a
// suspended one wants a successor too; who suspends a successor does not.
func TestRevokeTheStandIn(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	if _, err := k.Revoke(t.Context(), alice, "payments", 1, ""); err != nil {
		t.Fatal(err)
	}
	k.pass(time.Second)
	k.rotate("payments") // 3
	k.pass(time.Second)
	if _, err := k.Suspend(t.Context(), alice, "payments", 3, ""); err != nil {
		t.Fatal(err)
	}
	k.tick()
	if k.active("payments") != 2 || len(k.key("payments").Versions) != 3 {
		t.Errorf("version %d of %d is active", k.active("payments"), len(k.key("payments").Versions))
	}
	k.pass(time.Second)
	if _, err := k.Revoke(t.Context(), alice, "payments", 2, ""); err != nil {
		t.Fatal(err)
	}
	if n := k.active("payments"); n != 4 {
		t.Errorf("version %d is active, want 4", n)
	}
	if _, err := k.Suspend(t.Context(), alice, "payments", 4, ""); err != nil {
		t.Fatal(err)
	}
	k.tick() // people have taken all of them out
	if k.active("payments") != 0 || len(k.key("payments").Versions) != 4 {
		t.Errorf("version %d of %d is active", k.active("payments"), len(k.key("payments").Versions))
	}
	k.consistent()
}

// TestMarks: a mark that fails does not undo the revocation, and a token
// that keeps none is no failure.
func TestMarks(t *testing.T) {
	t.Parallel()
	for name, cause := range map[string]error{"a device error": keys.ErrHSM, "no such objects": keys.ErrUnsupported} {
		k := newKit(t)
		k.create("payments", keys.Policy{})
		k.faulty.Fail(hsmtest.MarkRevoked, 1, hsmtest.NotDone, cause)
		if _, err := k.Revoke(t.Context(), alice, "payments", 1, ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if k.state("payments", 1) != keys.Compromised || k.active("payments") != 2 {
			t.Errorf("%s: version 1 is %s", name, k.state("payments", 1))
		}
		k.consistent()
	}
}

// marked checks that the token bears the mark of a version.
func (k *kit) marked(name string, n uint32) {
	k.t.Helper()
	marks, err := k.hsm.Revoked(k.t.Context(), "memory")
	k.must(err)
	for _, m := range marks {
		if m.Version == (keys.VersionID{Key: name, Number: n}) {
			return
		}
	}
	k.t.Errorf("version %d of %s is not marked: %v", n, name, marks)
}

// TestSuspensionIsTold: who serves in the meantime, too.
func TestSuspensionIsTold(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.rotate("payments")
	if _, err := k.Suspend(t.Context(), alice, "payments", 2, "odd"); err != nil {
		t.Fatal(err)
	}
	k.told("payments", "version.suspended 2", "version.activated 1")
	if _, err := k.Resume(t.Context(), alice, "payments", 2, ""); err != nil {
		t.Fatal(err)
	}
	k.told("payments", "version.resumed 2", "version.activated 2", "version.deactivated 1")
	events, err := k.store.Events(t.Context(), 0, 100)
	k.must(err)
	for _, n := range events {
		if n.At.IsZero() || n.When.IsZero() || n.Key != "payments" || n.Type == keys.NoticeSuspended && n.Reason != "odd" {
			t.Errorf("%+v", n)
		}
	}
	k.consistent()
}

// TestDeletedKey: nothing begins any more, and what was under way is undone.
func TestDeletedKey(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Period: time.Hour})
	k.begin("payments", rotation.RotateSpec{Announce: ptr(30 * time.Minute)})
	if _, err := k.DeleteKey(t.Context(), alice, "payments", rotation.DestroySpec{Note: "gone"}); err != nil {
		t.Fatal(err)
	}
	k.tick()
	k.phase("payments", keys.PhaseAborted)
	if k.state("payments", 2) != keys.Destroyed || k.state("payments", 1) != keys.DestroyScheduled {
		t.Errorf("version 1 is %s, 2 %s", k.state("payments", 1), k.state("payments", 2))
	}
	if _, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{}); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("%v, want ErrVersionState", err)
	}
	if _, err := k.RestoreKey(t.Context(), alice, "payments", "a mistake"); err != nil {
		t.Fatal(err)
	}
	k.pass(time.Hour)
	k.tick()
	if n := k.active("payments"); n != 3 {
		t.Errorf("version %d is active, want 3", n)
	}
	k.consistent()
	open, err := k.Rotations(t.Context(), store.RotationFilter{OpenOnly: true})
	if err != nil || len(open) != 0 {
		t.Errorf("%v, %v", open, err)
	}
}

// TestRevokeWhileTheSuccessorIsSuspended: a version that is suspended before
// its switch does not keep a key, whose active version is compromised, from
// getting a successor.
func TestRevokeWhileTheSuccessorIsSuspended(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]rotation.RotateSpec{
		"announced": {Announce: ptr(time.Hour)}, "scheduled": {ActivateAt: time.Now().Add(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t)
			k.create("payments", keys.Policy{})
			k.begin("payments", spec)
			_, err := k.Suspend(t.Context(), alice, "payments", 2, "suspected")
			k.must(err)
			_, err = k.Revoke(t.Context(), alice, "payments", 1, "stolen")
			k.must(err)
			if n := k.active("payments"); n != 3 || k.state("payments", 2) != keys.Destroyed {
				t.Errorf("version %d is active, 2 is %s", n, k.state("payments", 2))
			}
			k.tick()
			k.consistent()
		})
	}
}
