package rotation_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
)

// TestDeleteKey: order, delay, destruction, tombstone.
func TestDeleteKey(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", keys.Policy{DestroyDelay: 30 * time.Hour, Period: 48 * time.Hour})
	k.rotate("payments")
	_, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{})
	k.must(err)
	own := k.key("payments").Versions[0].DestroyAt
	k.pass(time.Hour)
	_, err = k.Revoke(t.Context(), alice, "payments", 2, "leaked")
	k.must(err)
	key, err := k.DeleteKey(t.Context(), alice, "payments", rotation.DestroySpec{Note: "sold"})
	k.must(err)
	if d := key.DeleteAt.Sub(k.now()); d < 29*time.Hour || d > 30*time.Hour {
		t.Errorf("it is deleted in %s", d)
	}
	k.hasStates("payments", keys.DestroyScheduled, keys.DestroyScheduled, keys.DestroyScheduled)
	if v := k.key("payments").Versions[0]; !v.DestroyAt.Equal(own) {
		t.Error("version 1 has lost its own moment")
	}
	if k.active("payments") != 0 {
		t.Error("the key is still in use")
	}
	notices := k.noticed("payments", keys.NoticeDestroyScheduled)
	if len(notices) != 3 || !notices[2].When.Equal(key.DeleteAt) || notices[2].Reason != "sold" {
		t.Errorf("%+v", notices)
	}
	if r := k.acted("payments", "delete-key"); r.Details["note"] != "sold" || r.Details["delete_at"] == "" || r.Version != 0 {
		t.Errorf("%+v", r)
	}
	for name, act := range map[string]func() error{
		"a second order": func() error {
			_, err := k.DeleteKey(t.Context(), alice, "payments", rotation.DestroySpec{})
			return err
		},
		"a rotation": func() error {
			_, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual})
			return err
		},
		"the restoring of one version": func() error { _, err := k.Restore(t.Context(), alice, "payments", 3, ""); return err },
	} {
		if err := act(); !errors.Is(err, keys.ErrVersionState) {
			t.Errorf("%s: %v, want ErrVersionState", name, err)
		}
	}
	k.tick()
	k.consistent()
	k.pass(29*time.Hour + time.Minute)
	k.tick() // version 1, whose order was earlier, and no other
	k.hasStates("payments", keys.Destroyed, keys.DestroyScheduled, keys.DestroyScheduled)
	k.pass(2 * time.Hour)
	k.tick()
	k.tick()
	if !gone(k, "payments") || len(k.hsm.Objects()) != 0 {
		t.Errorf("the key is gone: %v; objects: %v", gone(k, "payments"), k.hsm.Objects())
	}
	k.acted("payments", "bury-key")
	if n := k.noticed("payments", keys.NoticeKeyDeleted); len(n) != 1 || n[0].Version != 0 {
		t.Errorf("%+v", n)
	}
	if _, err := k.CreateKey(t.Context(), alice, rotation.Spec{Name: "payments", Algorithm: keys.ES256}); !errors.Is(err, keys.ErrKeyRetired) {
		t.Errorf("the name: %v, want ErrKeyRetired", err)
	}
	k.tick()
	k.consistent()
}

// TestDeleteKeyInUse is refused unless forced.
func TestDeleteKeyInUse(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", keys.Policy{})
	k.use("payments", 1, "jwt:corp:batch")
	k.use("payments", 2, "jwt:corp:shop")
	_, err := k.DeleteKey(t.Context(), alice, "payments", rotation.DestroySpec{Note: "sold"})
	if !errors.Is(err, keys.ErrInUse) || !strings.Contains(err.Error(), "jwt:corp:batch") || !strings.Contains(err.Error(), "payments.v2") {
		t.Errorf("%v", err)
	}
	if _, err := k.DeleteKey(t.Context(), alice, "payments", rotation.DestroySpec{Force: true}); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("forced without a reason: %v", err)
	}
	_, err = k.DeleteKey(t.Context(), alice, "payments", rotation.DestroySpec{Force: true, Note: "sold"})
	k.must(err)
	if r := k.acted("payments", "delete-key"); r.Details["force"] != "true" || !strings.Contains(r.Details["overridden_1"], "jwt:corp:batch") {
		t.Errorf("%+v", r)
	}
	if _, err := k.DeleteKey(t.Context(), alice, "nothing", rotation.DestroySpec{}); !errors.Is(err, keys.ErrKeyNotFound) {
		t.Errorf("%v, want ErrKeyNotFound", err)
	}
}

