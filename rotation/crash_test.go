package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/audit/lookup"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// TestCrashes lets the process die at every step of every scene, before and
// after the step took effect, and starts another one: it finishes or undoes
// what was begun, and leaves no object and no rotation behind.
func TestCrashes(t *testing.T) {
	t.Parallel()
	for name, s := range scenes() {
		for _, done := range bothOrOne(name) {
			t.Run(fmt.Sprint(name, ", done ", done), func(t *testing.T) {
				t.Parallel()
				k := newKit(t)
				for at := 1 + len(name)%stride; k.crash(s, fmt.Sprint("key-", at), at, done); at += stride {
					if t.Failed() {
						t.Fatalf("at step %d", at)
					}
				}
				k.toldOf()
				k.answered()
			})
		}
	}
}

// answered checks that each intent in the log has an outcome behind it.
func (k *kit) answered() {
	k.t.Helper()
	open, rotations := map[uint64]audit.Record{}, map[string]uint64{}
	for _, r := range k.records() {
		own := r.Action == "rotate" || r.Action == "create-key"
		switch {
		case r.Outcome == audit.OutcomeIntent:
			open[r.Seq] = r
			if own {
				rotations[r.Rotation] = r.Seq
			}
		case r.Intent != nil:
			if _, ok := open[*r.Intent]; !ok && !own {
				k.t.Errorf("an outcome of what has an outcome, or was not intended: %+v", r)
			}
			delete(open, *r.Intent)
		}
		if seq, ok := rotations[r.Rotation]; ok && own && r.Outcome != audit.OutcomeIntent {
			if r.Intent == nil || *r.Intent != seq {
				k.t.Errorf("the outcome of a rotation does not name its intent, %d: %+v", seq, r)
			}
			for seq, r2 := range open { // a try before
				if r2.Rotation == r.Rotation && r2.Action == r.Action {
					delete(open, seq)
				}
			}
		}
	}
	for _, r := range open {
		k.t.Errorf("an intent without an outcome: %+v", r)
	}
}

// TestLateOutcomes: what was going on when a process ended has its outcome
// after the next start, as the store tells it; starts that failed in between
// do not hide it.
func TestLateOutcomes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		act    func(ctx context.Context, e *rotation.Engine) error
		action string
	}{
		"suspend": {func(ctx context.Context, e *rotation.Engine) error {
			_, err := e.Suspend(ctx, alice, "payments", 2, "odd")
			return err
		}, "suspend"},
		"revoke": {func(ctx context.Context, e *rotation.Engine) error {
			_, err := e.Revoke(ctx, alice, "payments", 1, "leaked")
			return err
		}, "revoke"},
		"update": {func(ctx context.Context, e *rotation.Engine) error {
			_, err := e.UpdateKey(ctx, alice, "payments", rotation.Update{Policy: &keys.Policy{Overlap: 5 * time.Hour}})
			return err
		}, "update-key"},
	} {
		for done, want := range map[bool]string{false: audit.OutcomeError, true: audit.OutcomeOK} {
			t.Run(fmt.Sprint(name, ", done ", done), func(t *testing.T) {
				t.Parallel()
				k := newKit(t)
				k.create("payments", keys.Policy{})
				k.rotate("payments")
				start := func() {
					_, err := k.log.Append(t.Context(), audit.Record{Action: "start", Principal: "system", Outcome: audit.OutcomeOK})
					k.must(err)
				}
				start()
				m := &mortal{}
				e := k.engine(func(c *rotation.Config) { c.Store, c.Audit = dyingStore{c.Store, m, done}, mortalAudit{c.Audit, m} })
				if err := c.act(t.Context(), e); err == nil {
					t.Fatal("it did not die")
				}
				start()
				k.pass(time.Hour)
				start()
				k.reload()
				k.must(k.Recover(t.Context()))
				k.must(k.engine(nil).Recover(t.Context())) // says nothing again
				k.answered()
				if r := k.outcome("payments", c.action); r.Outcome != want || r.Principal != alice.Principal || !strings.HasPrefix(r.Reason, "interrupted") {
					t.Errorf("%+v", r)
				}
			})
		}
	}
}

