package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// hasStates checks the states of all versions, version 1 first.
func (k *kit) hasStates(name string, want ...keys.State) {
	k.t.Helper()
	key := k.key(name)
	var got []keys.State
	for _, v := range key.Versions {
		got = append(got, key.StateAt(v, k.now()))
	}
	if !slices.Equal(got, want) {
		k.t.Errorf("the versions of %s are %v, want %v", name, got, want)
	}
}

// noticed returns the notices of one type about a key.
func (k *kit) noticed(name string, t keys.NoticeType) (all []keys.Notice) {
	k.t.Helper()
	events, err := k.store.Events(k.t.Context(), 0, 10_000)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, n := range events {
		if n.Key == name && n.Type == t {
			all = append(all, n)
		}
	}
	return all
}

// recorded returns the records about a key with an action.
func (k *kit) recorded(name, action string) (all []audit.Record) {
	k.t.Helper()
	for _, r := range k.records() {
		if r.Key == name && r.Action == action {
			all = append(all, r)
		}
	}
	return all
}

// acted checks that the log has an intent and an outcome of an action on a
// key.
func (k *kit) acted(name, action string) audit.Record {
	k.t.Helper()
	all := k.recorded(name, action)
	for _, r := range all {
		if r.Outcome == audit.OutcomeOK && r.Intent != nil && slices.ContainsFunc(all, func(i audit.Record) bool { return i.Seq == *r.Intent && i.Outcome == audit.OutcomeIntent }) {
			return r
		}
	}
	k.t.Errorf("the log has no intent and outcome of %s on %s: %+v", action, name, all)
	return audit.Record{}
}

// use lets an agent verify with a version.
func (k *kit) use(name string, n uint32, principal string) {
	k.t.Helper()
	if err := k.meter.Count(k.t.Context(), name, n, principal, keys.UseProcess, 32); err != nil {
		k.t.Fatal(err)
	}
}

// TestArchive: a predecessor is archived when its overlap is over, and not
// before; without an end of the overlap, never.
func TestArchive(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	for name, p := range map[string]keys.Policy{"ends": {Overlap: time.Hour}, "named": {Overlap: time.Hour, AfterOverlap: keys.OverlapArchive}, "stays": {}} {
		k.create(name, p)
		k.pass(time.Second)
		k.rotate(name)
	}
	k.pass(time.Hour - time.Minute)
	k.tick()
	k.hasStates("ends", keys.Deactivated, keys.Active)
	k.pass(2 * time.Minute)
	k.tick()
	k.tick()
	k.hasStates("ends", keys.Archived, keys.Active)
	k.hasStates("named", keys.Archived, keys.Active)
	k.pass(1000 * time.Hour)
	k.tick()
	k.hasStates("stays", keys.Deactivated, keys.Active)
	if n := k.noticed("ends", keys.NoticeArchived); len(n) != 1 || n[0].Version != 1 || n[0].At.IsZero() {
		t.Errorf("notices: %+v", n)
	}
	if r := k.acted("ends", "archive"); r.Version != 1 || r.Principal != audit.SystemPrincipal || r.Details["reason"] == "" {
		t.Errorf("%+v", r)
	}
	if n := len(k.recorded("ends", "archive")); n != 2 {
		t.Errorf("%d records, want an intent and an outcome", n)
	}
	k.consistent()
}

// TestSeveralPredecessors: each has its own overlap; one that is rotated
// twice within it has two.
func TestSeveralPredecessors(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Overlap: 10 * time.Hour})
	for range 3 {
		k.pass(4 * time.Hour)
		k.rotate("payments")
		k.tick()
	}
	k.hasStates("payments", keys.Deactivated, keys.Deactivated, keys.Deactivated, keys.Active)
	k.pass(3 * time.Hour) // 11 h after the first switch
	k.tick()
	k.hasStates("payments", keys.Archived, keys.Deactivated, keys.Deactivated, keys.Active)
	k.pass(20 * time.Hour)
	k.tick()
	k.hasStates("payments", keys.Archived, keys.Archived, keys.Archived, keys.Active)
	k.consistent()
}

