package rotation_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

func TestRotate(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	before := k.key("payments")
	r, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonPersonnelChange})
	if err != nil {
		t.Fatal(err)
	}
	if r.From != 1 || r.To != 2 || r.Phase != keys.PhaseCompleted || r.Reason != keys.ReasonPersonnelChange || r.CompletedAt.IsZero() || r.Error != "" {
		t.Errorf("%+v", r)
	}
	key, now := k.key("payments"), k.now()
	v1, v2 := key.Versions[0], key.Versions[1]
	if key.StateAt(v1, now) != keys.Deactivated || key.StateAt(v2, now) != keys.Active {
		t.Errorf("version 1 is %s, version 2 %s", key.StateAt(v1, now), key.StateAt(v2, now))
	}
	if v1.ObjectID == v2.ObjectID || v1.ObjectID != before.Versions[0].ObjectID || key.Epoch <= before.Epoch {
		t.Errorf("epoch %d, then %d; ids %s, %s", before.Epoch, key.Epoch, v1.ObjectID, v2.ObjectID)
	}
	recs := k.records()[2:]
	if len(recs) != 2 || recs[0].Outcome != audit.OutcomeIntent || recs[1].Outcome != audit.OutcomeOK {
		t.Fatalf("%+v", recs)
	}
	for _, rec := range recs {
		if rec.Action != "rotate" || rec.KeyID != "payments.v2" || rec.FromVersion != 1 || rec.ToVersion != 2 || rec.Details["reason"] != "personnel-change" {
			t.Errorf("%+v", rec)
		}
	}
	k.consistent()
}

func TestRotateRefuses(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	for name, c := range map[string]struct {
		key  string
		spec rotation.RotateSpec
		want error
	}{
		"an unknown key":      {"refunds", rotation.RotateSpec{}, keys.ErrKeyNotFound},
		"another purpose":     {"payments", rotation.RotateSpec{Algorithm: keys.A256GCM}, keys.ErrWrongPurpose},
		"no known algorithm":  {"payments", rotation.RotateSpec{Algorithm: "none"}, keys.ErrWrongPurpose},
		"a size it has not":   {"payments", rotation.RotateSpec{Bits: 2048}, keys.ErrInvalid},
		"a small RSA key":     {"payments", rotation.RotateSpec{Algorithm: keys.RS256, Bits: 1024}, keys.ErrInvalid},
		"a size of the other": {"payments", rotation.RotateSpec{Algorithm: keys.ES384, Bits: 256}, keys.ErrInvalid},
	} {
		if r, err := k.Rotate(t.Context(), alice, c.key, c.spec); !errors.Is(err, c.want) || r != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if n := len(k.key("payments").Versions); n != 1 || len(k.records()) != 2 {
		t.Errorf("%d versions, %d records", n, len(k.records()))
	}
	k.consistent()
}

func TestRotateChangesAlgorithm(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	if _, err := k.CreateKey(t.Context(), alice, rotation.Spec{Name: "payments", Algorithm: keys.RS256, Bits: 2048}); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		spec rotation.RotateSpec
		alg  keys.Algorithm
		bits int
	}{
		{rotation.RotateSpec{Algorithm: keys.PS256}, keys.PS256, 2048}, // RSA follows RSA in its size
		{rotation.RotateSpec{Algorithm: keys.ES256}, keys.ES256, 256},
		{rotation.RotateSpec{Algorithm: keys.ES512}, keys.ES512, 521},
		{rotation.RotateSpec{}, keys.ES512, 521},
		{rotation.RotateSpec{Algorithm: keys.HS384}, keys.HS384, 384},
		{rotation.RotateSpec{Algorithm: keys.EdDSA}, keys.EdDSA, 256},
	} {
		if _, err := k.Rotate(t.Context(), alice, "payments", c.spec); err != nil {
			t.Fatal(err)
		}
		key := k.key("payments")
		v := key.ActiveAt(k.now())
		if v == nil || v.Number != uint32(i+2) || v.Algorithm != c.alg || v.Bits != c.bits || key.Algorithm != c.alg || key.Bits != c.bits {
			t.Errorf("%+v: active %+v, next %s of %d bits", c.spec, v, key.Algorithm, key.Bits)
		}
	}
	k.faulty.Fail(hsmtest.Generate, 1, hsmtest.NotDone, keys.ErrHSM)
	if _, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Algorithm: keys.ES256}); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("%v, want ErrHSM", err)
	}
	if key := k.key("payments"); key.Algorithm != keys.EdDSA || k.active("payments") != 7 {
		t.Errorf("a rotation that failed changed the key to %s; version %d is active", key.Algorithm, k.active("payments"))
	}
	if _, err := k.hsm.Sign(t.Context(), k.key("payments").Ref(k.key("payments").Versions[0]), make([]byte, 32)); err != nil {
		t.Errorf("version 1 does not work any more: %v", err)
	}
}

