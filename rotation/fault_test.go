package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// arm lets the step with the given number from now on fail; 0: none.
func (h *hiccup) arm(at int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.steps, h.at = 0, at
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

func (s hiccupStore) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, err error) {
	err = s.h.step("lease", keys.ErrStore, func() error { held, err = s.Store.AcquireLease(ctx, name, holder, ttl); return err })
	return held && err == nil, err
}

func (s hiccupStore) ReleaseLease(ctx context.Context, name, holder string) error {
	return s.h.step("release", keys.ErrStore, func() error { return s.Store.ReleaseLease(ctx, name, holder) })
}

func (s hiccupStore) Nodes(ctx context.Context) (all []keys.Node, revision uint64, err error) {
	err = s.h.step("nodes", keys.ErrStore, func() error { all, revision, err = s.Store.Nodes(ctx); return err })
	return all, revision, err
}

// read lets a call that only reads fail. It has nothing to do that could have
// been done.
func read[T any](h *hiccup, call func() (T, error)) (T, error) {
	if h.done {
		return call()
	}
	var got, none T
	err := h.step("read", keys.ErrStore, func() (err error) { got, err = call(); return err })
	if err != nil {
		return none, err
	}
	return got, nil
}

func (s hiccupStore) Key(ctx context.Context, name string) (*keys.Key, error) {
	return read(s.h, func() (*keys.Key, error) { return s.Store.Key(ctx, name) })
}

func (s hiccupStore) Rotation(ctx context.Context, id string) (*keys.Rotation, error) {
	return read(s.h, func() (*keys.Rotation, error) { return s.Store.Rotation(ctx, id) })
}

func (s hiccupStore) Rotations(ctx context.Context, f store.RotationFilter) ([]*keys.Rotation, error) {
	return read(s.h, func() ([]*keys.Rotation, error) { return s.Store.Rotations(ctx, f) })
}

func (s hiccupStore) Subscriptions(ctx context.Context, key, principal string) ([]keys.Subscription, error) {
	return read(s.h, func() ([]keys.Subscription, error) { return s.Store.Subscriptions(ctx, key, principal) })
}

func (s hiccupStore) Acks(ctx context.Context, key string, version uint32, principal string) ([]keys.Ack, error) {
	return read(s.h, func() ([]keys.Ack, error) { return s.Store.Acks(ctx, key, version, principal) })
}

func (s hiccupStore) Agent(ctx context.Context, id string) (*keys.Agent, error) {
	return read(s.h, func() (*keys.Agent, error) { return s.Store.Agent(ctx, id) })
}

func (s hiccupStore) Blocked(ctx context.Context) ([]string, error) {
	return read(s.h, func() ([]string, error) { return s.Store.Blocked(ctx) })
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

func (s hiccupToken) MarkRevoked(ctx context.Context, ref keys.Ref, id keys.VersionID, at time.Time) error {
	return s.h.step("mark", keys.ErrHSM, func() error { return s.Token.MarkRevoked(ctx, ref, id, at) })
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

// TestFaults lets every step of every scene fail once, in a process that
// lives on. Whatever the caller was told, the same process then brings
// everything in order by itself.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, s := range scenes() {
		for _, done := range bothOrOne(name) {
			t.Run(fmt.Sprint(name, ", done ", done), func(t *testing.T) {
				t.Parallel()
				k, hit := newKit(t), map[string]int{}
				for at := 1 + len(name)%stride; !t.Failed(); at += stride {
					h := &hiccup{done: done}
					k.fault(s, fmt.Sprint("key-", at), h, at)
					if h.hit == "" {
						break
					}
					hit[h.hit]++
				}
				for _, step := range []string{"read", "append", "commit", "refresh"} {
					if hit[step] == 0 && stride == 1 && (step != "append" || name != "schedule") && (step != "read" || !done) {
						t.Errorf("no %s was made to fail: %v", step, hit)
					}
				}
				if makes := name == "create" || strings.HasPrefix(name, "rotate") || name == "revoke the active"; makes && stride == 1 && (hit["generate"] == 0 || hit["destroy"] == 0) {
					t.Errorf("no generation was made to fail: %v", hit)
				}
			})
		}
	}
}

// fault lets one step of a scene fail and checks what comes of it.
func (k *kit) fault(s scene, name string, h *hiccup, at int) {
	k.t.Helper()
	e := k.engine(h.change)
	k.must(e.Tick(k.t.Context())) // looks at the tokens, for the next hour
	before := k.stage(s, name)
	h.arm(at)
	err := s.act(k.t.Context(), k, e, name)
	h.arm(0) // what comes now works
	where := fmt.Sprintf("step %d, %s", at, h.hit)
	if h.hit == "" && err != nil {
		k.t.Errorf("nothing failed, and yet: %v", err)
	}
	if err != nil && !errors.Is(err, keys.ErrStore) && !errors.Is(err, keys.ErrHSM) && !errors.Is(err, keys.ErrAudit) {
		k.t.Errorf("%s: the error is none of the three: %v", where, err)
	}
	k.settle(e)
	k.whole(where, name, before)
	if done := s.done(k, name); err == nil && !done {
		k.t.Errorf("%s: it was not done, and the caller was told that it was", where)
	}
	if _, err := k.store.Key(k.t.Context(), name+"-new"); err == nil && k.active(name+"-new") == 0 {
		k.t.Errorf("%s: a key without an active version was left behind", where)
	}
	k.intended(where, name, k.records())
}

// intended checks that nothing was changed of which the log has no intent,
// and that every rotation in it came to an end that is told.
func (k *kit) intended(where, name string, recs []audit.Record) {
	k.t.Helper()
	intents, ends := map[string]bool{}, map[string]string{}
	recs = slices.DeleteFunc(recs, func(r audit.Record) bool { return r.Key != name })
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
		k.lapse()
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
