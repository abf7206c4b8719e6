package rotation_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

func TestPeriod(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("daily", keys.Policy{Period: 24 * time.Hour})
	k.create("never", keys.Policy{})
	k.pass(24*time.Hour - time.Minute)
	k.tick()
	if n := k.active("daily"); n != 1 {
		t.Errorf("version %d is active a minute early", n)
	}
	for want := uint32(2); want < 5; want++ {
		k.pass(24 * time.Hour)
		k.tick()
		k.tick()
		if n := k.active("daily"); n != want {
			t.Errorf("version %d is active, want %d", n, want)
		}
	}
	if n := len(k.key("never").Versions); n != 1 {
		t.Errorf("a key without a period has %d versions", n)
	}
	r, err := k.Rotations(t.Context(), store.RotationFilter{Key: "daily", Limit: 1})
	if err != nil || len(r) != 1 || r[0].Reason != keys.ReasonScheduled || r[0].StartedBy != "system" {
		t.Errorf("%+v, %v", r, err)
	}
	// A long stop is one rotation, not one for each period that passed.
	k.pass(30 * 24 * time.Hour)
	k.tick()
	k.tick()
	if n := k.active("daily"); n != 5 {
		t.Errorf("version %d is active after a month, want 5", n)
	}
	// A rotation by hand begins a new period; a new period counts at once.
	k.pass(20 * time.Hour)
	k.rotate("daily")
	k.pass(20 * time.Hour)
	k.tick()
	if n := k.active("daily"); n != 6 {
		t.Errorf("version %d is active, want 6", n)
	}
	if _, err := k.UpdateKey(t.Context(), alice, "daily", rotation.Update{Policy: &keys.Policy{Period: time.Hour}}); err != nil {
		t.Fatal(err)
	}
	k.tick()
	if n := k.active("daily"); n != 7 {
		t.Errorf("version %d is active, want 7", n)
	}
	k.consistent()
}

// TestBackoff: an HSM that fails is not asked again every second, and not
// given up; a failing key does not hold up another one.
func TestBackoff(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("a", keys.Policy{Period: time.Hour})
	k.create("b", keys.Policy{Period: time.Hour})
	k.pass(time.Hour)
	k.faulty.Fail(hsmtest.Generate, 1, hsmtest.NotDone, keys.ErrHSM)
	k.tick()
	if a, b := k.active("a"), k.active("b"); a != 1 || b != 2 {
		t.Errorf("versions %d and %d are active, want 1 and 2", a, b)
	}
	calls := k.faulty.Calls(hsmtest.Generate)
	k.tick()
	k.pass(4 * time.Second)
	k.tick()
	if n := k.faulty.Calls(hsmtest.Generate); n != calls {
		t.Errorf("asked %d times more within 4 s", n-calls)
	}
	// Each pause is longer than the one before, up to an hour.
	if _, err := k.UpdateKey(t.Context(), alice, "b", rotation.Update{Policy: &keys.Policy{}}); err != nil {
		t.Fatal(err)
	}
	asked, pause, last := 0, time.Duration(0), time.Duration(0)
	for range 100 {
		k.faulty.Fail(hsmtest.Generate, 1, hsmtest.NotDone, keys.ErrHSM)
		k.pass(time.Minute)
		pause += time.Minute
		k.tick()
		if n := k.faulty.Calls(hsmtest.Generate); n > calls {
			if pause < last {
				t.Errorf("a pause of %v after one of %v", pause, last)
			}
			asked, calls, last, pause = asked+n-calls, n, pause, 0
		}
	}
	if asked < 5 || asked > 15 || last < 20*time.Minute {
		t.Errorf("asked %d times in 6000 s, the last pause was %v", asked, last)
	}
	k.pass(time.Hour)
	// The fault that waits for the next call is used up by a person's attempt,
	// who need not wait.
	if _, err := k.Rotate(t.Context(), alice, "a", rotation.RotateSpec{}); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("%v, want ErrHSM", err)
	}
	k.tick()
	if key := k.key("a"); key.ActiveAt(k.now()) != key.Latest() {
		t.Error("key a was not rotated when the HSM worked again")
	}
	k.consistent()
}

func TestTickWithoutStoreOrSnapshot(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Period: time.Hour})
	k.pass(time.Hour)
	stale := k.engine(func(c *rotation.Config) { c.Keys = func() ([]*keys.Key, error) { return nil, keys.ErrStale } })
	if err := stale.Tick(t.Context()); !errors.Is(err, keys.ErrStale) {
		t.Errorf("%v, want ErrStale", err)
	}
	if err := k.store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := k.Tick(t.Context()); !errors.Is(err, keys.ErrStore) {
		t.Errorf("%v, want ErrStore", err)
	}
	if err := k.Recover(t.Context()); !errors.Is(err, keys.ErrStore) {
		t.Errorf("%v, want ErrStore", err)
	}
	if n := k.faulty.Calls(hsmtest.Generate); n != 1 {
		t.Errorf("%d keys were generated", n)
	}
}

// TestRun waits for the timer's own rotation, and for its end.
func TestRun(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Period: time.Hour})
	k.pass(time.Hour)
	entered, release := k.faulty.Block(hsmtest.Generate, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	<-entered
	cancel() // what has begun is finished all the same
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := k.active("payments"); n != 2 {
		t.Errorf("version %d is active, want 2", n)
	}
	k.consistent()
}
