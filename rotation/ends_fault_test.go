package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/keys"
	"keyhole/rotation"
)

// endScene is a scene at the end of a version or key. Its key has the
// versions 1 and 2, of which 2 is active.
type endScene struct {
	scene
	// byItself: the engine does it without an order, however often it fails.
	byItself bool
}

// gone reports whether the key has been buried.
func gone(k *kit, key string) bool {
	_, err := k.store.Key(k.t.Context(), key)
	if err != nil && !errors.Is(err, keys.ErrKeyNotFound) {
		k.t.Fatal(err)
	}
	return err != nil
}

func endScenes() map[string]endScene {
	tick := func(ctx context.Context, k *kit, e *rotation.Engine, _ string) error {
		err := k.cache.Refresh(ctx)
		return errors.Join(err, e.Tick(ctx))
	}
	state := func(n uint32, s ...keys.State) func(k *kit, key string) bool {
		return func(k *kit, key string) bool { return slices.Contains(s, k.state(key, n)) }
	}
	destroy := func(k *kit, key string) {
		_, err := k.Destroy(k.t.Context(), alice, key, 1, rotation.DestroySpec{})
		k.must(err)
	}
	remove := func(k *kit, key string) {
		_, err := k.DeleteKey(k.t.Context(), alice, key, rotation.DestroySpec{})
		k.must(err)
	}
	deleted := func(k *kit, key string) bool { return !k.key(key).DeleteAt.IsZero() }
	return map[string]endScene{
		"archive": {byItself: true, scene: scene{
			policy: keys.Policy{Overlap: time.Hour}, prepare: func(k *kit, _ string) { k.pass(2 * time.Hour) },
			act: tick, done: state(1, keys.Archived),
		}},
		"order at the end": {byItself: true, scene: scene{
			policy: destroying, prepare: func(k *kit, _ string) { k.pass(2 * time.Hour) },
			act: tick, done: state(1, keys.DestroyScheduled),
		}},
		"destruction": {byItself: true, scene: scene{
			prepare: func(k *kit, key string) { destroy(k, key); k.pass(25 * time.Hour) },
			act:     tick, done: state(1, keys.Destroyed),
		}},
		"burial": {byItself: true, scene: scene{
			prepare: func(k *kit, key string) { remove(k, key); k.pass(25 * time.Hour); k.tick() },
			act:     tick, done: gone,
		}},
		"deletion": {byItself: true, scene: scene{ // all of it
			prepare: func(k *kit, key string) { remove(k, key); k.pass(25 * time.Hour) },
			act: func(ctx context.Context, k *kit, e *rotation.Engine, key string) error {
				return errors.Join(tick(ctx, k, e, key), tick(ctx, k, e, key))
			},
			done: gone,
		}},
		"order": {scene: scene{
			act: func(ctx context.Context, _ *kit, e *rotation.Engine, key string) error {
				_, err := e.Destroy(ctx, alice, key, 1, rotation.DestroySpec{Note: "old"})
				return err
			},
			done: state(1, keys.DestroyScheduled),
		}},
		"restore": {scene: scene{
			prepare: destroy,
			act: func(ctx context.Context, _ *kit, e *rotation.Engine, key string) error {
				_, err := e.Restore(ctx, alice, key, 1, "a mistake")
				return err
			},
			done: state(1, keys.Deactivated),
		}},
		"delete": {scene: scene{
			act: func(ctx context.Context, _ *kit, e *rotation.Engine, key string) error {
				_, err := e.DeleteKey(ctx, alice, key, rotation.DestroySpec{Note: "old"})
				return err
			},
			done: deleted,
		}},
		"delete, one is announced": {scene: scene{
			policy: announces, prepare: func(k *kit, key string) { k.begin(key, rotation.RotateSpec{}) },
			act: func(ctx context.Context, _ *kit, e *rotation.Engine, key string) error {
				_, err := e.DeleteKey(ctx, alice, key, rotation.DestroySpec{})
				return err
			},
			done: func(k *kit, key string) bool {
				return deleted(k, key) && k.latest(key).Phase == keys.PhaseAborted && k.state(key, 3) == keys.Destroyed
			},
		}},
		"restore the key": {scene: scene{
			prepare: remove,
			act: func(ctx context.Context, _ *kit, e *rotation.Engine, key string) error {
				_, err := e.RestoreKey(ctx, alice, key, "a mistake")
				return err
			},
			done: func(k *kit, key string) bool { return !deleted(k, key) && k.active(key) == 2 },
		}},
	}
}

type inspectHiccup struct {
	rotation.Token
	h *hiccup
}

func (s inspectHiccup) Inspect(ctx context.Context, ref keys.Ref) (g keys.Generated, err error) {
	if herr := s.h.step("inspect", keys.ErrHSM, func() error { g, err = s.Token.Inspect(ctx, ref); return nil }); herr != nil {
		return keys.Generated{}, herr
	}
	return g, err
}

type inspectMortal struct {
	rotation.Token
	m *mortal
}