// dyingStore dies in its first commit, before it is done or after.
type dyingStore struct {
	rotation.Store
	m    *mortal
	done bool
}

func (d dyingStore) Commit(ctx context.Context, c store.Change) error {
	if d.done {
		if err := d.Store.Commit(ctx, c); err != nil {
			return err
		}
	}
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.m.dead = true
	return errDead
}

// crash lets a process play a scene with a new key and die, and another one
// take over. It reports whether the scene came as far as the step.
func (k *kit) crash(s scene, name string, at int, done bool) bool {
	k.t.Helper()
	m := &mortal{done: done}
	e := k.engine(m.change)
	k.must(e.Tick(k.t.Context())) // looks at the tokens, for the next hour
	before := k.stage(s, name)
	m.arm(at)
	if err := s.act(k.t.Context(), k, e, name); !m.dead {
		if err != nil {
			k.t.Errorf("nothing failed, and yet: %v", err)
		}
		k.settle(k.Engine)
		if !s.done(k, name) {
			k.t.Error("nothing failed, and yet it is not done")
		}
		return false
	}
	k.reload()
	if err := k.Recover(k.t.Context()); err != nil {
		k.t.Errorf("Recover: %v", err)
	}
	k.settle(k.Engine)
	k.whole("after the restart", name, before)
	return true
}

// toldOf checks that each version that was made has an outcome in the log,
// the right one, and an intent before it.
func (k *kit) toldOf() {
	k.t.Helper()
	intended, told := map[string]bool{}, map[string]string{}
	for _, r := range k.records() {
		switch {
		case r.Action != "rotate" && r.Action != "create-key":
		case r.Outcome == audit.OutcomeIntent:
			intended[r.KeyID] = true
		case intended[r.KeyID]:
			told[r.KeyID] = r.Outcome
		}
	}
	all, _, err := k.store.Load(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	for _, key := range all {
		for _, v := range key.Versions {
			want := audit.OutcomeOK
			if v.ActivatedAt.IsZero() {
				want = audit.OutcomeError // its rotation was aborted
			}
			if id := key.ID(v).String(); !v.CreatedAt.IsZero() && told[id] != want {
				k.t.Errorf("version %s is there, and the log says %q of its rotation, want %q", id, told[id], want)
			}
		}
	}
}

// TestRecoverReadsAnew: between the list of open rotations and the look at
// one of them it may have ended, and its version sign.
func TestRecoverReadsAnew(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	ended := make(chan error, 1)
	entered, release := k.faulty.Block(hsmtest.Generate, 1)
	l := &listing{Store: k.store, then: sync.OnceFunc(func() {
		release()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})}
	e := k.engine(func(c *rotation.Config) { c.Store = l })
	go func() {
		_, err := e.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual})
		ended <- err
	}()
	<-entered
	if err := e.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := k.active("payments"); n != 2 {
		t.Errorf("version %d is active", n)
	}
	k.consistent()
	if n := k.faulty.Calls(hsmtest.Generate); n != 2 {
		t.Errorf("%d versions were generated, want 2", n)
	}
}

// TestVersionInTheMaking: what is not generated yet cannot be suspended or
// revoked; the rotation that makes it would never come to an end.
func TestVersionInTheMaking(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	ctx := t.Context()
	entered, release := k.faulty.Block(hsmtest.Generate, 1)
	rotated := make(chan error, 1)
	go func() {
		_, err := k.Rotate(ctx, alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual})
		rotated <- err
	}()
	<-entered
	for name, act := range map[string]func(context.Context, rotation.Actor, string, uint32, string) (*keys.Key, error){
		"Suspend": k.Suspend, "Resume": k.Resume, "Revoke": k.Revoke,
	} {
		if _, err := act(ctx, alice, "payments", 2, ""); !errors.Is(err, keys.ErrVersionNotFound) {
			t.Errorf("%s: %v, want ErrVersionNotFound", name, err)
		}
	}
	release()
	if err := <-rotated; err != nil {
		t.Error(err)
	}
	if n := k.active("payments"); n != 2 {
		t.Errorf("version %d is active", n)
	}
	k.consistent()
}

