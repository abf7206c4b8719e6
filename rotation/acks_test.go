package rotation_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/rotation"
)

var waits = keys.Acks{Require: keys.AckAll, Timeout: 4 * time.Hour, AbsentAfter: 48 * time.Hour}

// TestAllAcknowledge: the rotation goes on when the last agent has
// acknowledged, not before, and the log says who.
func TestAllAcknowledge(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Announce: time.Hour, Acks: waits, Overlap: 24 * time.Hour})
	k.subscribe("payments", "a", "b")
	r := k.begin("payments", rotation.RotateSpec{})
	if !slices.Equal(r.Expected, []string{"a", "b"}) {
		t.Errorf("expected are %v", r.Expected)
	}
	k.ack("payments", 2, "a", "b")
	k.tick()
	k.phase("payments", keys.PhaseAnnounced) // the lead is not over
	k.subscribe("payments", "c")             // counts too
	k.pass(time.Hour)
	k.tick()
	k.phase("payments", keys.PhaseAnnounced)
	p, err := k.Progress(t.Context(), r)
	k.must(err)
	if len(p.Acked) != 2 || !slices.Equal(p.Missing, []string{"c"}) || len(p.Skipped) != 0 || p.Next != rotation.StepSchedule || !p.NextAt.IsZero() ||
		!strings.Contains(p.Text, "2 there, 1 missing") {
		t.Errorf("%+v", p)
	}
	k.ack("payments", 2, "c")
	k.tick()
	done := k.phase("payments", keys.PhaseCompleted)
	if !slices.Equal(done.Expected, []string{"a", "b", "c"}) || len(done.Skipped) != 0 {
		t.Errorf("%+v", done)
	}
	if d := k.outcome("payments", "rotate").Details; d["agents"] != "3" || d["acknowledged"] != "a b c" || d["missing"] != "" {
		t.Errorf("%v", d)
	}
	p, err = k.Progress(t.Context(), done)
	k.must(err)
	if len(p.Acked) != 3 || len(p.Missing) != 0 || p.Next != rotation.StepArchive || !p.NextAt.Equal(done.SwitchAt.Add(24*time.Hour)) {
		t.Errorf("%+v", p)
	}
	k.consistent()
}

// TestNobodySubscribed: there is nobody to wait for.
func TestNobodySubscribed(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Acks: waits})
	if r := k.begin("payments", rotation.RotateSpec{}); r.Phase != keys.PhaseCompleted {
		t.Errorf("%+v", r)
	}
	k.consistent()
}

// TestNotWaitedFor: agents that unsubscribe, are blocked or were not seen for
// long hold nothing up, and the rotation says who was skipped.
func TestNotWaitedFor(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Acks: waits})
	k.subscribe("payments", "absent", "absent-acked")
	k.pass(49 * time.Hour)
	k.subscribe("payments", "blocked", "gone", "here")
	r := k.begin("payments", rotation.RotateSpec{})
	if r.Phase != keys.PhaseAnnounced {
		t.Fatalf("%+v", r)
	}
	k.ack("payments", 2, "here", "absent-acked")
	k.tick()
	k.phase("payments", keys.PhaseAnnounced)
	k.must(k.store.Unsubscribe(t.Context(), "payments", "gone"))
	k.tick()
	k.phase("payments", keys.PhaseAnnounced)
	k.must(k.store.BlockAgent(t.Context(), "blocked", &keys.Block{At: k.now(), By: "alice", Reason: "stolen"}))
	k.tick()
	r = k.phase("payments", keys.PhaseCompleted)
	if !slices.Equal(r.Skipped, []string{"absent", "blocked"}) || !slices.Equal(r.Expected, []string{"absent", "absent-acked", "blocked", "here"}) {
		t.Errorf("%+v", r)
	}
	if d := k.outcome("payments", "rotate").Details; d["skipped"] != "absent blocked" || d["acknowledged"] != "absent-acked here" || d["missing"] != "" {
		t.Errorf("%v", d)
	}
	p, err := k.Progress(t.Context(), r)
	k.must(err)
	if len(p.Acked) != 2 || len(p.Missing) != 0 || len(p.Skipped) != 2 {
		t.Errorf("%+v", p)
	}
	k.consistent()
}

