package storetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"keyhole/keys"
	"keyhole/store"
)

// deleteKey removes a key whose version was never made.
func deleteKey(t *testing.T, s store.Store, name string) {
	t.Helper()
	k := stored(t, s, name)
	must(t, s.Commit(t.Context(), store.Change{Key: k, FromEpoch: k.Epoch, Delete: true}))
}

func testChanged(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	revision := uint64(0)
	expect := func(what string, since uint64, changed, deleted []string) {
		t.Helper()
		got, gone, now, err := s.Changed(ctx, since)
		must(t, err)
		if now != revision || !slices.Equal(names(got), changed) || !slices.Equal(gone, deleted) {
			t.Errorf("%s: since %d there changed %v and went %v at revision %d; want %v, %v, %d", what, since, names(got), gone, now, changed, deleted, revision)
		}
		for _, k := range got {
			same(t, stored(t, s, k.Name), k)
		}
	}
	expect("a new store", 0, nil, nil)
	create(t, s, NewKey("b", 2), NewKey("a", 1), NewKey("c", 0))
	revision = 3
	expect("all", 0, []string{"a", "b", "c"}, nil)
	expect("the latest", 2, []string{"c"}, nil)
	expect("nothing", 3, nil, nil)

	commit(t, s, "b", touch)
	commit(t, s, "b", touch)
	revision = 5
	expect("one key, changed twice", 3, []string{"b"}, nil)
	expect("the second time", 4, []string{"b"}, nil)

	// A rotation alone is a commit, and no change of a key.
	must(t, s.Commit(ctx, store.Change{Rotation: NewRotation(id(1), "a", 2)}))
	revision = 6
	expect("a rotation", 5, nil, nil)
	// So is an attempt not even a commit.
	_, err := s.BeginAttempt(ctx, store.Attempt{Principal: "p", Key: "k", StartedAt: t0})
	must(t, err)
	expect("an attempt", 6, nil, nil)
	unchanged(t, s, "a conflict", func() {
		is(t, "a conflict", s.Commit(ctx, store.Change{Key: NewKey("a", 1)}), keys.ErrKeyExists)
	})
	expect("a refused commit", 6, nil, nil)

	deleteKey(t, s, "c")
	revision = 7
	expect("a deletion", 6, nil, []string{"c"})
	expect("a deletion, for who never saw the key", 0, []string{"a", "b"}, []string{"c"})
	expect("behind the deletion", 7, nil, nil)
	create(t, s, NewKey("c", 0))
	revision = 8
	expect("deleted and created anew", 6, []string{"c"}, nil)
	expect("created anew", 7, []string{"c"}, nil)
	deleteKey(t, s, "c")
	revision = 9
	expect("deleted again", 8, nil, []string{"c"})
	expect("deleted twice", 6, nil, []string{"c"})

	commit(t, s, "b", func(k *keys.Key) {
		for _, v := range k.Versions {
			v.DestroyedAt = t0
		}
	})
	deleteKey(t, s, "b")
	revision = 11
	expect("retired", 9, nil, []string{"b"})
	expect("all deletions", 5, nil, []string{"b", "c"})

	_, _, _, err = s.Changed(ctx, revision+1)
	detailed(t, "a store that went back", err, keys.ErrStore)
}

// testChangedByModel makes random commits and follows them from random
// revisions: whoever applies what Changed says has what Load says.
func testChangedByModel(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	type follower struct {
		keys     map[string]*keys.Key
		revision uint64
	}
	followers := make([]follower, 4)
	for i := range followers {
		followers[i].keys = map[string]*keys.Key{}
	}
	exists := map[string]bool{}
	for commits := range 120 {
		name := fmt.Sprintf("key-%d", rnd.IntN(6))
		switch {
		case !exists[name]:
			k := NewKey(name, 0)
			k.Description = fmt.Sprint("made by commit ", commits)
			create(t, s, k)
			exists[name] = true
		case rnd.IntN(3) == 0:
			deleteKey(t, s, name)
			exists[name] = false
		default:
			commit(t, s, name, touch)
		}
		f := &followers[rnd.IntN(len(followers))]
		changed, deleted, revision, err := s.Changed(ctx, f.revision)
		must(t, err)
		for _, name := range deleted {
			delete(f.keys, name)
		}
		for _, k := range changed {
			if old := f.keys[k.Name]; old != nil && cmp.Equal(old, k, cmpopts.EquateEmpty()) {
				t.Errorf("%s is said to have changed and is the same", k.Name)
			}
			f.keys[k.Name] = k
		}
		f.revision = revision
		all, now := load(t, s)
		if revision != now || now != uint64(commits+1) {
			t.Fatalf("revisions %d and %d after %d commits", revision, now, commits+1)
		}
		followed := slices.SortedFunc(maps.Values(f.keys), func(a, b *keys.Key) int {
			if a.Name < b.Name {
				return -1
			}
			return 1
		})
		same(t, all, followed)
		if t.Failed() {
			t.FailNow()
		}
	}
}

func testReopen(t *testing.T, open func() store.Store) {
	ctx := t.Context()
	s := open()
	create(t, s, NewKey("payments", 2), NewKey("other", 0))
	want := commit(t, s, "payments", func(k *keys.Key) { k.Versions[0].RevokedAt = t0 })
	r := NewRotation(id(1), "payments", 3)
	must(t, s.Commit(ctx, store.Change{Rotation: r}))
	deleteKey(t, s, "other")
	_, err := s.BeginAttempt(ctx, store.Attempt{Principal: "p", Key: "k", Fingerprint: "f", StartedAt: t0})
	must(t, err)
	must(t, s.Close())
	for range 2 {
		s = open()
		must(t, s.Ping(ctx))
		same(t, want, stored(t, s, "payments"))
		got, err := s.Rotation(ctx, r.ID)
		must(t, err)
		same(t, r, got)
		changed, deleted, revision, err := s.Changed(ctx, 3)
		must(t, err)
		if len(changed) != 0 || !slices.Equal(deleted, []string{"other"}) || revision != 5 {
			t.Errorf("after a restart: %v, %v, %d", names(changed), deleted, revision)
		}
		begun, err := s.BeginAttempt(ctx, store.Attempt{Principal: "p", Key: "k", Fingerprint: "other", StartedAt: t0})
		must(t, err)
		same(t, &store.Attempt{Principal: "p", Key: "k", Fingerprint: "f", StartedAt: t0}, begun)
		must(t, s.Close())
	}
}
