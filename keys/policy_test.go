package keys_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"keyhole/keys"
)

const day = 24 * time.Hour

func TestPolicyCheck(t *testing.T) {
	t.Parallel()
	all := keys.Acks{Require: keys.AckAll, Timeout: time.Hour}
	for _, tt := range []struct {
		name   string
		policy keys.Policy
		want   string // part of the text; "": it is good
	}{
		{"by hand only", keys.Policy{}, ""},
		{"a whole one", keys.Policy{
			Period: 90 * day, Schedule: "0 3 1 * *", MaxOperations: 1e9, MaxBytes: 1 << 40, Announce: day,
			Acks:    keys.Acks{Require: keys.AckQuorum, Quorum: 60, Timeout: 2 * day, OnTimeout: keys.TimeoutActivate, AbsentAfter: 7 * day},
			Overlap: 30 * day, AfterOverlap: keys.OverlapDestroy, DestroyDelay: 7 * day,
		}, ""},
		{"acks none, said", keys.Policy{Acks: keys.Acks{Require: keys.AckNone}}, ""},
		{"overlap as long as the lead", keys.Policy{Announce: day, Overlap: day}, ""},

		{"a short period", keys.Policy{Period: time.Minute}, "policy.period is 1m0s; the least is 1h0m0s"},
		{"a negative period", keys.Policy{Period: -day}, "policy.period"},
		{"a period of a thousand years", keys.Policy{Period: 200 * 365 * day}, "policy.period"},
		{"a period shorter than announce", keys.Policy{Period: 2 * day, Announce: 3 * day}, "make it longer"},
		{"a period as long as announce", keys.Policy{Period: 2 * day, Announce: 2 * day}, "make it longer"},
		{"a period shorter than announce and acks", keys.Policy{Period: 2 * day, Announce: day, Acks: keys.Acks{Require: keys.AckAll, Timeout: day}}, "make it longer"},
		{"overlap shorter than announce", keys.Policy{Announce: 2 * day, Overlap: day}, "policy.overlap is 24h0m0s, less than"},
		{"overlap shorter than acks", keys.Policy{Acks: all, Overlap: time.Minute}, "policy.overlap"},
		{"destroy without overlap", keys.Policy{AfterOverlap: keys.OverlapDestroy}, "needs policy.overlap"},
		{"an unknown end", keys.Policy{Overlap: day, AfterOverlap: "shred"}, "archive or destroy"},
		{"destroyed after a short overlap", keys.Policy{AfterOverlap: keys.OverlapDestroy, Overlap: time.Hour}, "policy.overlap is 1h0m0s and after_overlap is destroy"},
		{"a short destroy delay", keys.Policy{DestroyDelay: time.Hour}, "policy.destroy_delay is 1h0m0s; the least is 24h0m0s"},
		{"a negative destroy delay", keys.Policy{DestroyDelay: -1}, "policy.destroy_delay"},
		{"unknown requirement", keys.Policy{Acks: keys.Acks{Require: "most", Timeout: time.Hour}}, "all, quorum or none"},
		{"no timeout", keys.Policy{Acks: keys.Acks{Require: keys.AckAll}}, "policy.acks.timeout is missing"},
		{"a timeout for nobody", keys.Policy{Acks: keys.Acks{Timeout: time.Hour}}, "have no meaning"},
		{"an unknown on_timeout", keys.Policy{Acks: keys.Acks{Require: keys.AckAll, Timeout: time.Hour, OnTimeout: "wait"}}, "abort or activate"},
		{"a quorum of 0", keys.Policy{Acks: keys.Acks{Require: keys.AckQuorum, Timeout: time.Hour}}, "percentage"},
		{"a quorum of 101", keys.Policy{Acks: keys.Acks{Require: keys.AckQuorum, Quorum: 101, Timeout: time.Hour}}, "percentage"},
		{"all and a quorum", keys.Policy{Acks: keys.Acks{Require: keys.AckAll, Quorum: 50, Timeout: time.Hour}}, "quorum goes with"},
	} {
		err := tt.policy.Check(keys.DefaultLimits())
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (!errors.Is(err, keys.ErrInvalid) || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want ErrInvalid with %q", tt.name, err, tt.want)
		}
	}
	if err := (keys.Policy{DestroyDelay: time.Second, Period: time.Second}).Check(keys.Limits{}); err != nil {
		t.Errorf("development has no limits: %v", err)
	}
}

func TestPolicyDefaults(t *testing.T) {
	t.Parallel()
	if got := (keys.Policy{}).Delay(); got != keys.DefaultDestroyDelay {
		t.Errorf("delay %s", got)
	}
	if got := (keys.Policy{DestroyDelay: 3 * day}).Delay(); got != 3*day {
		t.Errorf("delay %s", got)
	}
	if got := (keys.Acks{}).Absence(); got != keys.DefaultAbsentAfter {
		t.Errorf("absence %s", got)
	}
	if got := (keys.Acks{AbsentAfter: time.Hour}).Absence(); got != time.Hour {
		t.Errorf("absence %s", got)
	}
}