// destroying makes a key whose predecessors are destroyed after an hour.
var destroying = keys.Policy{Overlap: time.Hour, AfterOverlap: keys.OverlapDestroy, DestroyDelay: 48 * time.Hour}

// TestEndOfAVersion: overlap, order, delay, destruction, absence.
func TestEndOfAVersion(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", destroying)
	k.pass(time.Second)
	k.rotate("payments")
	k.pass(time.Hour)
	k.tick()
	k.hasStates("payments", keys.DestroyScheduled, keys.Active)
	at := k.key("payments").Versions[0].DestroyAt
	if d := at.Sub(k.now()); d > 48*time.Hour || d < 47*time.Hour {
		t.Errorf("it is destroyed in %s, want 48h", d)
	}
	if n := k.noticed("payments", keys.NoticeDestroyScheduled); len(n) != 1 || n[0].Version != 1 || !n[0].When.Equal(at) {
		t.Errorf("notices: %+v", n)
	}
	k.pass(48*time.Hour - time.Minute)
	k.tick()
	k.hasStates("payments", keys.DestroyScheduled, keys.Active)
	if !slices.Contains(k.hsm.Objects(), "payments.v1") {
		t.Error("it was destroyed a minute early")
	}
	k.pass(2 * time.Minute)
	k.tick()
	k.tick()
	k.hasStates("payments", keys.Destroyed, keys.Active)
	if slices.Contains(k.hsm.Objects(), "payments.v1") {
		t.Error("the objects are still there")
	}
	if n := k.noticed("payments", keys.NoticeDestroyed); len(n) != 1 || n[0].Version != 1 {
		t.Errorf("notices: %+v", n)
	}
	k.acted("payments", "destroy")
	if r := k.acted("payments", "destroy-objects"); r.KeyID != "payments.v1" || r.Details["cka_id"] == "" || r.Details["destroy_at"] == "" {
		t.Errorf("%+v", r)
	}
	// The number does not come back.
	k.rotate("payments")
	if n := k.active("payments"); n != 3 {
		t.Errorf("version %d is active, want 3", n)
	}
	k.consistent()
}

// TestKeptWhileUsed: a predecessor that somebody still uses is kept, that is
// told once a day, and when it is over the version goes.
func TestKeptWhileUsed(t *testing.T) {
	t.Parallel()
	for _, way := range []keys.AfterOverlap{keys.OverlapArchive, keys.OverlapDestroy} {
		k := newKit(t)
		p := destroying
		p.AfterOverlap = way
		k.create("payments", p)
		k.pass(time.Second)
		k.use("payments", 1, "jwt:corp:early") // before the switch: that does not hold it up
		k.pass(time.Second)
		k.rotate("payments")
		for range 3 * 24 * 60 / 50 {
			k.pass(50 * time.Minute)
			k.use("payments", 1, "jwt:corp:batch")
			k.tick()
		}
		k.hasStates("payments", keys.Deactivated, keys.Active)
		told := k.recorded("payments", "retire")
		if len(told) != 3 {
			t.Errorf("%s: told %d times in three days", way, len(told))
		}
		for _, r := range told {
			if r.Outcome != audit.OutcomeDenied || r.Version != 1 || !strings.Contains(r.Details["user_1"], "jwt:corp:batch") || r.Details["user_2"] != "" {
				t.Errorf("%s: %+v", way, r)
			}
		}
		k.pass(time.Hour)
		k.tick()
		k.hasStates("payments", map[keys.AfterOverlap]keys.State{keys.OverlapArchive: keys.Archived, keys.OverlapDestroy: keys.DestroyScheduled}[way], keys.Active)
		k.consistent()
	}
}

