package rotation_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/rotation"
)

func ptr[T any](v T) *T { return &v }

// TestAtOnce: a plan that waits for nothing is done in the call, and told in
// the order in which it happened.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	r := k.begin("payments", rotation.RotateSpec{Note: "a ticket"})
	if r.Phase != keys.PhaseCompleted || r.Note != "a ticket" || r.SwitchAt.IsZero() || !r.CompletedAt.Equal(r.SwitchAt) {
		t.Errorf("%+v", r)
	}
	v := k.key("payments").Versions[1]
	if !v.ActivateAt.Equal(r.SwitchAt) || v.ActivatedAt.IsZero() {
		t.Errorf("%+v", v)
	}
	if got, want := k.notices("payments"), []string{
		"version.announced 1", "version.activated 1", "version.announced 2", "version.activated 2", "version.deactivated 1",
	}; !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
	if d := k.outcome("payments", "rotate").Details; d["note"] != "a ticket" || d["reason"] != "manual" {
		t.Errorf("%v", d)
	}
	k.consistent()
}

// TestAnnounce: the version is published, not used, until the lead is over;
// and a change of the policy does not touch the plan.
func TestAnnounce(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Announce: time.Hour})
	if n := k.active("payments"); n != 1 {
		t.Fatalf("the first version waits: %d is active", n)
	}
	r := k.begin("payments", rotation.RotateSpec{})
	if r.Phase != keys.PhaseAnnounced || r.Announce != time.Hour {
		t.Fatalf("%+v", r)
	}
	k.told("payments", "version.announced 2")
	if _, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{}); !errors.Is(err, keys.ErrRotationRunning) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := k.UpdateKey(t.Context(), alice, "payments", rotation.Update{Policy: &keys.Policy{}}); err != nil {
		t.Fatal(err)
	}
	k.pass(time.Hour - time.Minute)
	k.tick()
	k.phase("payments", keys.PhaseAnnounced)
	if k.active("payments") != 1 || k.state("payments", 2) != keys.PreActivation {
		t.Errorf("version 2 is %s a minute early", k.state("payments", 2))
	}
	k.pass(time.Minute)
	k.tick()
	k.phase("payments", keys.PhaseCompleted)
	k.told("payments", "version.activated 2", "version.deactivated 1")
	k.consistent()
}

// TestPropagation: the moment of the switch is known before it comes.
func TestPropagation(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.propagation = time.Minute
	k.Engine = k.engine(nil)
	k.create("payments", keys.Policy{})
	if n := k.active("payments"); n != 1 {
		t.Fatalf("there is nothing to switch from, and version %d is active", n)
	}
	r := k.begin("payments", rotation.RotateSpec{})
	if r.Phase != keys.PhaseScheduled || r.SwitchAt.Sub(r.AnnouncedAt) != time.Minute {
		t.Fatalf("%+v", r)
	}
	k.told("payments", "version.announced 2", "version.scheduled 2")
	k.tick()
	k.phase("payments", keys.PhaseScheduled)
	k.pass(time.Minute)
	if n := k.active("payments"); n != 2 {
		t.Errorf("version %d is active: the clock switches, not the engine", n)
	}
	k.tick()
	if r := k.phase("payments", keys.PhaseCompleted); !r.CompletedAt.Equal(r.SwitchAt) {
		t.Errorf("%+v", r)
	}
	k.consistent()
}

// TestActivateAt: a coordinated switch is at its moment, told ahead.
func TestActivateAt(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Announce: time.Hour})
	at := k.now().Add(3 * time.Hour).UTC().Truncate(time.Microsecond)
	r := k.begin("payments", rotation.RotateSpec{ActivateAt: at, Announce: ptr(time.Minute)})
	if r.Phase != keys.PhaseAnnounced || !r.ActivateAt.Equal(at) || r.Announce != time.Minute {
		t.Fatalf("%+v", r)
	}
	k.pass(time.Minute)
	k.tick()
	if r := k.phase("payments", keys.PhaseScheduled); !r.SwitchAt.Equal(at) || !k.key("payments").Versions[1].ActivateAt.Equal(at) {
		t.Errorf("%+v", r)
	}
	k.told("payments", "version.announced 2", "version.scheduled 2")
	k.pass(2 * time.Hour)
	k.tick()
	if n := k.active("payments"); n != 1 {
		t.Errorf("version %d is active", n)
	}
	k.pass(time.Hour)
	if n := k.active("payments"); n != 2 {
		t.Errorf("version %d is active", n)
	}
	k.tick()
	k.phase("payments", keys.PhaseCompleted)
	k.consistent()
}

func TestPlansThatAreRefused(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.propagation = time.Minute
	k.Engine = k.engine(nil)
	k.create("payments", keys.Policy{Announce: time.Hour})
	now := k.now()
	for name, c := range map[string]struct {
		spec rotation.RotateSpec
		says string
	}{
		"in the past":              {rotation.RotateSpec{ActivateAt: now.Add(-time.Second)}, "in the past"},
		"now":                      {rotation.RotateSpec{ActivateAt: now.Add(-time.Nanosecond), Announce: ptr(time.Duration(0))}, "in the past"},
		"before the lead":          {rotation.RotateSpec{ActivateAt: now.Add(59 * time.Minute)}, "earliest"},
		"before the propagation":   {rotation.RotateSpec{ActivateAt: now.Add(30 * time.Second), Announce: ptr(time.Duration(0))}, "earliest"},
		"years ahead":              {rotation.RotateSpec{ActivateAt: now.AddDate(2, 0, 0)}, "a year"},
		"a negative announcement":  {rotation.RotateSpec{Announce: ptr(-time.Second)}, "announce"},
		"an announcement of years": {rotation.RotateSpec{Announce: ptr(20_000 * time.Hour)}, "announce"},
		"compromise, announced":    {rotation.RotateSpec{Reason: keys.ReasonCompromise, Announce: ptr(time.Hour)}, "compromise"},
		"compromise, later":        {rotation.RotateSpec{Reason: keys.ReasonCompromise, ActivateAt: now.Add(2 * time.Hour)}, "compromise"},
	} {
		r, err := k.Rotate(t.Context(), alice, "payments", c.spec)
		if !errors.Is(err, keys.ErrInvalid) || r != nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want ErrInvalid with %q", name, err, c.says)
		}
	}
	if n := len(k.key("payments").Versions); n != 1 || len(k.records()) != 2 {
		t.Errorf("%d versions, %d records", n, len(k.records()))
	}
	// Compromise neither announces nor waits, whatever the policy says.
	k.propagation = 0
	k.Engine = k.engine(nil)
	r := k.begin("payments", rotation.RotateSpec{Reason: keys.ReasonCompromise})
	if r.Phase != keys.PhaseCompleted || r.Announce != 0 {
		t.Errorf("%+v", r)
	}
	k.consistent()
}