// TestRotateFails: an aborted rotation leaves its number used, its reason on
// record, and the old version where it was.
func TestRotateFails(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	secret := errors.New("CKR_DEVICE_ERROR at slot 17")
	k.faulty.Fail(hsmtest.Generate, 1, hsmtest.NotDone, errors.Join(keys.ErrHSM, secret))
	if _, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{}); !errors.Is(err, keys.ErrHSM) {
		t.Fatalf("%v, want ErrHSM", err)
	}
	key := k.key("payments")
	if len(key.Versions) != 2 || k.active("payments") != 1 || key.StateAt(key.Versions[1], k.now()) != keys.Destroyed {
		t.Errorf("%d versions, %d is active, the latest is %s", len(key.Versions), k.active("payments"), key.StateAt(key.Latest(), k.now()))
	}
	all, err := k.Rotations(t.Context(), store.RotationFilter{Key: "payments"})
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	if r := all[0]; r.Phase != keys.PhaseAborted || r.Error != keys.ErrHSM.Error() || r.CompletedAt.IsZero() {
		t.Errorf("%+v", r)
	}
	recs := k.records()
	if rec := recs[len(recs)-1]; rec.Outcome != audit.OutcomeError || rec.KeyID != "payments.v2" || rec.Reason != keys.ErrHSM.Error() {
		t.Errorf("%+v", rec)
	}
	k.rotate("payments")
	if k.active("payments") != 3 || k.key("payments").Versions[2].ObjectID == key.Versions[1].ObjectID {
		t.Errorf("version %d is active, want 3: numbers and ids do not come again", k.active("payments"))
	}
	k.consistent()
}

// TestOneRotationAtATime: of two rotations of a key one wins, whichever
// process they are in; and the key can be changed meanwhile.
func TestOneRotationAtATime(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.create("refunds", keys.Policy{})
	entered, release := k.faulty.Block(hsmtest.Generate, 1)
	first := make(chan error, 1)
	ctx, hangUp := context.WithCancel(t.Context())
	go func() {
		_, err := k.Rotate(ctx, alice, "payments", rotation.RotateSpec{})
		first <- err
	}()
	<-entered
	other := k.engine(nil) // another process
	for name, e := range map[string]*rotation.Engine{"the same engine": k.Engine, "another": other} {
		if _, err := e.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{}); !errors.Is(err, keys.ErrRotationRunning) {
			t.Errorf("%s: %v, want ErrRotationRunning", name, err)
		}
	}
	k.rotate("refunds")
	text := "changed while it rotates"
	if _, err := k.UpdateKey(t.Context(), alice, "payments", rotation.Update{Description: &text}); err != nil {
		t.Error(err)
	}
	if _, err := k.Suspend(t.Context(), alice, "payments", 1, ""); err != nil {
		t.Error(err)
	}
	k.tick() // must not take up what is running here
	hangUp() // a caller that leaves does not stop what has begun
	release()
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
	key := k.key("payments")
	if k.active("payments") != 2 || len(key.Versions) != 2 || key.Description != text || key.Versions[0].SuspendedAt.IsZero() {
		t.Errorf("version %d of %d is active; %q", k.active("payments"), len(key.Versions), key.Description)
	}
	if n := k.faulty.Calls(hsmtest.Generate); n != 4 {
		t.Errorf("%d keys were generated, want 4", n)
	}
	k.consistent()
}

func TestManyRotateAtOnce(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	engines := []*rotation.Engine{k.Engine, k.engine(nil)}
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { _, errs[i] = engines[i%2].Rotate(t.Context(), alice, "payments", rotation.RotateSpec{}) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, keys.ErrRotationRunning) && !errors.Is(err, keys.ErrConflict) {
			t.Errorf("%v, want ErrRotationRunning", err)
		}
	}
	key := k.key("payments")
	if won == 0 || len(key.Versions) != won+1 || k.active("payments") != uint32(won+1) {
		t.Errorf("%d won; %d versions, %d is active", won, len(key.Versions), k.active("payments"))
	}
	k.consistent()
}

// TestClocksDiffer: a gateway whose clock is behind the one that made the
// active version must not make a version that gives way to it later.
func TestClocksDiffer(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.pass(time.Hour)
	k.create("payments", keys.Policy{})
	k.pass(-time.Hour)
	k.rotate("payments")
	for range 3 {
		k.pass(time.Hour)
		if n := k.active("payments"); n != 2 {
			t.Errorf("version %d is active, want 2", n)
		}
	}
	// A revoked version does not hold up its successor.
	k.pass(time.Hour)
	k.rotate("payments")
	k.pass(-2 * time.Hour)
	if _, err := k.Revoke(t.Context(), alice, "payments", 3, "leaked"); err != nil {
		t.Fatal(err)
	}
	if n := k.active("payments"); n != 4 {
		t.Errorf("version %d is active, want 4", n)
	}
	k.consistent()
}

// TestAlgorithmOfTheAuditKey: a single version that cannot sign checkpoints
// would be in the way of all that come later.
func TestAlgorithmOfTheAuditKey(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.must(k.EnsureAuditKey(t.Context()))
	for _, alg := range []keys.Algorithm{keys.RS256, keys.ES384, keys.HS256} {
		if _, err := k.Rotate(t.Context(), alice, keys.AuditKeyName, rotation.RotateSpec{Algorithm: alg}); !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", alg, err)
		}
	}
	for _, alg := range []keys.Algorithm{keys.ES256, keys.EdDSA, ""} {
		_, err := k.Rotate(t.Context(), alice, keys.AuditKeyName, rotation.RotateSpec{Algorithm: alg})
		k.must(err)
	}
	if got := len(k.key(keys.AuditKeyName).Versions); got != 4 {
		t.Errorf("%d versions, want 4", got)
	}
}
