package rotation_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// another returns the engine of another gateway over the same store and token:
// with a snapshot of its own, and a clock that is ahead.
func (k *kit) another(ahead time.Duration, change func(c *rotation.Config)) (*rotation.Engine, *store.Cache) {
	k.t.Helper()
	cache := store.NewCache(k.store, store.CacheConfig{})
	k.must(cache.Refresh(k.t.Context()))
	return k.engine(func(c *rotation.Config) {
		c.Keys, c.Refresh = cache.Keys, cache.Refresh
		c.Now = func() time.Time { return k.now().Add(ahead) }
		if change != nil {
			change(c)
		}
	}), cache
}

// endedOnce checks that each rotation of a key has one end that was told, and
// that the log says the same.
func (k *kit) endedOnce(where, name string) {
	k.t.Helper()
	all, err := k.store.Rotations(k.t.Context(), store.RotationFilter{Key: name})
	k.must(err)
	events, err := k.store.Events(k.t.Context(), 0, 100_000)
	k.must(err)
	ends := map[string][]keys.NoticeType{}
	for _, n := range events {
		if n.Rotation != "" && (n.Type == keys.NoticeActivated || n.Type == keys.NoticeAborted) {
			ends[n.Rotation] = append(ends[n.Rotation], n.Type)
		}
	}
	told := map[string]string{}
	for _, r := range k.records() {
		if r.Rotation != "" && (r.Action == "rotate" || r.Action == "create-key") && r.Outcome != audit.OutcomeIntent {
			if before, ok := told[r.Rotation]; ok && before != r.Outcome {
				k.t.Errorf("%s: the log says that rotation %s ended with %q and with %q", where, r.Rotation, before, r.Outcome)
			}
			told[r.Rotation] = r.Outcome
		}
	}
	for _, r := range all {
		if n := len(ends[r.ID]); n > 1 || n == 0 && r.Reason != keys.ReasonInitial {
			k.t.Errorf("%s: rotation %s, %s, was told to end %d times: %v", where, r.ID, r.Phase, n, ends[r.ID])
		}
		want := map[keys.Phase]string{keys.PhaseCompleted: audit.OutcomeOK, keys.PhaseAborted: audit.OutcomeError}[r.Phase]
		if told[r.ID] != want {
			k.t.Errorf("%s: rotation %s is %s, and the log says %q", where, r.ID, r.Phase, told[r.ID])
		}
	}
}

// onPostgres are the scenes that are played on PostgreSQL: what makes a
// version, what switches, and what undoes.
var onPostgres = map[string]bool{"rotate": true, "revoke the active": true, "abort what is announced": true, "switch by the clock": true}

// TestKilled lets a gateway die at every step of every scene while another one
// goes on: at first the other leaves alone what the dead one holds, and when
// its leases have lapsed it brings everything to an end.
func TestKilled(t *testing.T) {
	t.Parallel()
	for name, s := range scenes() {
		for _, done := range bothOrOne(name) {
			t.Run(fmt.Sprint(name, ", done ", done), func(t *testing.T) {
				t.Parallel()
				k := newKit(t)
				if onPostgres[name] {
					k = newPostgresKit(t)
				}
				other, cache := k.another(2*time.Second, nil)
				k.must(other.Tick(t.Context())) // looks at the tokens, for the next hour
				for at := 1 + len(name)%stride; !t.Failed(); at += stride {
					key := fmt.Sprint("key-", at)
					m := &mortal{done: done}
					e, _ := k.another(0, m.change)
					k.must(e.Tick(t.Context()))
					before := k.stage(s, key)
					m.arm(at)
					if _ = s.act(t.Context(), k, e, key); !m.dead {
						break
					}
					k.must(cache.Refresh(t.Context()))
					k.must(other.Tick(t.Context()))
					k.lapse()
					k.must(cache.Refresh(t.Context()))
					k.settle(other)
					where := fmt.Sprint("step ", at)
					k.whole(where, key, before)
					k.endedOnce(where, key)
				}
			})
		}
	}
}

// TestPaused lets a gateway stand still at every step of every scene, for
// longer than its leases last, and then go on where it was: what another one
// has done meanwhile stays as it is.
func TestPaused(t *testing.T) {
	t.Parallel()
	for name, s := range scenes() {
		for _, done := range bothOrOne(name) {
			t.Run(fmt.Sprint(name, ", done ", done), func(t *testing.T) {
				t.Parallel()
				k := newKit(t)
				if onPostgres[name] {
					k = newPostgresKit(t)
				}
				for at := 1 + len(name)%stride; !t.Failed(); at += stride {
					before, key := k.pause(s, fmt.Sprint("key-", at), at, done)
					if before == nil {
						break
					}
					where := fmt.Sprint("step ", at)
					k.whole(where, key, before)
					k.endedOnce(where, key)
				}
			})
		}
	}
}

