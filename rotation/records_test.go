package rotation_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/rotation"
)

// The outcome of a rotation tells what was planned, whom it was for, and when
// the version is due to be followed.
func TestRotationRecordIsComplete(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Period: 90 * 24 * time.Hour, Announce: time.Hour})
	k.subscribe("payments", "a")
	k.subscribe("payments", "b")
	at := k.now().Add(3 * time.Hour)
	k.begin("payments", rotation.RotateSpec{Reason: keys.ReasonManual, ActivateAt: at})
	k.pass(4 * time.Hour)
	k.tick()
	rec := k.outcome("payments", "rotate")
	for name, want := range map[string]string{
		"announce": "1h0m0s", "activate_at": at.UTC().Format(time.RFC3339), "agents": "2", "acks": "",
		"expires_at": k.key("payments").Versions[1].ActivateAt.Add(90 * 24 * time.Hour).UTC().Format(time.RFC3339),
	} {
		if got := rec.Details[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if rec.StartedAt.IsZero() || !rec.CompletedAt.After(rec.StartedAt) {
		t.Errorf("from %v to %v", rec.StartedAt, rec.CompletedAt)
	}
}

// However many agents there are, a record names whom it has room for, whole,
// and counts the others.
func TestManyAgentsInARecord(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Acks: keys.Acks{Require: keys.AckAll, Timeout: time.Hour, OnTimeout: keys.TimeoutActivate}})
	for i := range 100 {
		k.subscribe("payments", fmt.Sprintf("jwt:corp:agent-%03d", i))
	}
	k.begin("payments", rotation.RotateSpec{Reason: keys.ReasonManual})
	k.ack("payments", 2, "jwt:corp:agent-007")
	k.pass(2 * time.Hour)
	k.tick()
	d := k.outcome("payments", "rotate").Details
	missing, more, ok := strings.Cut(d["missing"], " and ")
	named := len(strings.Fields(missing))
	if !ok || named < 10 || more != fmt.Sprintf("%d more", 99-named) || len(d["missing"]) > 1000 {
		t.Errorf("missing: %q", d["missing"])
	}
	if d["agents"] != "100" || d["acknowledged"] != "jwt:corp:agent-007" || d["acks"] != "all" {
		t.Errorf("%v", d)
	}
}

// A change of a key's policy is recorded with the policy before and after.
func TestUpdateIsRecorded(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Overlap: time.Hour})
	text := "pays"
	p := keys.Policy{Period: 48 * time.Hour, MaxOperations: 1000, Acks: keys.Acks{Require: keys.AckQuorum, Quorum: 60, Timeout: time.Hour}}
	switched := k.key("payments").Versions[0].ActivateAt
	if _, err := k.UpdateKey(t.Context(), alice, "payments", rotation.Update{Description: &text, Policy: &p}); err != nil {
		t.Fatal(err)
	}
	d := k.outcome("payments", "update-key").Details
	for name, want := range map[string]string{
		"changed": "description policy", "policy_before": "overlap=1h0m0s",
		"policy":     `period=48h0m0s acks_timeout=1h0m0s acks="quorum" max_operations=1000 quorum=60`,
		"expires_at": switched.Add(48 * time.Hour).UTC().Format(time.RFC3339),
	} {
		if got := d[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
