package rotation_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
)

var bob = rotation.Actor{Principal: "jwt:corp:bob", AuthMethod: "jwt", RequestID: "req-2"}

// TestForce: in every phase before the switch, as often as one likes.
func TestForce(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(k *kit){
		"announced": func(k *kit) {
			k.begin("payments", rotation.RotateSpec{})
			k.phase("payments", keys.PhaseAnnounced)
		},
		"waiting for agents": func(k *kit) {
			k.begin("payments", rotation.RotateSpec{})
			k.pass(time.Hour)
			k.tick()
			k.phase("payments", keys.PhaseAnnounced)
		},
		"scheduled": func(k *kit) {
			k.begin("payments", rotation.RotateSpec{ActivateAt: k.now().Add(10 * time.Hour)})
			k.pass(time.Hour)
			k.ack("payments", 2, "a")
			k.tick()
			k.phase("payments", keys.PhaseScheduled)
		},
	} {
		k := newKit(t)
		k.create("payments", keys.Policy{Announce: time.Hour, Acks: waits})
		k.subscribe("payments", "a")
		prepare(k)
		id := k.latest("payments").ID
		r, err := k.ActivateRotation(t.Context(), bob, id, "it is late")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.Phase != keys.PhaseCompleted || r.ForcedBy != bob.Principal || k.active("payments") != 2 || r.CompletedAt.After(k.now()) {
			t.Errorf("%s: %+v", name, r)
		}
		if d := k.outcome("payments", "rotate").Details; d["forced_by"] != bob.Principal || (d["missing"] == "a") != (name != "scheduled") {
			t.Errorf("%s: %v", name, d)
		}
		if rec := k.outcome("payments", "activate-rotation"); rec.Rotation != id || rec.Details["note"] != "it is late" || rec.Outcome != audit.OutcomeOK || rec.Intent == nil || rec.ToVersion != 2 {
			t.Errorf("%s: %+v", name, rec)
		}
		n := len(k.records())
		if again, err := k.ActivateRotation(t.Context(), bob, id, ""); err != nil || again.Phase != keys.PhaseCompleted || len(k.records()) != n {
			t.Errorf("%s, again: %+v, %v", name, again, err)
		}
		if _, err := k.AbortRotation(t.Context(), bob, id, ""); !errors.Is(err, keys.ErrConflict) {
			t.Errorf("%s: abort behind the switch: %v, want ErrConflict", name, err)
		}
		k.consistent()
	}
}

// TestAbort: in every phase before the switch, as often as one likes.
func TestAbort(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]func(k *kit) rotation.RotateSpec{
		"announced": func(*kit) rotation.RotateSpec {
			return rotation.RotateSpec{Announce: ptr(time.Hour), Algorithm: keys.ES384}
		},
		"scheduled": func(k *kit) rotation.RotateSpec {
			return rotation.RotateSpec{ActivateAt: k.now().Add(time.Hour), Algorithm: keys.ES384}
		},
	} {
		k := newKit(t)
		k.create("payments", keys.Policy{})
		id := k.begin("payments", spec(k)).ID
		k.phase("payments", keys.Phase(name))
		r, err := k.AbortRotation(t.Context(), bob, id, "not today")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.Phase != keys.PhaseAborted || r.EndedBy != bob.Principal || r.Error != "aborted by jwt:corp:bob: not today" || k.state("payments", 2) != keys.Destroyed {
			t.Errorf("%s: %+v", name, r)
		}
		k.told("payments", "rotation.aborted 2", "version.destroyed 2")
		if rec := k.outcome("payments", "rotate"); rec.Outcome != audit.OutcomeError || rec.Details["ended_by"] != bob.Principal || rec.Initiator != alice.Principal {
			t.Errorf("%s: %+v", name, rec)
		}
		if rec := k.outcome("payments", "abort-rotation"); rec.Outcome != audit.OutcomeOK || rec.Rotation != id || rec.Principal != bob.Principal {
			t.Errorf("%s: %+v", name, rec)
		}
		n := len(k.records())
		if again, err := k.AbortRotation(t.Context(), bob, id, ""); err != nil || again.Phase != keys.PhaseAborted || len(k.records()) != n {
			t.Errorf("%s, again: %+v, %v", name, again, err)
		}
		if _, err := k.ActivateRotation(t.Context(), bob, id, ""); !errors.Is(err, keys.ErrConflict) {
			t.Errorf("%s: force after abort: %v, want ErrConflict", name, err)
		}
		k.pass(2 * time.Hour)
		k.tick()
		if k.active("payments") != 1 || k.key("payments").Algorithm != keys.ES256 {
			t.Errorf("%s: version %d is active, the next one is %s", name, k.active("payments"), k.key("payments").Algorithm)
		}
		k.rotate("payments") // the number is used up
		if n := k.active("payments"); n != 3 {
			t.Errorf("%s: version %d is active", name, n)
		}
		k.consistent()
	}
}