// TestDueIsDecidedByTheStore: a snapshot that does not know of a rotation yet
// must not bring about a second one.
func TestDueIsDecidedByTheStore(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Period: time.Hour})
	k.pass(2 * time.Hour)
	old, err := k.cache.Keys()
	if err != nil {
		t.Fatal(err)
	}
	behind := k.engine(func(c *rotation.Config) { c.Keys = func() ([]*keys.Key, error) { return old, nil } })
	k.tick()
	for range 3 {
		if err := behind.Tick(t.Context()); err != nil {
			t.Error(err)
		}
		k.pass(time.Second)
	}
	if n := k.active("payments"); n != 2 {
		t.Errorf("version %d is active, want 2", n)
	}
	k.consistent()
}

// TestSuccessorOfARevokedVersion: it is made as soon as the HSM can, also
// when an older version signs in the meantime or another one is suspended.
func TestSuccessorOfARevokedVersion(t *testing.T) {
	t.Parallel()
	for _, suspended := range []bool{false, true} {
		k := newKit(t)
		k.create("payments", keys.Policy{})
		k.pass(time.Second)
		k.rotate("payments")
		k.pass(time.Second)
		if suspended {
			if _, err := k.Suspend(t.Context(), alice, "payments", 1, ""); err != nil {
				t.Fatal(err)
			}
		}
		k.faulty.Fail(hsmtest.Generate, 1, hsmtest.NotDone, keys.ErrHSM)
		key, err := k.Revoke(t.Context(), alice, "payments", 2, "leaked")
		if err != nil {
			t.Fatalf("the revocation must stand: %v", err)
		}
		if v, err := key.Version(2); err != nil || v.RevokedAt.IsZero() {
			t.Errorf("version 2 is not revoked, %v", err)
		}
		k.pass(time.Second)
		for range 3 {
			k.tick()
			k.pass(time.Second)
		}
		// Number 3 was taken by the attempt that failed.
		if n := k.active("payments"); n != 4 || k.key("payments").Latest().Number != 4 {
			t.Errorf("suspended %v: version %d is active, want 4; the latest is %d", suspended, n, k.key("payments").Latest().Number)
		}
		k.consistent()
	}
}

// TestOneSuccessor: a revocation brings one successor, whoever makes it.
func TestOneSuccessor(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.pass(time.Second)
	if _, err := k.Revoke(t.Context(), alice, "payments", 1, "leaked"); err != nil {
		t.Fatal(err)
	}
	k.pass(time.Second)
	k.tick()
	k.tick()
	if n := k.active("payments"); n != 2 || k.key("payments").Latest().Number != 2 {
		t.Errorf("version %d is active, the latest is %d", n, k.key("payments").Latest().Number)
	}
	k.rotate("payments")
	k.pass(time.Second)
	if _, err := k.Revoke(t.Context(), alice, "payments", 2, "leaked too"); err != nil {
		t.Fatal(err)
	}
	if n := k.key("payments").Latest().Number; n != 3 {
		t.Errorf("the revocation of an old version made version %d", n)
	}
	k.consistent()
}

// countingHistory counts the questions about the log.
type countingHistory struct {
	rotation.History
	asked atomic.Int32
}

func (h *countingHistory) Newest(ctx context.Context, f lookup.Filter, before uint64, limit int) (lookup.Page, error) {
	h.asked.Add(1)
	return h.History.Newest(ctx, f, before, limit)
}

// The log of a node begins with its first start: nothing is looked for in
// front of that.
func TestLookingBackEnds(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	_, err := k.log.Append(t.Context(), audit.Record{Action: "start", Principal: "system", Outcome: audit.OutcomeOK})
	k.must(err)
	k.create("payments", keys.Policy{})
	h := &countingHistory{}
	e := k.engine(func(c *rotation.Config) { h.History = c.History; c.History = h })
	k.must(e.Recover(t.Context()))
	if n := h.asked.Load(); n == 0 || n > 10 {
		t.Errorf("the log was asked %d times", n)
	}
}