// pause plays a scene with a new key, lets the process stand still at a step
// while another one does everything, and then go on. It returns the key as it
// was before, or nil if the scene did not come as far as the step.
func (k *kit) pause(s scene, name string, at int, done bool) (before *keys.Key, key string) {
	k.t.Helper()
	ctx := k.t.Context()
	m := &mortal{done: done}
	e, _ := k.another(0, m.change)
	k.must(e.Tick(ctx)) // looks at the tokens, for the next hour
	other, cache := k.another(-2*time.Second, nil)
	k.must(other.Tick(ctx))
	before = k.stage(s, name)
	m.mu.Lock()
	m.asleep, m.wake = make(chan struct{}), make(chan struct{})
	m.mu.Unlock()
	m.arm(at)
	ended := make(chan error, 1)
	go func() { ended <- s.act(ctx, k, e, name) }()
	select {
	case <-m.asleep:
	case <-ended:
		close(m.wake)
		return nil, name
	}
	k.must(cache.Refresh(ctx))
	k.must(other.Tick(ctx))
	k.lapse()
	k.must(cache.Refresh(ctx))
	k.settle(other)
	close(m.wake)
	err := <-ended
	k.must(cache.Refresh(ctx))
	k.settle(other)
	if err == nil && !s.done(k, name) {
		k.t.Errorf("step %d: it was not done, and the caller was told that it was", at)
	}
	return before, name
}

// TestStartTogether: gateways that start at the same moment, over a store that
// is empty or has something under way, make one key and end one rotation.
func TestStartTogether(t *testing.T) {
	t.Parallel()
	for name, newKit := range kits {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			startTogether(t, newKit(t))
		})
	}
}

func startTogether(t *testing.T, k *kit) {
	t.Helper()
	k.create("payments", keys.Policy{})
	m := &mortal{at: 5}
	dying, _ := k.another(0, m.change)
	if _, err := dying.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual}); err == nil {
		t.Fatal("it did not die")
	}
	k.phase("payments", keys.PhaseReserved)
	k.lapse()
	const n = 4
	ended := make(chan error, n)
	for i := range n {
		e, cache := k.another(time.Duration(i)*time.Second, nil)
		go func() {
			ended <- func() error {
				ctx := t.Context()
				for _, step := range []func(context.Context) error{e.ReconcileAtStart, e.Recover, e.EnsureAuditKey, cache.Refresh, e.Tick} {
					if err := step(ctx); err != nil {
						return err
					}
				}
				if keys, err := cache.Keys(); err != nil || len(keys) != 2 {
					return fmt.Errorf("%d keys: %w", len(keys), err)
				}
				return nil
			}()
		}()
	}
	for range n {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	audit := k.key(keys.AuditKeyName)
	if len(audit.Versions) != 1 || audit.ActiveAt(k.now()) == nil {
		t.Errorf("the audit key has %d versions", len(audit.Versions))
	}
	k.phase("payments", keys.PhaseCompleted)
	if v := k.key("payments").Versions; len(v) != 2 {
		t.Errorf("%d versions", len(v))
	}
	k.consistent()
}

