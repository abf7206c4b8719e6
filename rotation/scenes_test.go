package rotation_test

import (
	"context"
	"errors"
	"time"

	"keyhole/keys"
	"keyhole/rotation"
)

// scene is one thing that an engine does with a key, from a state that lacks
// nothing but that. The crash and fault tests let each step of it fail.
type scene struct {
	policy  keys.Policy
	prepare func(k *kit, key string)
	// act does it with the engine e. An error that says that the key's state
	// does not permit it is not one of a scene's.
	act func(ctx context.Context, k *kit, e *rotation.Engine, key string) error
	// done reports whether it was done, some time later.
	done func(k *kit, key string) bool
}

// The policies of scenes that wait.
var (
	announces = keys.Policy{Announce: 10 * time.Minute}
	asks      = keys.Policy{Announce: 10 * time.Minute, Acks: keys.Acks{Require: keys.AckAll, Timeout: 20 * time.Minute}}
	asksMild  = keys.Policy{Announce: 10 * time.Minute, Acks: keys.Acks{Require: keys.AckAll, Timeout: 20 * time.Minute, OnTimeout: keys.TimeoutActivate}}
)

// scenes returns the scenes, by name. The key of a scene has the versions 1
// and 2, of which 2 is active, and in most cases a rotation to 3 under way.
func scenes() map[string]scene {
	tick := func(ctx context.Context, _ *kit, e *rotation.Engine, _ string) error { return e.Tick(ctx) }
	rotate := func(s rotation.RotateSpec) func(k *kit, key string) {
		return func(k *kit, key string) { k.begin(key, s) }
	}
	coordinated := func(k *kit, key string) {
		k.begin(key, rotation.RotateSpec{ActivateAt: k.now().Add(20 * time.Minute), Announce: ptr(time.Duration(0))})
		k.phase(key, keys.PhaseScheduled)
	}
	active := func(n uint32) func(k *kit, key string) bool {
		return func(k *kit, key string) bool { return k.active(key) == n }
	}
	state := func(n uint32, s keys.State) func(k *kit, key string) bool {
		return func(k *kit, key string) bool { return len(k.key(key).Versions) >= int(n) && k.state(key, n) == s }
	}
	order := func(give func(e *rotation.Engine) func(context.Context, rotation.Actor, string, string) (*keys.Rotation, error)) func(context.Context, *kit, *rotation.Engine, string) error {
		return func(ctx context.Context, k *kit, e *rotation.Engine, key string) error {
			_, err := give(e)(ctx, bob, k.latest(key).ID, "")
			return err
		}
	}
	force := order(func(e *rotation.Engine) func(context.Context, rotation.Actor, string, string) (*keys.Rotation, error) {
		return e.ActivateRotation
	})
	abort := order(func(e *rotation.Engine) func(context.Context, rotation.Actor, string, string) (*keys.Rotation, error) {
		return e.AbortRotation
	})
	revoke := func(n uint32) func(context.Context, *kit, *rotation.Engine, string) error {
		return func(ctx context.Context, _ *kit, e *rotation.Engine, key string) error {
			_, err := e.Revoke(ctx, alice, key, n, "leaked")
			return err
		}
	}
	text := "changed"
	return map[string]scene{
		"create": {
			act: func(ctx context.Context, _ *kit, e *rotation.Engine, key string) error {
				_, err := e.CreateKey(ctx, alice, rotation.Spec{Name: key + "-new", Algorithm: keys.ES256})
				return err
			},
			done: func(k *kit, key string) bool {
				_, err := k.store.Key(k.t.Context(), key+"-new")
				if err != nil && !errors.Is(err, keys.ErrKeyNotFound) {
					k.t.Fatal(err)
				}
				return err == nil && k.active(key+"-new") == 1
			},
		},
		"rotate": {
			act: func(ctx context.Context, _ *kit, e *rotation.Engine, key string) error {
				_, err := e.Rotate(ctx, alice, key, rotation.RotateSpec{Reason: keys.ReasonManual})
				return err
			},
			done: active(3),
		},
		"rotate, to be announced": {
			policy: announces,
			act: func(ctx context.Context, _ *kit, e *rotation.Engine, key string) error {
				_, err := e.Rotate(ctx, alice, key, rotation.RotateSpec{Reason: keys.ReasonManual})
				return err
			},
			done: active(3),
		},
		"rotate what is due": {
			policy:  keys.Policy{Period: 30 * time.Minute},
			prepare: func(k *kit, _ string) { k.pass(30 * time.Minute) },
			act:     tick,
			done:    func(k *kit, key string) bool { return k.active(key) >= 3 },
		},
		"switch when the lead is over": {
			policy:  announces,
			prepare: func(k *kit, key string) { k.begin(key, rotation.RotateSpec{}); k.pass(10 * time.Minute) },
			act:     tick, done: active(3),
		},
		"switch when all have acknowledged": {
			policy: asks,
			prepare: func(k *kit, key string) {
				k.subscribe(key, "a", "b")
				k.begin(key, rotation.RotateSpec{})
				k.pass(10 * time.Minute)
				k.ack(key, 3, "a", "b")
			},
			act: tick, done: active(3),
		},
		"abort when they have not": {
			policy: asks,
			prepare: func(k *kit, key string) {
				k.subscribe(key, "a")
				k.begin(key, rotation.RotateSpec{})
				k.pass(20 * time.Minute)
			},
			act: tick, done: state(3, keys.Destroyed),
		},
		"switch when they have not": {
			policy: asksMild,
			prepare: func(k *kit, key string) {
				k.subscribe(key, "a")
				k.begin(key, rotation.RotateSpec{})
				k.pass(20 * time.Minute)
			},
			act: tick, done: active(3),
		},
		"schedule": {
			policy: announces,
			prepare: func(k *kit, key string) {
				k.begin(key, rotation.RotateSpec{ActivateAt: k.now().Add(20 * time.Minute)})
				k.pass(10 * time.Minute)
			},
			act: tick, done: active(3),
		},
		"switch by the clock": {
			prepare: func(k *kit, key string) { coordinated(k, key); k.pass(20 * time.Minute) },
			act:     tick, done: active(3),
		},
		"force what is announced":  {policy: announces, prepare: rotate(rotation.RotateSpec{}), act: force, done: active(3)},
		"force what is scheduled":  {prepare: coordinated, act: force, done: active(3)},
		"abort what is announced":  {policy: announces, prepare: rotate(rotation.RotateSpec{}), act: abort, done: state(3, keys.Destroyed)},
		"abort what is scheduled":  {prepare: coordinated, act: abort, done: state(3, keys.Destroyed)},
		"revoke the active":        {act: revoke(2), done: func(k *kit, key string) bool { return k.active(key) >= 3 }},
		"revoke an old one":        {act: revoke(1), done: state(1, keys.Compromised)},
		"revoke, one is announced": {policy: announces, prepare: rotate(rotation.RotateSpec{}), act: revoke(2), done: state(2, keys.Compromised)},
		"revoke, one is scheduled": {prepare: coordinated, act: revoke(2), done: state(2, keys.Compromised)},
		"revoke what is announced": {policy: announces, prepare: rotate(rotation.RotateSpec{}), act: revoke(3), done: state(3, keys.Compromised)},
		"revoke what is scheduled": {prepare: coordinated, act: revoke(3), done: state(3, keys.Compromised)},
		"suspend": {
			act: func(ctx context.Context, _ *kit, e *rotation.Engine, key string) error {
				_, err := e.Suspend(ctx, alice, key, 2, "odd")
				return err
			},
			done: state(2, keys.Suspended),
		},
		"update": {
			act: func(ctx context.Context, _ *kit, e *rotation.Engine, key string) error {
				_, err := e.UpdateKey(ctx, alice, key, rotation.Update{Description: &text})
				return err
			},
			done: func(k *kit, key string) bool { return k.key(key).Description == text },
		},
	}
}