// TestSeenAgain: an agent that comes back is waited for again.
func TestSeenAgain(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Announce: time.Hour, Acks: waits})
	k.subscribe("payments", "a")
	k.pass(49 * time.Hour)
	r := k.begin("payments", rotation.RotateSpec{})
	p, err := k.Progress(t.Context(), r)
	k.must(err)
	if !slices.Equal(p.Skipped, []string{"a"}) {
		t.Errorf("%+v", p)
	}
	k.subscribe("payments", "a")
	k.pass(time.Hour)
	k.tick()
	k.phase("payments", keys.PhaseAnnounced)
	k.ack("payments", 2, "a")
	k.tick()
	k.phase("payments", keys.PhaseCompleted)
	k.consistent()
}

func TestQuorum(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Acks: keys.Acks{Require: keys.AckQuorum, Quorum: 60, Timeout: time.Hour}})
	k.subscribe("payments", "a", "b", "c", "d", "e")
	k.begin("payments", rotation.RotateSpec{})
	k.ack("payments", 2, "a", "b")
	k.tick()
	k.phase("payments", keys.PhaseAnnounced)
	k.ack("payments", 2, "c")
	k.tick()
	r := k.phase("payments", keys.PhaseCompleted)
	if d := k.outcome("payments", "rotate").Details; d["missing"] != "d e" {
		t.Errorf("%v", d)
	}
	k.ack("payments", 2, "d") // late, and shown
	p, err := k.Progress(t.Context(), r)
	k.must(err)
	if len(p.Acked) != 4 || !slices.Equal(p.Missing, []string{"e"}) {
		t.Errorf("%+v", p)
	}
	k.consistent()
}

// TestAckTimeout: what happens then is the plan's.
func TestAckTimeout(t *testing.T) {
	t.Parallel()
	for _, on := range []keys.OnTimeout{"", keys.TimeoutAbort, keys.TimeoutActivate} {
		k := newKit(t)
		acks := waits
		acks.OnTimeout = on
		k.create("payments", keys.Policy{Period: 24 * time.Hour, Announce: time.Hour, Acks: acks})
		k.subscribe("payments", "a", "b")
		k.pass(24 * time.Hour)
		k.tick()
		k.ack("payments", 2, "a")
		k.pass(4*time.Hour - time.Minute)
		k.tick()
		k.phase("payments", keys.PhaseAnnounced)
		k.pass(time.Minute)
		k.tick()
		if on == keys.TimeoutActivate {
			k.phase("payments", keys.PhaseCompleted)
			if d := k.outcome("payments", "rotate").Details; d["missing"] != "b" || k.active("payments") != 2 {
				t.Errorf("%v", d)
			}
			k.consistent()
			continue
		}
		r := k.phase("payments", keys.PhaseAborted)
		if r.Error == "" || r.EndedBy != "" || k.active("payments") != 1 || k.state("payments", 2) != keys.Destroyed {
			t.Errorf("%+v", r)
		}
		k.told("payments", "rotation.aborted 2", "version.destroyed 2")
		// It is tried again, later: the agents will not be there in a second.
		k.pass(20 * time.Hour)
		k.tick()
		k.phase("payments", keys.PhaseAborted)
		if next := k.NextRotation(k.key("payments")); !next.After(k.now()) {
			t.Errorf("the next rotation is said to be due at %v", next)
		}
		k.pass(4 * time.Hour)
		k.tick()
		if r := k.phase("payments", keys.PhaseAnnounced); r.To != 3 {
			t.Errorf("%+v", r)
		}
		k.ack("payments", 3, "a", "b")
		k.pass(time.Hour)
		k.tick()
		k.phase("payments", keys.PhaseCompleted)
		k.consistent()
	}
}