// TestAuditKeyIsTakenOver: the gateway that makes the audit key dies, and one
// that waits for it makes it.
func TestAuditKeyIsTakenOver(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	m := &mortal{at: 6}
	dying, _ := k.another(0, m.change)
	if err := dying.EnsureAuditKey(t.Context()); err == nil {
		t.Fatal("it did not die")
	}
	k.phase(keys.AuditKeyName, keys.PhaseReserved)
	waits := make(chan error, 1)
	go func() { waits <- k.EnsureAuditKey(t.Context()) }()
	select {
	case err := <-waits:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	k.lapse()
	if err := <-waits; err != nil {
		t.Fatal(err)
	}
	if n := k.active(keys.AuditKeyName); n != 1 {
		t.Errorf("version %d is active", n)
	}
	k.consistent()
}

// TestPausedAtAnEnd is TestPaused for what takes versions and keys to their
// end: of a version that was restored, or is in use, nothing is destroyed.
func TestPausedAtAnEnd(t *testing.T) {
	t.Parallel()
	all := endScenes()
	delete(all, "delete, one is announced") // it ends otherwise while the one who orders sleeps
	for name, s := range all {
		for _, done := range bothOrOne(name) {
			t.Run(fmt.Sprint(name, ", done ", done), func(t *testing.T) {
				t.Parallel()
				k := newKit(t)
				over := false
				for at := 1 + len(name)%stride; !t.Failed() && !over; at += stride {
					m := &mortal{done: done, asleep: make(chan struct{}), wake: make(chan struct{})}
					key := fmt.Sprint("key-", at)
					k.stage(s.scene, key)
					e, _ := k.another(0, func(c *rotation.Config) { m.change(c); c.Token = inspectMortal{c.Token, m} })
					other, cache := k.another(2*time.Second, nil)
					m.arm(at)
					ended := make(chan error, 1)
					go func() { ended <- s.act(t.Context(), k, e, key) }()
					var err error
					select {
					case <-m.asleep:
						k.lapse()
						k.must(cache.Refresh(t.Context()))
						k.settle(other)
						close(m.wake)
						err = <-ended
					case err = <-ended:
						over = true
					}
					k.must(cache.Refresh(t.Context()))
					k.settle(other)
					k.ended(s, fmt.Sprint("step ", at), key, err == nil)
				}
			})
		}
	}
}

// TestOrdersElsewhere: an order about a rotation that another gateway works
// on is carried out by that one and answered by this one; by this one, when
// the other is dead.
func TestOrdersElsewhere(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]keys.Phase{"activate": keys.PhaseCompleted, "abort": keys.PhaseAborted} {
		for _, dies := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", dies ", dies), func(t *testing.T) {
				t.Parallel()
				k := newKit(t)
				k.create("payments", keys.Policy{Announce: time.Hour})
				m := &mortal{at: 6, asleep: make(chan struct{}), wake: make(chan struct{})}
				e, _ := k.another(0, m.change)
				rotated := make(chan error, 1)
				go func() {
					_, err := e.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual})
					rotated <- err
				}()
				<-m.asleep
				r := k.phase("payments", keys.PhaseReserved)
				other, _ := k.another(0, nil)
				give := map[string]func(context.Context, rotation.Actor, string, string) (*keys.Rotation, error){
					"activate": other.ActivateRotation, "abort": other.AbortRotation,
				}[name]
				answered := make(chan *keys.Rotation, 1)
				go func() {
					r, err := give(t.Context(), bob, r.ID, "")
					if err != nil {
						t.Error(err)
					}
					answered <- r
				}()
				k.until(func() bool { r := k.latest("payments"); return r.ForcedBy != "" || r.EndedBy != "" })
				if dies {
					m.mu.Lock()
					m.dead = true
					m.mu.Unlock()
					k.lapse()
					if got := <-answered; got == nil || got.Phase != want {
						t.Errorf("answered: %+v", got)
					}
					close(m.wake)
					<-rotated
				} else {
					close(m.wake)
					if err := <-rotated; (err == nil) != (want == keys.PhaseCompleted) {
						t.Error(err)
					}
					if got := <-answered; got == nil || got.Phase != want {
						t.Errorf("answered: %+v", got)
					}
				}
				k.phase("payments", want)
				k.endedOnce(name, "payments")
				k.consistent()
			})
		}
	}
}

// beat is a heartbeat of another gateway, that has seen a revision.
func (k *kit) beat(name string, revision uint64, lapse time.Duration) {
	k.t.Helper()
	k.must(k.store.Beat(k.t.Context(), keys.Node{Instance: "instance-of-" + name, Name: name, Version: "1", Revision: revision}, lapse))
}

func (k *kit) revision() uint64 {
	k.t.Helper()
	_, revision, err := k.store.Nodes(k.t.Context())
	k.must(err)
	return revision
}

// TestBarrier: no object is destroyed before every gateway that uses keys
// knows that it must not be used; one that is not heard any more is not
// waited for.
func TestBarrier(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		policy  keys.Policy
		prepare func(k *kit)
		act     func(k *kit) error
	}{
		"abort": {policy: announces, prepare: func(k *kit) { k.begin("payments", rotation.RotateSpec{}) }, act: func(k *kit) error {
			r, err := k.AbortRotation(k.t.Context(), alice, k.latest("payments").ID, "")
			if err == nil && r.Phase == keys.PhaseAborted {
				k.t.Error("it is aborted, and a gateway does not know")
			}
			return err
		}},
		"destroy": {prepare: func(k *kit) {
			k.rotate("payments")
			_, err := k.Destroy(k.t.Context(), alice, "payments", 1, rotation.DestroySpec{})
			k.must(err)
			k.pass(25 * time.Hour)
		}, act: func(*kit) error { return nil }},
		"delete": {prepare: func(k *kit) {
			_, err := k.DeleteKey(k.t.Context(), alice, "payments", rotation.DestroySpec{})
			k.must(err)
			k.pass(25 * time.Hour)
		}, act: func(*kit) error { return nil }},
	} {
		for _, dies := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", dies ", dies), func(t *testing.T) {
				t.Parallel()
				k := newKit(t)
				k.create("payments", c.policy)
				c.prepare(k)
				before := k.revision()
				k.beat("slow", before-1, time.Hour)
				k.beat("dead", 0, time.Microsecond)
				objects := len(k.hsm.Objects())
				k.must(c.act(k))
				for range 3 {
					k.tick()
					k.pass(time.Second)
				}
				if n := len(k.hsm.Objects()); n != objects {
					t.Fatalf("%d objects, there were %d: one was destroyed that a gateway may use", n, objects)
				}
				if dies {
					k.must(k.store.Leave(t.Context(), "instance-of-slow"))
				} else {
					k.beat("slow", k.revision(), time.Hour)
				}
				for range 3 {
					k.tick()
					k.pass(time.Second)
				}
				if n := len(k.hsm.Objects()); n != objects-1 {
					t.Errorf("%d objects, want %d", n, objects-1)
				}
				k.consistent()
			})
		}
	}
}