// TestRestoreKey brings every version back to where it was, but for those
// with an order of their own.
func TestRestoreKey(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", keys.Policy{DestroyDelay: 50 * time.Hour})
	k.rotate("payments")
	k.rotate("payments")
	if _, err := k.RestoreKey(t.Context(), alice, "payments", ""); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("nothing was ordered: %v", err)
	}
	_, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{})
	k.must(err)
	_, err = k.Revoke(t.Context(), alice, "payments", 2, "leaked")
	k.must(err)
	k.pass(time.Hour)
	_, err = k.DeleteKey(t.Context(), alice, "payments", rotation.DestroySpec{})
	k.must(err)
	k.pass(50*time.Hour - time.Minute) // version 1 goes meanwhile
	k.tick()
	key, err := k.RestoreKey(t.Context(), bob, "payments", "a mistake")
	k.must(err)
	if !key.DeleteAt.IsZero() {
		t.Error("it is still to be deleted")
	}
	k.hasStates("payments", keys.Destroyed, keys.Compromised, keys.Deactivated, keys.Active)
	k.told("payments", "version.restored 2", "version.restored 3", "version.restored 4", "version.activated 4")
	if r := k.acted("payments", "restore"); r.Principal != bob.Principal || r.Details["note"] != "a mistake" || r.Version != 0 {
		t.Errorf("%+v", r)
	}
	k.pass(1000 * time.Hour)
	k.tick()
	k.consistent()
	_, err = k.DeleteKey(t.Context(), alice, "payments", rotation.DestroySpec{})
	k.must(err)
	k.pass(50 * time.Hour)
	if _, err := k.RestoreKey(t.Context(), alice, "payments", ""); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("at the moment: %v", err)
	}
}

// TestDeleteWhileRotating: the rotation is undone, also one that is just
// generating, and nothing of it is left.
func TestDeleteWhileRotating(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("announced", announces)
	k.begin("announced", rotation.RotateSpec{})
	k.create("making", keys.Policy{})
	entered, release := k.faulty.Block(hsmtest.Generate, 1)
	made := make(chan error, 1)
	go func() {
		_, err := k.Rotate(t.Context(), alice, "making", rotation.RotateSpec{Reason: keys.ReasonManual})
		made <- err
	}()
	<-entered
	for _, name := range []string{"announced", "making"} {
		_, err := k.DeleteKey(t.Context(), alice, name, rotation.DestroySpec{})
		k.must(err)
	}
	release()
	if err := <-made; !errors.Is(err, keys.ErrConflict) {
		t.Errorf("the rotation of a key that was deleted meanwhile: %v", err)
	}
	k.tick()
	for _, name := range []string{"announced", "making"} {
		k.phase(name, keys.PhaseAborted)
		k.hasStates(name, keys.DestroyScheduled, keys.Destroyed)
	}
	k.consistent()
	_, err := k.RestoreKey(t.Context(), alice, "announced", "")
	k.must(err)
	k.hasStates("announced", keys.Active, keys.Destroyed)
	k.pass(25 * time.Hour)
	k.tick()
	k.tick()
	if !gone(k, "making") {
		t.Error("the key is still there")
	}
	if got := k.hsm.Objects(); !slices.Equal(got, []string{"announced.v1"}) {
		t.Errorf("objects: %v", got)
	}
	k.consistent()
}

// TestDeletePastDestroyed: of a key whose HSM objects fail to go, nothing is
// buried.
func TestDeletePastDestroyed(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.two("payments", keys.Policy{})
	_, err := k.DeleteKey(t.Context(), alice, "payments", rotation.DestroySpec{})
	k.must(err)
	k.pass(25 * time.Hour)
	k.faulty.Fail(hsmtest.Destroy, 2, hsmtest.NotDone, keys.ErrHSM)
	k.tick()
	k.tick()
	k.hasStates("payments", keys.Destroyed, keys.DestroyScheduled)
	k.pass(time.Minute)
	k.tick()
	k.tick()
	if !gone(k, "payments") {
		t.Error("the key is still there")
	}
	k.consistent()
}
