package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/storetest"
)

// TestReplacedBlocks: a list of blocked principals that was good once does not
// come back while the store is open.
func TestReplacedBlocks(t *testing.T) {
	t.Parallel()
	worlds(t, testReplacedBlocks)
}

func testReplacedBlocks(t *testing.T, make func(t *testing.T) *world) {
	w := make(t)
	ctx := t.Context()
	w.exec(t, "CREATE TABLE old AS SELECT * FROM sealed")
	if err := w.BlockAgent(ctx, "jwt:corp:eve", &keys.Block{At: time.Now(), By: "x"}); err != nil {
		t.Fatal(err)
	}
	if all, err := w.Blocked(ctx); err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	w.exec(t, "UPDATE sealed SET (body, revision, mac) = (SELECT body, revision, mac FROM old)")
	if all, err := w.Blocked(ctx); !errors.Is(err, keys.ErrTampered) || len(all) != 1 {
		t.Errorf("an old list: %v, %v", all, err)
	}
	// Whoever must be blocked now can be, and nobody gets off.
	if err := w.BlockAgent(ctx, "jwt:corp:eve", &keys.Block{At: time.Now(), By: "x"}); err != nil {
		t.Error(err)
	}
	w.exec(t, "UPDATE sealed SET body = '[]'")
	if err := w.BlockAgent(ctx, "jwt:corp:eve", &keys.Block{At: time.Now(), By: "x"}); err != nil {
		t.Error(err)
	}
	if all, err := w.Blocked(ctx); !errors.Is(err, keys.ErrTampered) || len(all) != 1 || all[0] != "jwt:corp:eve" {
		t.Errorf("blocked on an altered list: %v, %v", all, err)
	}
	if all, err := w.AdoptBlocks(ctx); err != nil || len(all) != 1 {
		t.Errorf("adopting: %v, %v", all, err)
	}
	if all, err := w.Blocked(ctx); err != nil || len(all) != 1 {
		t.Errorf("an adopted list: %v, %v", all, err)
	}
	w.exec(t, "DELETE FROM sealed")
	if err := w.BlockAgent(ctx, "jwt:corp:eve", &keys.Block{At: time.Now(), By: "x"}); err != nil {
		t.Error(err)
	}
	if _, err := w.Blocked(ctx); !errors.Is(err, keys.ErrTampered) {
		t.Errorf("a list that was made anew: %v", err)
	}
	if all, err := w.AdoptBlocks(ctx); err != nil || len(all) != 1 {
		t.Errorf("adopting: %v, %v", all, err)
	}
}

// TestAdoptDamaged: a damaged key is rebuilt, and what belonged to it goes on.
func TestAdoptDamaged(t *testing.T) {
	t.Parallel()
	worlds(t, testAdoptDamaged)
}

