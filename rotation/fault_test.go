package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// hiccup lets one step outward fail, by its number: it is not done, or it is
// done and nobody is told. Everything after it works.
type hiccup struct {
	mu    sync.Mutex
	steps int
	at    int // 0: never
	done  bool
	hit   string // the step that failed
}

func (h *hiccup) step(name string, kind error, do func() error) error {
	h.mu.Lock()
	h.steps++
	fails := h.steps == h.at
	if fails {
		h.hit = name
	}
	h.mu.Unlock()
	if !fails {
		return do()
	}
	if h.done {
		if err := do(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s, step %d: %w", name, h.at, kind)
}

func (h *hiccup) change(c *rotation.Config) {
	c.Store, c.Token, c.Audit = hiccupStore{c.Store, h}, hiccupToken{c.Token, h}, hiccupAudit{c.Audit, h}
	refresh := c.Refresh
	c.Refresh = func(ctx context.Context) error {
		return h.step("refresh", keys.ErrStore, func() error { return refresh(ctx) })
	}
}

type hiccupStore struct {
	rotation.Store
	h *hiccup
}

func (s hiccupStore) Commit(ctx context.Context, c store.Change) error {
	return s.h.step("commit", keys.ErrStore, func() error { return s.Store.Commit(ctx, c) })
}

func (s hiccupStore) Key(ctx context.Context, name string) (k *keys.Key, err error) {
	if herr := s.h.step("read", keys.ErrStore, func() error { k, err = s.Store.Key(ctx, name); return err }); herr != nil {
		return nil, herr
	}
	return k, nil
}

type hiccupToken struct {
	rotation.Token
	h *hiccup
}

func (s hiccupToken) Generate(ctx context.Context, ref keys.Ref) (g keys.Generated, err error) {
	if herr := s.h.step("generate", keys.ErrHSM, func() error { g, err = s.Token.Generate(ctx, ref); return err }); herr != nil {
		return keys.Generated{}, herr
	}
	return g, nil
}

func (s hiccupToken) Destroy(ctx context.Context, ref keys.Ref) error {
	return s.h.step("destroy", keys.ErrHSM, func() error { return s.Token.Destroy(ctx, ref) })
}

type hiccupAudit struct {
	rotation.Auditor
	h *hiccup
}

func (s hiccupAudit) Append(ctx context.Context, recs ...audit.Record) (first uint64, err error) {
	if herr := s.h.step("append", keys.ErrAudit, func() error { first, err = s.Auditor.Append(ctx, recs...); return err }); herr != nil {
		return 0, herr
	}
	return first, nil
}

// TestFaults lets every step of every act fail once, in a process that lives
// on. Whatever the caller was told, the same process then brings everything
// in order by itself.
func TestFaults(t *testing.T) {
	t.Parallel()
	text := "changed"
	for name, act := range map[string]func(ctx context.Context, e *rotation.Engine, key string) error{
		"create": func(ctx context.Context, e *rotation.Engine, key string) error {
			_, err := e.CreateKey(ctx, alice, rotation.Spec{Name: key + "-new", Algorithm: keys.ES256})
			return err
		},
		"rotate": func(ctx context.Context, e *rotation.Engine, key string) error {
			_, err := e.Rotate(ctx, alice, key, rotation.RotateSpec{Reason: keys.ReasonManual})
			return err
		},
		"revoke": func(ctx context.Context, e *rotation.Engine, key string) error {
			_, err := e.Revoke(ctx, alice, key, 1, "leaked")
			return err
		},
		"update": func(ctx context.Context, e *rotation.Engine, key string) error {
			_, err := e.UpdateKey(ctx, alice, key, rotation.Update{Description: &text})
			return err
		},
	} {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", done ", done), func(t *testing.T) {
				t.Parallel()
				k := newKit(t)
				hit := map[string]int{}
				for at := 1; !t.Failed(); at++ {
					h := &hiccup{at: at, done: done}
					k.fault(act, fmt.Sprint(name, "-", at), h)
					if h.hit == "" {
						break
					}
					hit[h.hit]++
				}
				want := []string{"read", "append", "commit", "refresh"}
				if name != "update" {
					want = append(want, "generate", "destroy")
				}
				for _, step := range want {
					if hit[step] == 0 {
						t.Errorf("no %s was made to fail: %v", step, hit)
					}
				}
			})
		}
	}
}

// fault lets one step of an act fail and checks what comes of it.
func (k *kit) fault(act func(ctx context.Context, e *rotation.Engine, key string) error, name string, h *hiccup) {
	k.t.Helper()
	ctx := k.t.Context()
	k.create(name, keys.Policy{})
	before := k.key(name)
	at := len(k.records())
	e := k.engine(h.change)
	err := act(ctx, e, name)
	where := fmt.Sprintf("step %d, %s", h.at, h.hit)
	if h.hit == "" && err != nil {
		k.t.Errorf("nothing failed, and yet: %v", err)
	}
	if err != nil && !errors.Is(err, keys.ErrStore) && !errors.Is(err, keys.ErrHSM) && !errors.Is(err, keys.ErrAudit) {
		k.t.Errorf("%s: the error is none of the three: %v", where, err)
	}
	told := err == nil
	for range 3 { // the timers of the same process; a failed attempt has its pause
		if err := k.cache.Refresh(ctx); err != nil {
			k.t.Errorf("%s: Refresh: %v", where, err)
		}
		if err := e.Tick(ctx); err != nil {
			k.t.Errorf("%s: Tick: %v", where, err)
		}
		k.pass(time.Minute)
	}
	k.consistent()

	after := k.key(name)
	if after.ActiveAt(k.now()) == nil {
		k.t.Fatalf("%s: no version is active", where)
	}
	if v := after.Versions[0]; v.ObjectID != before.Versions[0].ObjectID || !v.DestroyedAt.IsZero() {
		k.t.Errorf("%s: version 1 is lost", where)
	}
	k.believed(name, where, told, after)
	k.intended(where, k.records()[at:])
}

