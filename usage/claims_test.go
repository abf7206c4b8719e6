package usage_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"keyhole/keys"
)

// TestPausedInstance: a gateway was paused, another one came under its name
// and counted; when the first one wakes up it lowers nothing, whatever it had
// reserved, and what it still counts is counted.
func TestPausedInstance(t *testing.T) {
	t.Parallel()
	path, c := filepath.Join(t.TempDir(), "keyhole.db"), &clock{}
	old := kitIn(t, t.TempDir(), open(t, path), "node", c)
	old.count(100, "app")
	reserved := old.stored("app").Applied
	next := kitIn(t, t.TempDir(), open(t, path), "node", c)
	next.count(1000, "app")
	next.count(30, "other")
	before := next.stored("app").Applied
	old.stop() // it would give back what it had
	if after := next.stored("app").Applied; after < before {
		t.Errorf("%d were stored, and now %d", before, after)
	}
	next.count(1, "app")
	next.stop()
	if got := next.stored("app").Applied; got < 1101 || got > reserved+1001+before {
		t.Errorf("1101 uses, %d are stored", got)
	}
	if got := next.stored("other").Applied; got < 30 {
		t.Errorf("30 uses of the other, %d are stored", got)
	}
	// Ticks find out too, and go on.
	old = kitIn(t, t.TempDir(), open(t, path), "node", c)
	old.count(10, "app")
	next = kitIn(t, t.TempDir(), open(t, path), "node", c)
	next.count(10, "app")
	for range 3 {
		c.pass(keepAlive)
		if err := old.Tick(t.Context()); err != nil && !errors.Is(err, keys.ErrConflict) {
			t.Error(err)
		}
	}
	old.count(5, "app")
	old.stop()
	if got := old.stored("app").Applied; got < 1101+10+10+5 {
		t.Errorf("%d uses, %d are stored", 1101+25, got)
	}
}

// keepAlive is long enough for a tick to write something.
const keepAlive = 12_000_000_000

// TestInstancesTakeTurns: whoever loads has the counters, at any moment, in
// outages too, and nothing that was acknowledged is lost.
func TestInstancesTakeTurns(t *testing.T) {
	t.Parallel()
	path, c := filepath.Join(t.TempDir(), "keyhole.db"), &clock{}
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	var all []*kit
	for _, dir := range dirs {
		all = append(all, kitIn(t, dir, open(t, path), "node", c))
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	counted := map[string]uint64{}
	for range 300 {
		i := r.IntN(len(all))
		k := all[i]
		switch r.IntN(10) {
		case 0:
			k.store.leave(errGone)
		case 1:
			k.store.leave(nil)
		case 2, 3:
			c.pass(keepAlive)
			if err := k.Tick(t.Context()); err != nil && !errors.Is(err, keys.ErrConflict) && !errors.Is(err, keys.ErrStore) {
				t.Error(err)
			}
		case 4: // a crash
			all[i] = newKitIn(t, dirs[i], k.store.SQLite, "node", c)
			if err := all[i].Load(t.Context()); err != nil {
				t.Error(err)
			}
		default:
			who := fmt.Sprint(r.IntN(3))
			for range r.IntN(200) {
				if k.Count(t.Context(), "payments", 1, who, keys.UseApply, 1) == nil {
					counted[who]++
				}
			}
		}
	}
	for _, k := range all {
		k.store.leave(nil)
		_ = k.Tick(t.Context()) // it may have to claim first
		k.tick()
	}
	for who, want := range counted {
		if got := all[0].stored(who).Applied; got < want {
			t.Errorf("seed %d: %d uses of %s were acknowledged, %d are stored", seed, want, who, got)
		}
	}
}