// TestObjectsOfATry: two gateways die one after the other while they make one
// version. A third one makes it; of what the others made on the token nothing
// stays, also if it comes late.
func TestObjectsOfATry(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	m := &mortal{at: 5, done: true} // the lease, the row, the intent, the destruction, the generation
	dying, _ := k.another(0, m.change)
	if _, err := dying.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual}); err == nil {
		t.Fatal("it did not die")
	}
	k.phase("payments", keys.PhaseReserved)
	first := k.key("payments").Versions[1].ObjectID
	if n := len(k.hsm.Objects()); n != 2 {
		t.Fatalf("%d objects: it did not die behind the generation", n)
	}
	k.lapse()
	m = &mortal{at: 3, done: true} // the lease, the new CKA_ID, the intent
	dying, _ = k.another(0, m.change)
	_ = dying.Tick(t.Context())
	k.phase("payments", keys.PhaseReserved)
	second := k.key("payments").Versions[1].ObjectID
	if second == first {
		t.Fatal("it is taken over under the same CKA_ID")
	}
	k.lapse()
	k.tick()
	k.phase("payments", keys.PhaseCompleted)
	third := k.key("payments").Versions[1].ObjectID
	if third == second || third == first {
		t.Error("it is taken over under the same CKA_ID")
	}
	k.consistent()
	// What the first one has made on the token comes to light.
	ref := k.key("payments").Ref(k.key("payments").Versions[1])
	ref.ID, ref.PublicKey, ref.Check = first, nil, nil
	k.hsm.Plant(keys.TokenObject{Token: ref.Token, Class: keys.ClassPrivate, Label: ref.Label, ID: first[:], Algorithms: []keys.Algorithm{keys.ES256}, Bits: 256})
	report, err := k.Reconcile(t.Context(), alice, false)
	k.must(err)
	if len(report.Findings) != 1 || report.Findings[0].Action != rotation.FindingRepaired || report.Findings[0].Kind != rotation.FindingNotDestroyed {
		t.Errorf("%+v", report.Findings)
	}
	if report, err = k.Reconcile(t.Context(), alice, false); err != nil || len(report.Findings) != 0 {
		t.Errorf("%+v, %v", report.Findings, err)
	}
	k.consistent()
}

// TestMarkOfTheDead: a gateway that revokes a version and dies leaves no mark
// on the token; another one does, once.
func TestMarkOfTheDead(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.rotate("payments")
	other, cache := k.another(0, nil)
	k.must(other.Tick(t.Context()))
	m := &mortal{at: 2, done: true} // the intent, the revocation
	dying, _ := k.another(0, m.change)
	if _, err := dying.Revoke(t.Context(), alice, "payments", 1, "leaked"); err == nil {
		t.Fatal("it did not die")
	}
	if n := k.faulty.Calls(hsmtest.MarkRevoked); n != 0 {
		t.Fatalf("%d marks before it died", n)
	}
	k.faulty.Fail(hsmtest.MarkRevoked, 1, hsmtest.NotDone, keys.ErrHSM)
	for range 10 {
		k.must(cache.Refresh(t.Context()))
		k.must(other.Tick(t.Context()))
		k.pass(time.Second)
	}
	marks, err := k.hsm.Revoked(t.Context(), k.key("payments").Token)
	if err != nil || len(marks) != 1 || marks[0].Version != (keys.VersionID{Key: "payments", Number: 1}) {
		t.Errorf("%+v, %v", marks, err)
	}
	if n := k.faulty.Calls(hsmtest.MarkRevoked); n != 2 {
		t.Errorf("%d attempts, want 2", n)
	}
}

// TestMarkBeforeSuccessor: the token is marked before the successor is made.
func TestMarkBeforeSuccessor(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	entered, release := k.faulty.Block(hsmtest.Generate, 1)
	revoked := make(chan error, 1)
	go func() {
		_, err := k.Revoke(t.Context(), alice, "payments", 1, "leaked")
		revoked <- err
	}()
	<-entered
	if marks, err := k.hsm.Revoked(t.Context(), k.key("payments").Token); err != nil || len(marks) != 1 {
		t.Errorf("%d marks, %v", len(marks), err)
	}
	release()
	k.must(<-revoked)
}