func testAdoptDamaged(t *testing.T, make func(t *testing.T) *world) {
	for what, edits := range map[string][]string{
		"an edit":              {"UPDATE versions SET revoked_at = NULL"},
		"an epoch of its own":  {"UPDATE keys SET epoch = 4000000000 WHERE name = 'payments'"},
		"the last epoch":       {"UPDATE keys SET epoch = 9223372036854775807 WHERE name = 'payments'"},
		"an unreadable row":    {"UPDATE keys SET policy = '{' WHERE name = 'payments'"},
		"no row":               {"DELETE FROM keys WHERE name = 'payments'"},
		"no rows":              {"DELETE FROM keys WHERE name = 'payments'", "DELETE FROM versions WHERE key_name = 'payments'"},
		"its objects in other": {"DELETE FROM versions WHERE key_name = 'other'", "UPDATE versions SET key_name = 'other', number = 20 + number WHERE key_name = 'payments'"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := make(t)
			ctx := t.Context()
			rebuilt, err := w.Key(ctx, "payments")
			if err != nil {
				t.Fatal(err)
			}
			sub := keys.Subscription{Key: "payments", Principal: "jwt:corp:bob", Since: rebuilt.CreatedAt}
			if _, err := w.Subscribe(ctx, sub); err != nil {
				t.Fatal(err)
			}
			if err := w.Adopt(ctx, rebuilt); !errors.Is(err, keys.ErrKeyExists) {
				t.Errorf("adopting an intact key: %v", err)
			}
			for _, edit := range edits {
				w.exec(t, edit)
			}
			rebuilt.Epoch, rebuilt.Description = 0, "rebuilt"
			if err := w.Adopt(ctx, rebuilt); err != nil {
				t.Fatal(err)
			}
			k, err := w.Key(ctx, "payments")
			if err != nil {
				t.Fatal(err)
			}
			if k.Epoch < 5 || what == "an epoch of its own" && k.Epoch <= 4000000000 {
				t.Errorf("the epoch is %d", k.Epoch)
			}
			rebuilt.Epoch = k.Epoch
			if diff := cmp.Diff(rebuilt, k, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("not what was adopted:\n%s", diff)
			}
			if r, err := w.Rotation(ctx, "rotation"); err != nil || r.Phase != keys.PhaseAborted || r.Error == "" {
				t.Errorf("the rotation is %+v, %v", r, err)
			}
			if subs, err := w.Subscriptions(ctx, "payments", ""); err != nil || len(subs) != 1 || subs[0] != sub {
				t.Errorf("the subscriptions are %+v, %v", subs, err)
			}
			next := storetest.Step(k, func(k *keys.Key) { k.Description = "goes on" })
			if err := w.Commit(ctx, store.Change{Key: next, FromEpoch: k.Epoch, Rotation: storetest.NewRotation("next", "payments", 4)}); err != nil {
				t.Error(err)
			}
			if found := w.damaged(t); found["payments"] || what == "its objects in other" != found["other"] {
				t.Errorf("found %v", found)
			}
		})
	}
}

// damaged returns which keys are damaged.
func (w *world) damaged(t *testing.T) map[string]bool {
	t.Helper()
	all, _, err := w.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, k := range all {
		if k.Damaged {
			found[k.Name] = true
		}
	}
	return found
}

// TestAdoptLeavesOthersAlone: the objects of an intact key are its own.
func TestAdoptLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	worlds(t, testAdoptLeavesOthersAlone)
}

func testAdoptLeavesOthersAlone(t *testing.T, make func(t *testing.T) *world) {
	w := make(t)
	ctx := t.Context()
	other, err := w.Key(ctx, "other")
	if err != nil {
		t.Fatal(err)
	}
	thief := storetest.NewKey("thief", 3)
	thief.Versions[1].ObjectID = other.Versions[2].ObjectID
	if err := w.Adopt(ctx, thief); !errors.Is(err, keys.ErrKeyExists) {
		t.Errorf("adopting another key's object: %v", err)
	}
	if _, err := w.Key(ctx, "thief"); !errors.Is(err, keys.ErrKeyNotFound) {
		t.Errorf("half of an adoption is there: %v", err)
	}
	if found := w.found(t); len(found) != 0 {
		t.Errorf("found %v", found)
	}
}

// TestAlteredRotationIsInNobodysWay: it is not gone on with, and does not
// keep its key from being rotated.
func TestAlteredRotationIsInNobodysWay(t *testing.T) {
	t.Parallel()
	worlds(t, testAlteredRotationIsInNobodysWay)
}

func testAlteredRotationIsInNobodysWay(t *testing.T, make func(t *testing.T) *world) {
	w := make(t)
	ctx := t.Context()
	r, err := w.Rotation(ctx, "rotation")
	if err != nil {
		t.Fatal(err)
	}
	w.exec(t, "UPDATE rotations SET started_by = 'jwt:corp:mallory'")
	r.Phase = keys.PhaseAnnounced
	if err := w.Commit(ctx, store.Change{Rotation: r}); !errors.Is(err, keys.ErrTampered) {
		t.Errorf("going on with an altered rotation: %v", err)
	}
	if err := w.Commit(ctx, store.Change{Rotation: storetest.NewRotation("next", "payments", 4)}); err != nil {
		t.Error(err)
	}
	open, err := w.Rotations(ctx, store.RotationFilter{OpenOnly: true})
	if err != nil || len(open) != 1 || open[0].ID != "next" {
		t.Errorf("open is %+v, %v", open, err)
	}
	if _, err := w.Rotation(ctx, "rotation"); !errors.Is(err, keys.ErrTampered) {
		t.Errorf("the altered rotation: %v", err)
	}
}