// TestOrdersWhileGenerating: a version in the making is switched to, or
// destroyed, as soon as it is there.
func TestOrdersWhileGenerating(t *testing.T) {
	t.Parallel()
	for _, abort := range []bool{false, true} {
		k := newKit(t)
		k.create("payments", keys.Policy{Announce: time.Hour})
		entered, release := k.faulty.Block(hsmtest.Generate, 1)
		rotated, ordered := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual})
			rotated <- err
		}()
		<-entered
		r := k.phase("payments", keys.PhaseReserved)
		if p, err := k.Progress(t.Context(), r); err != nil || p.Next != rotation.StepAnnounce {
			t.Errorf("%+v, %v", p, err)
		}
		order := k.ActivateRotation
		if abort {
			order = k.AbortRotation
		}
		var ended *keys.Rotation
		go func() {
			var err error
			ended, err = order(t.Context(), bob, r.ID, "")
			ordered <- err
		}()
		k.until(func() bool { r := k.latest("payments"); return r.ForcedBy != "" || r.Error != "" })
		release()
		if err := <-ordered; err != nil {
			t.Fatal(err)
		}
		err := <-rotated
		switch {
		case abort:
			if !errors.Is(err, keys.ErrConflict) || ended.Phase != keys.PhaseAborted || k.active("payments") != 1 {
				t.Errorf("%v, %+v", err, ended)
			}
		case err != nil || ended.Phase != keys.PhaseCompleted || k.active("payments") != 2:
			t.Errorf("%v, %+v", err, ended)
		}
		k.consistent()
	}
}

// TestTooLateToAbort: a version that gateways are about to switch to is not
// destroyed under their hands.
func TestTooLateToAbort(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	r := k.begin("payments", rotation.RotateSpec{ActivateAt: k.now().Add(time.Hour)})
	k.pass(time.Hour - time.Second)
	if _, err := k.AbortRotation(t.Context(), bob, r.ID, ""); !errors.Is(err, keys.ErrConflict) {
		t.Errorf("a second before: %v, want ErrConflict", err)
	}
	k.pass(time.Hour) // nobody has recorded the switch yet
	if _, err := k.AbortRotation(t.Context(), bob, r.ID, ""); !errors.Is(err, keys.ErrConflict) {
		t.Errorf("after it: %v, want ErrConflict", err)
	}
	k.tick()
	if n := k.active("payments"); n != 2 {
		t.Errorf("version %d is active", n)
	}
	k.consistent()
}

// TestAbortThatCannotBeFinished: the decision stands, and is carried out when
// the HSM is back; nothing leads to the version meanwhile.
func TestAbortThatCannotBeFinished(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Announce: time.Hour})
	r := k.begin("payments", rotation.RotateSpec{})
	k.faulty.Fail(hsmtest.Destroy, 1, hsmtest.NotDone, keys.ErrHSM)
	got, err := k.AbortRotation(t.Context(), bob, r.ID, "")
	if err != nil || got.Phase != keys.PhaseAnnounced || got.Error == "" {
		t.Fatalf("%+v, %v", got, err)
	}
	if p, err := k.Progress(t.Context(), got); err != nil || p.Next != rotation.StepAbort {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := k.ActivateRotation(t.Context(), bob, r.ID, ""); !errors.Is(err, keys.ErrConflict) {
		t.Errorf("force meanwhile: %v, want ErrConflict", err)
	}
	k.pass(2 * time.Hour)
	k.tick()
	k.phase("payments", keys.PhaseAborted)
	if n := k.active("payments"); n != 1 {
		t.Errorf("version %d is active", n)
	}
	k.consistent()
}