// believed checks that what a caller was told has come true.
func (k *kit) believed(name, where string, told bool, after *keys.Key) {
	k.t.Helper()
	active := after.ActiveAt(k.now())
	created, err := k.store.Key(k.t.Context(), name+"-new")
	switch {
	case err == nil && created.ActiveAt(k.now()) == nil:
		k.t.Errorf("%s: a key without an active version was left behind", where)
	case !after.Versions[0].RevokedAt.IsZero():
		if active.Number == 1 || after.Latest() != active {
			k.t.Errorf("%s: the revoked version has no successor", where)
		}
	case told && name[:6] == "create" && err != nil, told && name[:6] == "rotate" && active.Number != 2,
		told && name[:6] == "update" && after.Description != "changed", told && name[:6] == "revoke":
		k.t.Errorf("%s: it was not done, and the caller was told that it was", where)
	}
}

// intended checks that nothing was changed of which the log has no intent,
// and that every rotation in it came to an end that is told.
func (k *kit) intended(where string, recs []audit.Record) {
	k.t.Helper()
	intents, ends := map[string]bool{}, map[string]string{}
	for _, r := range recs {
		id := r.Rotation
		if id == "" {
			id = r.Action
		}
		if r.Outcome == audit.OutcomeIntent {
			intents[id] = true
			continue
		}
		if !intents[id] {
			// The engine undoes a rotation whose intent it could not record,
			// and says so.
			if r.Outcome != audit.OutcomeError {
				k.t.Errorf("%s: an outcome without an intent: %+v", where, r)
			}
		}
		ends[id] = r.Outcome
	}
	for _, r := range recs {
		if r.Rotation == "" {
			continue
		}
		stored, err := k.store.Rotation(k.t.Context(), r.Rotation)
		if err != nil {
			k.t.Errorf("%s: rotation %s: %v", where, r.Rotation, err)
			continue
		}
		want := map[keys.Phase]string{keys.PhaseCompleted: audit.OutcomeOK, keys.PhaseAborted: audit.OutcomeError}[stored.Phase]
		if ends[r.Rotation] != want {
			k.t.Errorf("%s: rotation %s is %s, its last outcome in the log %q", where, r.Rotation, stored.Phase, ends[r.Rotation])
		}
	}
}

// TestUndoFails: generation fails, and so does undoing it. The rotation stays
// open, and whoever takes it up makes the version anew.
func TestUndoFails(t *testing.T) {
	t.Parallel()
	for _, reason := range []keys.Reason{keys.ReasonInitial, keys.ReasonManual} {
		k := newKit(t)
		k.create("other", keys.Policy{})
		if reason != keys.ReasonInitial {
			k.create("payments", keys.Policy{})
		}
		m := &mortal{}
		e := k.engine(func(c *rotation.Config) {
			m.change(c)
			c.Token = dyingToken{c.Token, m}
		})
		var err error
		if reason == keys.ReasonInitial {
			_, err = e.CreateKey(t.Context(), alice, rotation.Spec{Name: "payments", Algorithm: keys.ES256})
		} else {
			_, err = e.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: reason})
		}
		if !errors.Is(err, keys.ErrHSM) {
			t.Errorf("%s: %v, want the first error, ErrHSM", reason, err)
		}
		open, err := k.Rotations(t.Context(), store.RotationFilter{OpenOnly: true})
		if err != nil || len(open) != 1 {
			t.Fatalf("%v, %v", open, err)
		}
		if err := k.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		key := k.key("payments")
		if k.active("payments") != key.Latest().Number {
			t.Errorf("%s: version %d of %d is active", reason, k.active("payments"), len(key.Versions))
		}
		k.consistent()
		recs := k.records()
		if r := recs[len(recs)-1]; r.Principal != "system" || r.Initiator != alice.Principal || r.Outcome != audit.OutcomeOK {
			t.Errorf("%s: the log should say who began it and who finished it: %+v", reason, r)
		}
	}
}

// dyingToken makes the objects, says that it could not, and nothing works
// from then on.
type dyingToken struct {
	rotation.Token
	m *mortal
}

func (d dyingToken) Generate(ctx context.Context, ref keys.Ref) (keys.Generated, error) {
	if _, err := d.Token.Generate(ctx, ref); err != nil {
		return keys.Generated{}, err
	}
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.m.dead = true
	return keys.Generated{}, fmt.Errorf("generated, perhaps: %w", keys.ErrHSM)
}