// TestPolicyChanges: what counts is the policy at the moment of the step.
func TestPolicyChanges(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", destroying)
	k.pass(time.Second)
	k.rotate("payments")
	k.pass(2 * time.Hour)
	if _, err := k.UpdateKey(t.Context(), alice, "payments", rotation.Update{Policy: &keys.Policy{Overlap: 10 * time.Hour}}); err != nil {
		t.Fatal(err)
	}
	k.tick()
	k.hasStates("payments", keys.Deactivated, keys.Active)
	old, err := k.cache.Keys()
	if err != nil {
		t.Fatal(err)
	}
	k.pass(10 * time.Hour)
	if _, err := k.UpdateKey(t.Context(), alice, "payments", rotation.Update{Policy: &keys.Policy{}}); err != nil {
		t.Fatal(err)
	}
	// A snapshot that is behind decides nothing.
	behind := k.engine(func(c *rotation.Config) { c.Keys = func() ([]*keys.Key, error) { return old, nil } })
	if err := behind.Tick(t.Context()); err != nil {
		t.Error(err)
	}
	k.hasStates("payments", keys.Deactivated, keys.Active)
	if n := len(k.recorded("payments", "archive")); n != 0 {
		t.Errorf("%d records of an act that was not due", n)
	}
}

// TestDestructionFails: the HSM fails in every way; it is tried again after a
// pause, another version is not held up, and what is destroyed is gone.
func TestDestructionFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(f *hsmtest.Faulty){
		"destroy not done":    func(f *hsmtest.Faulty) { f.Fail(hsmtest.Destroy, 1, hsmtest.NotDone, keys.ErrHSM) },
		"destroy done":        func(f *hsmtest.Faulty) { f.Fail(hsmtest.Destroy, 1, hsmtest.Done, keys.ErrHSM) },
		"no proof of absence": func(f *hsmtest.Faulty) { f.Fail(hsmtest.Inspect, 1, hsmtest.NotDone, keys.ErrHSM) },
	} {
		k := newKit(t)
		for _, name := range []string{"a", "b"} {
			k.create(name, keys.Policy{})
			k.pass(time.Second)
			k.rotate(name)
			if _, err := k.Destroy(t.Context(), alice, name, 1, rotation.DestroySpec{}); err != nil {
				t.Fatal(err)
			}
		}
		k.pass(25 * time.Hour)
		fail(k.faulty)
		calls := k.faulty.Calls(hsmtest.Destroy)
		k.tick()
		if a, b := k.state("a", 1), k.state("b", 1); a != keys.DestroyScheduled || b != keys.Destroyed {
			t.Errorf("%s: the versions are %s and %s", name, a, b)
		}
		k.pass(4 * time.Second)
		k.tick()
		if n := k.faulty.Calls(hsmtest.Destroy) - calls; n != 2 {
			t.Errorf("%s: %d attempts within the pause, want 2", name, n)
		}
		k.pass(2 * time.Second)
		k.tick()
		if s := k.state("a", 1); s != keys.Destroyed {
			t.Errorf("%s: the version is %s after the pause", name, s)
		}
		k.acted("a", "destroy-objects")
		failed := slices.ContainsFunc(k.recorded("a", "destroy-objects"), func(r audit.Record) bool { return r.Outcome == audit.OutcomeError })
		if !failed {
			t.Errorf("%s: the log does not say that it failed first", name)
		}
		k.consistent()
	}
}

// TestSurvivingObjects: a token that says that it destroyed, and did not, is
// not believed.
func TestSurvivingObjects(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.pass(time.Second)
	k.rotate("payments")
	if _, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{}); err != nil {
		t.Fatal(err)
	}
	k.pass(25 * time.Hour)
	e := k.engine(func(c *rotation.Config) { c.Token = lying{c.Token} })
	if err := e.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.hasStates("payments", keys.DestroyScheduled, keys.Active)
	if n := len(k.noticed("payments", keys.NoticeDestroyed)); n != 0 {
		t.Errorf("%d notices of a destruction that did not happen", n)
	}
	k.consistent()
}