func (s inspectMortal) Inspect(ctx context.Context, ref keys.Ref) (g keys.Generated, err error) {
	if merr := s.m.step(func() error { g, err = s.Token.Inspect(ctx, ref); return nil }); merr != nil {
		return keys.Generated{}, merr
	}
	return g, err
}

// TestEndFaults lets every step of every end fail once, in a process that
// lives on.
func TestEndFaults(t *testing.T) {
	t.Parallel()
	all := endScenes()
	delete(all, "deletion") // its parts are there
	for name, s := range all {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", done ", done), func(t *testing.T) {
				t.Parallel()
				k := newKit(t)
				hit := map[string]int{}
				for at := 1 + len(name)%stride; !t.Failed(); at += stride {
					h := &hiccup{at: at, done: done}
					key := fmt.Sprint("key-", at)
					k.stage(s.scene, key)
					e := k.engine(func(c *rotation.Config) { h.change(c); c.Token = inspectHiccup{c.Token, h} })
					err := s.act(t.Context(), k, e, key)
					where := fmt.Sprintf("step %d, %s", h.at, h.hit)
					if err != nil && (h.hit == "" || !errors.Is(err, keys.ErrStore) && !errors.Is(err, keys.ErrHSM) && !errors.Is(err, keys.ErrAudit)) {
						t.Errorf("%s: %v", where, err)
					}
					h.mu.Lock()
					h.at = 0
					h.mu.Unlock()
					k.settle(e)
					k.ended(s, where, key, err == nil)
					if h.hit == "" {
						break
					}
					hit[h.hit]++
				}
				want := []string{"append", "commit", "refresh"}
				if !done { // nobody can tell how far a failed read came
					want = append(want, "read")
				}
				if name == "destruction" {
					want = append(want, "destroy", "inspect")
				}
				for _, step := range want {
					if hit[step] == 0 && stride == 1 {
						t.Errorf("no %s was made to fail: %v", step, hit)
					}
				}
			})
		}
	}
}

// TestEndCrashes lets the process die at every step of what it does by
// itself, and starts another one. (An order is one write, and no more is left
// to be done after it.)
func TestEndCrashes(t *testing.T) {
	t.Parallel()
	for name, s := range endScenes() {
		if !s.byItself {
			continue
		}
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", done ", done), func(t *testing.T) {
				t.Parallel()
				k := newKit(t)
				for at := 1 + len(name)%stride; !t.Failed(); at += stride {
					m := &mortal{at: at, done: done}
					key := fmt.Sprint("key-", at)
					k.stage(s.scene, key)
					e := k.engine(func(c *rotation.Config) { m.change(c); c.Token = inspectMortal{c.Token, m} })
					err := s.act(t.Context(), k, e, key)
					k.reload()
					k.must(k.Recover(t.Context()))
					k.settle(k.Engine)
					k.ended(s, fmt.Sprintf("step %d", at), key, err == nil && !m.dead)
					if !m.dead {
						break
					}
				}
			})
		}
	}
}

// ended checks what must hold of a key whose end was interrupted, once all
// has settled. told: nobody was told of a failure.
func (k *kit) ended(s endScene, where, key string, told bool) {
	k.t.Helper()
	k.consistent()
	done := s.done(k, key)
	if (told || s.byItself) && !done {
		k.t.Errorf("%s: it was not done", where)
	}
	events, err := k.store.Events(k.t.Context(), 0, 10_000)
	k.must(err)
	times := map[string]int{}
	for _, n := range events {
		id := fmt.Sprint(n.Type, " ", n.Version)
		if n.Key != key || n.Type == keys.NoticeActivated {
			continue
		}
		if times[id]++; times[id] > 1 {
			k.t.Errorf("%s: %s was told %d times", where, id, times[id])
		}
	}
	destroyed, intended := map[uint32]bool{}, map[string]bool{}
	for _, r := range k.records() {
		if r.Key != key {
			continue
		}
		switch id := fmt.Sprint(r.Action, " ", r.Version); r.Outcome {
		case audit.OutcomeIntent:
			intended[id] = true
		case audit.OutcomeOK:
			if !intended[id] && r.Rotation == "" {
				k.t.Errorf("%s: an outcome without an intent: %+v", where, r)
			}
			destroyed[r.Version] = destroyed[r.Version] || r.Action == "destroy-objects"
		}
	}
	for _, n := range events {
		if n.Key == key && n.Type == keys.NoticeDestroyed && n.Version < 3 && !destroyed[n.Version] {
			k.t.Errorf("%s: version %d is destroyed, and the log does not say so", where, n.Version)
		}
	}
	if gone(k, key) {
		if n := len(k.noticed(key, keys.NoticeKeyDeleted)); n != 1 {
			k.t.Errorf("%s: %d notices of the deletion", where, n)
		}
		return
	}
	if k.key(key).DeleteAt.IsZero() && k.active(key) == 0 {
		k.t.Errorf("%s: no version is active", where)
	}
}