func TestAcksSatisfied(t *testing.T) {
	t.Parallel()
	quorum := func(n int) keys.Acks { return keys.Acks{Require: keys.AckQuorum, Quorum: n} }
	for _, tt := range []struct {
		acks            keys.Acks
		acked, expected int
		want            bool
	}{
		{keys.Acks{}, 0, 5, true},
		{keys.Acks{Require: keys.AckNone}, 0, 5, true},
		{keys.Acks{Require: keys.AckAll}, 4, 5, false},
		{keys.Acks{Require: keys.AckAll}, 5, 5, true},
		{keys.Acks{Require: keys.AckAll}, 0, 0, true}, // nobody to wait for
		{quorum(60), 2, 5, false},
		{quorum(60), 3, 5, true},
		{quorum(50), 1, 3, false}, // a half of three is more than one
		{quorum(50), 2, 3, true},
		{quorum(1), 0, 1, false},
		{quorum(100), 2, 3, false},
		{quorum(100), 0, 0, true},
	} {
		if got := tt.acks.Satisfied(tt.acked, tt.expected); got != tt.want {
			t.Errorf("%+v: %d of %d: %v", tt.acks, tt.acked, tt.expected, got)
		}
	}
}

func TestPhases(t *testing.T) {
	t.Parallel()
	order := []keys.Phase{keys.PhaseReserved, keys.PhaseAnnounced, keys.PhaseScheduled, keys.PhaseActivated, keys.PhaseCompleted}
	for i, p := range order {
		if !p.Known() || p.Done() != (p == keys.PhaseCompleted) {
			t.Errorf("%s: known %v, done %v", p, p.Known(), p.Done())
		}
		for j, next := range order {
			if want := j >= i && p != keys.PhaseCompleted; p.Leads(next) != want {
				t.Errorf("%s leads to %s: %v", p, next, !want)
			}
		}
		if p.Leads(keys.PhaseAborted) != (i <= 2) || keys.PhaseAborted.Leads(p) || p.Leads("unknown") || keys.Phase("unknown").Leads(p) {
			t.Errorf("%s and aborted, or an unknown phase", p)
		}
	}
	if !keys.PhaseAborted.Done() || keys.PhaseAborted.Leads(keys.PhaseAborted) {
		t.Error("aborted is not the end")
	}
}

func TestRotationTimes(t *testing.T) {
	t.Parallel()
	r := &keys.Rotation{Announce: time.Hour, Acks: keys.Acks{Require: keys.AckAll, Timeout: 2 * time.Hour}}
	if !r.AckDeadline().IsZero() {
		t.Error("a deadline before the announcement")
	}
	r.AnnouncedAt = t0
	if got := r.Due(); !got.Equal(t0.Add(time.Hour)) {
		t.Errorf("due %s", got)
	}
	if got := r.AckDeadline(); !got.Equal(t0.Add(2 * time.Hour)) {
		t.Errorf("deadline %s", got)
	}
	r.Acks.Timeout = time.Minute // shorter than the lead: who has the whole lead has it to answer, too
	if got := r.AckDeadline(); !got.Equal(t0.Add(time.Hour)) {
		t.Errorf("deadline %s", got)
	}
	r.Acks = keys.Acks{}
	if !r.AckDeadline().IsZero() {
		t.Error("a deadline for nobody")
	}
}

func TestOverlapEndsAt(t *testing.T) {
	t.Parallel()
	k := &keys.Key{Name: "payments", Versions: []*keys.Version{version(1, 0), version(2, time.Hour)}}
	now := t0.Add(2 * time.Hour)
	if got := k.OverlapEndsAt(k.Versions[0], now); !got.IsZero() {
		t.Errorf("no overlap, and it ends at %s", got)
	}
	k.Policy.Overlap = day
	if got := k.OverlapEndsAt(k.Versions[0], now); !got.Equal(t0.Add(time.Hour + day)) {
		t.Errorf("it ends at %s", got)
	}
	if got := k.OverlapEndsAt(k.Versions[1], now); !got.IsZero() {
		t.Errorf("the overlap of the active version ends at %s", got)
	}
}

func TestAgentsAndApprovals(t *testing.T) {
	t.Parallel()
	if a, b := keys.AgentID("jwt:corp:a"), keys.AgentID("jwt:corp:b"); a == b || len(a) != 32 {
		t.Errorf("ids %q, %q", a, b)
	}
	a := &keys.Approval{State: keys.ApprovalPending, ExpiresAt: t0}
	if a.StateAt(t0.Add(-1)) != keys.ApprovalPending || a.StateAt(t0) != keys.ApprovalExpired {
		t.Error("a pending approval does not expire at its moment")
	}
	a.State = keys.ApprovalRejected
	if a.StateAt(t0) != keys.ApprovalRejected {
		t.Error("a rejected approval expires")
	}
	u := keys.Usage{Applied: 1, Processed: 2, Bytes: 3, LastUse: t0}
	u.Add(keys.Usage{Applied: 10, Processed: 20, Bytes: 30, LastUse: t0.Add(-1)})
	if u != (keys.Usage{Applied: 11, Processed: 22, Bytes: 33, LastUse: t0}) {
		t.Errorf("sum %+v", u)
	}
	seen := map[keys.NoticeType]bool{}
	for _, n := range keys.NoticeTypes() {
		if seen[n] {
			t.Errorf("%s is there twice", n)
		}
		seen[n] = true
	}
}