// TestClockJumps: a destruction waits for an hour when the clock has jumped
// ahead, and does not come at all if it was set right by then.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.pass(time.Second)
	k.rotate("payments")
	if _, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{}); err != nil {
		t.Fatal(err)
	}
	var mono time.Duration
	k.SetElapsed(func(time.Time) time.Duration { return mono })
	both := func(d time.Duration) { mono += d; k.pass(d) }
	want := func(what string, s keys.State) {
		t.Helper()
		k.tick()
		if got := k.state("payments", 1); got != s {
			t.Errorf("%s: the version is %s, want %s", what, got, s)
		}
	}
	want("at first", keys.DestroyScheduled)
	k.pass(30 * time.Hour)
	want("after a jump", keys.DestroyScheduled)
	both(59 * time.Minute)
	want("59 minutes later", keys.DestroyScheduled)
	k.pass(-30 * time.Hour)
	want("set right", keys.DestroyScheduled)
	both(10 * time.Hour)
	want("10 hours later", keys.DestroyScheduled)
	k.pass(20 * time.Hour)
	want("after another jump", keys.DestroyScheduled)
	both(50 * time.Minute)
	want("50 minutes later", keys.DestroyScheduled)
	k.pass(time.Hour)
	want("after one more", keys.DestroyScheduled)
	both(50 * time.Minute)
	want("50 minutes after the last one", keys.DestroyScheduled)
	both(11 * time.Minute)
	want("an hour after the last one", keys.Destroyed)
	k.consistent()
}

// TestClockDrifts: what is no jump holds nothing up, nor does a step back.
func TestClockDrifts(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.pass(time.Second)
	k.rotate("payments")
	if _, err := k.Destroy(t.Context(), alice, "payments", 1, rotation.DestroySpec{}); err != nil {
		t.Fatal(err)
	}
	var mono time.Duration
	k.SetElapsed(func(time.Time) time.Duration { return mono })
	both := func(d time.Duration) { mono += d; k.pass(d) }
	k.tick()
	k.pass(-2 * time.Hour)
	k.tick()
	both(26 * time.Hour)
	k.pass(4 * time.Minute)
	k.tick()
	k.hasStates("payments", keys.Destroyed, keys.Active)
}

// lying says that it destroyed.
type lying struct{ rotation.Token }

func (lying) Destroy(context.Context, keys.Ref) error { return nil }

// TestManyEnds: a tick does not take longer because many versions end at
// once; the next ones do the rest.
func TestManyEnds(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	const n = 8
	for i := range n {
		name := fmt.Sprint("key-", i)
		k.create(name, keys.Policy{Overlap: time.Hour})
		k.pass(time.Second)
		k.rotate(name)
	}
	k.pass(2 * time.Hour)
	archived := func() (sum int) {
		for i := range n {
			if k.state(fmt.Sprint("key-", i), 1) == keys.Archived {
				sum++
			}
		}
		return sum
	}
	for before := 0; before < n; {
		k.tick()
		after := archived()
		if after <= before {
			t.Fatalf("%d of %d are archived, and no more", after, n)
		}
		before = after
	}
	k.consistent()
}

// TestDamagedKeyIsLeftAlone: nothing is done with a key whose rows were
// altered.
func TestDamagedKeyIsLeftAlone(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Overlap: time.Hour})
	k.pass(time.Second)
	k.rotate("payments")
	k.pass(2 * time.Hour)
	e := k.engine(func(c *rotation.Config) {
		c.Keys = func() ([]*keys.Key, error) {
			all, err := k.cache.Keys()
			bad := *all[0]
			bad.Damaged = true
			return []*keys.Key{&bad}, err
		}
	})
	if err := e.Tick(t.Context()); err != nil && !errors.Is(err, keys.ErrTampered) {
		t.Fatal(err)
	}
	k.hasStates("payments", keys.Deactivated, keys.Active)
	if open, err := k.store.Rotations(t.Context(), store.RotationFilter{OpenOnly: true}); err != nil || len(open) != 0 {
		t.Errorf("%v, %v", open, err)
	}
}