func TestOrdersThatAreRefused(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.rotate("payments")
	id := k.latest("payments").ID
	for name, order := range map[string]func(context.Context, rotation.Actor, string, string) (*keys.Rotation, error){
		"force": k.ActivateRotation, "abort": k.AbortRotation,
	} {
		if _, err := order(t.Context(), bob, "01ARZ3NDEKTSV4RRFFQ69G5FAV", ""); !errors.Is(err, keys.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
		if _, err := order(t.Context(), bob, id, ""); !errors.Is(err, keys.ErrConflict) {
			t.Errorf("%s of one that has ended: %v, want ErrConflict", name, err)
		}
	}
	r := k.begin("payments", rotation.RotateSpec{Announce: ptr(time.Hour)})
	if _, err := k.Suspend(t.Context(), alice, "payments", 3, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := k.ActivateRotation(t.Context(), bob, r.ID, ""); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("force of a suspended version: %v, want ErrVersionState", err)
	}
	// It stands still until somebody resumes or aborts.
	k.pass(2 * time.Hour)
	k.tick()
	k.phase("payments", keys.PhaseAnnounced)
	if p, err := k.Progress(t.Context(), k.latest("payments")); err != nil || p.Next != rotation.StepActivate || !p.NextAt.IsZero() {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := k.Resume(t.Context(), alice, "payments", 3, ""); err != nil {
		t.Fatal(err)
	}
	k.tick()
	k.phase("payments", keys.PhaseCompleted)
	r = k.begin("payments", rotation.RotateSpec{ActivateAt: k.now().Add(time.Hour)})
	if _, err := k.Suspend(t.Context(), alice, "payments", 4, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := k.AbortRotation(t.Context(), bob, r.ID, ""); err != nil {
		t.Fatal(err)
	}
	if n := k.active("payments"); n != 3 || k.state("payments", 4) != keys.Destroyed {
		t.Errorf("version %d is active, 4 is %s", n, k.state("payments", 4))
	}
	k.consistent()
}

// TestSuspendedAcrossItsSwitch: a version that is suspended before its
// switch takes over when it is resumed; one that is suspended after it, and
// before anybody recorded that, has been active.
func TestSuspendedAcrossItsSwitch(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{true, false} {
		k := newKit(t)
		k.create("payments", keys.Policy{})
		k.begin("payments", rotation.RotateSpec{ActivateAt: k.now().Add(time.Hour)})
		suspend := func() {
			_, err := k.Suspend(t.Context(), alice, "payments", 2, "")
			k.must(err)
		}
		if before {
			suspend()
		}
		k.pass(2 * time.Hour)
		if !before {
			suspend()
		}
		k.tick()
		if n := k.active("payments"); n != 1 {
			t.Errorf("version %d is active", n)
		}
		if want := map[bool]keys.Phase{true: keys.PhaseScheduled, false: keys.PhaseCompleted}[before]; k.latest("payments").Phase != want {
			t.Errorf("before %v: %+v", before, k.latest("payments"))
		}
		_, err := k.Resume(t.Context(), alice, "payments", 2, "")
		k.must(err)
		k.tick()
		k.phase("payments", keys.PhaseCompleted)
		if n := k.active("payments"); n != 2 {
			t.Errorf("version %d is active", n)
		}
		k.consistent()
	}
}

// TestAbortOfASuspendedVersion: a version that was suspended before its switch
// never came to be active, and its rotation can be aborted also when the
// moment of the switch has passed; one that was suspended behind it has been
// active, and cannot be undone.
func TestAbortOfASuspendedVersion(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	r := k.begin("payments", rotation.RotateSpec{ActivateAt: k.now().Add(time.Hour)})
	_, err := k.Suspend(t.Context(), alice, "payments", 2, "suspected")
	k.must(err)
	k.pass(2 * time.Hour)
	k.tick()
	if _, err := k.AbortRotation(t.Context(), bob, r.ID, ""); err != nil {
		t.Fatalf("suspended before the switch: %v", err)
	}
	k.phase("payments", keys.PhaseAborted)
	if n := k.active("payments"); n != 1 || k.state("payments", 2) != keys.Destroyed {
		t.Errorf("version %d is active, 2 is %s", n, k.state("payments", 2))
	}
	r = k.begin("payments", rotation.RotateSpec{ActivateAt: k.now().Add(time.Hour)})
	k.pass(2 * time.Hour)
	_, err = k.Suspend(t.Context(), alice, "payments", 3, "suspected")
	k.must(err)
	if _, err := k.AbortRotation(t.Context(), bob, r.ID, ""); !errors.Is(err, keys.ErrConflict) {
		t.Errorf("suspended after the switch: %v, want ErrConflict", err)
	}
	k.tick()
	k.consistent()
}