// stage makes a key with two versions and takes it to where the scene begins.
func (k *kit) stage(s scene, name string) *keys.Key {
	k.t.Helper()
	k.create(name, keys.Policy{})
	k.rotate(name)
	k.policy(name, s.policy)
	if s.prepare != nil {
		s.prepare(k, name)
	}
	return k.key(name)
}

func (k *kit) policy(name string, p keys.Policy) {
	k.t.Helper()
	if k.key(name).Policy != p {
		_, err := k.UpdateKey(k.t.Context(), alice, name, rotation.Update{Policy: &p})
		k.must(err)
	}
}

// settle lets time pass and the timer work until nothing waits any more.
func (k *kit) settle(e *rotation.Engine) {
	k.t.Helper()
	for range 4 { // a failed attempt has its pause
		k.lapse()
		if err := k.cache.Refresh(k.t.Context()); err != nil {
			k.t.Errorf("Refresh: %v", err)
		}
		if err := e.Tick(k.t.Context()); err != nil {
			k.t.Errorf("Tick: %v", err)
		}
		k.pass(time.Hour)
	}
}

// whole checks what must hold of a key once all has settled, whatever has
// failed on the way.
func (k *kit) whole(where, name string, before *keys.Key) {
	k.t.Helper()
	k.policy(name, keys.Policy{}) // for the scenes to come it wants nothing
	k.consistent()
	after := k.key(name)
	if after.ActiveAt(k.now()) == nil {
		k.t.Errorf("%s: no version is active", where)
	}
	for i, v := range before.Versions {
		w := after.Versions[i]
		if w.ObjectID != v.ObjectID || w.Number != v.Number || !v.RevokedAt.IsZero() && !w.RevokedAt.Equal(v.RevokedAt) {
			k.t.Errorf("%s: version %d is another one", where, v.Number)
		}
		if i < 2 && !w.DestroyedAt.IsZero() {
			k.t.Errorf("%s: version %d is lost", where, v.Number)
		}
	}
	if v := after.Versions[1]; !v.RevokedAt.IsZero() && k.active(name) < 3 {
		k.t.Errorf("%s: version 2 is revoked and has no successor", where)
	}
}

// bothOrOne returns how a step may fail: not done, or done and nobody is
// told. Where steps are left out, each scene has one of the two.
func bothOrOne(name string) []bool {
	if stride == 1 {
		return []bool{false, true}
	}
	return []bool{len(name)%2 == 0}
}
