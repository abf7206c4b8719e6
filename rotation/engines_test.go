package rotation_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// TestTwoEngines: two processes over one store and one token take each step
// once, whoever comes first.
func TestTwoEngines(t *testing.T) {
	t.Parallel()
	for name, newKit := range kits {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			twoEngines(t, newKit(t))
		})
	}
}

func twoEngines(t *testing.T, k *kit) {
	t.Helper()
	const n = 6
	for i := range n {
		p := keys.Policy{Period: time.Hour}
		if i%2 == 0 {
			p.Announce = 10 * time.Minute
		}
		k.create(fmt.Sprint("key-", i), p)
	}
	other := store.NewCache(k.store, store.CacheConfig{})
	k.must(other.Refresh(t.Context()))
	engines := []*rotation.Engine{k.Engine, k.engine(func(c *rotation.Config) { c.Keys, c.Refresh = other.Keys, other.Refresh })}
	both := func() {
		k.must(k.cache.Refresh(t.Context()))
		k.must(other.Refresh(t.Context()))
		var wg sync.WaitGroup
		for _, e := range engines {
			wg.Go(func() {
				if err := e.Tick(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	for round := range uint32(3) {
		k.pass(time.Hour)
		for range 3 {
			both()
			k.pass(10 * time.Minute)
		}
		for i := range n {
			if v := k.active(fmt.Sprint("key-", i)); v != round+2 {
				t.Errorf("round %d: version %d of key %d is active", round, v, i)
			}
		}
	}
	if made := k.faulty.Calls(hsmtest.Generate); made != 4*n {
		t.Errorf("%d versions were generated, want %d", made, 4*n)
	}
	k.consistent()
	k.toldOf()
}

// TestAnotherProcessGenerates: what another process has begun is left to it,
// until its lease has lapsed.
func TestAnotherProcessGenerates(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	entered, release := k.faulty.Block(hsmtest.Generate, 1)
	rotated := make(chan error, 1)
	go func() {
		_, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual})
		rotated <- err
	}()
	<-entered
	destroyed := k.faulty.Calls(hsmtest.Destroy)
	other := k.engine(nil)
	k.must(other.Tick(t.Context()))
	if n := k.faulty.Calls(hsmtest.Destroy); n != destroyed {
		t.Error("the other process destroyed what this one generates")
	}
	release()
	if err := <-rotated; err != nil {
		t.Fatal(err)
	}
	k.consistent()

	// A process that died in it is another matter.
	m := &mortal{}
	dying := k.engine(m.change)
	m.arm(5) // the key, the lease, the commit, the rotation, the key
	if _, err := dying.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual}); err == nil {
		t.Fatal("it did not die")
	}
	k.phase("payments", keys.PhaseReserved)
	k.must(other.Tick(t.Context()))
	k.phase("payments", keys.PhaseReserved)
	k.lapse()
	k.must(other.Tick(t.Context()))
	k.phase("payments", keys.PhaseCompleted)
	k.consistent()
}

// TestRestartInEachPhase: a rotation goes on where it was, by its plan, in
// one process after the other.
func TestRestartInEachPhase(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.propagation = 10 * time.Minute
	restart := func() {
		k.reload()
		k.must(k.Recover(t.Context()))
	}
	restart()
	k.create("payments", keys.Policy{Announce: time.Hour, Acks: keys.Acks{Require: keys.AckAll, Timeout: 4 * time.Hour}})
	k.subscribe("payments", "a")
	k.begin("payments", rotation.RotateSpec{ActivateAt: k.now().Add(2 * time.Hour)})
	text := "another policy"
	_, err := k.UpdateKey(t.Context(), alice, "payments", rotation.Update{Description: &text, Policy: &keys.Policy{}})
	k.must(err)
	for _, c := range []struct {
		before func()
		phase  keys.Phase
		active uint32
	}{
		{func() {}, keys.PhaseAnnounced, 1},
		{func() { k.pass(time.Hour) }, keys.PhaseAnnounced, 1}, // the agent is waited for
		{func() { k.ack("payments", 2, "a") }, keys.PhaseScheduled, 1},
		{func() { k.pass(time.Hour - time.Minute) }, keys.PhaseScheduled, 1},
		{func() { k.pass(time.Minute) }, keys.PhaseCompleted, 2},
		{func() {}, keys.PhaseCompleted, 2},
	} {
		c.before()
		restart()
		k.phase("payments", c.phase)
		if n := k.active("payments"); n != c.active {
			t.Errorf("%s: version %d is active", c.phase, n)
		}
	}
	k.consistent()
	k.toldOf()
}
