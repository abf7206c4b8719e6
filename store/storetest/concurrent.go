package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"keyhole/keys"
	"keyhole/store"
)

// together runs f n times at once.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// increment takes a key to its next epoch, however often others come first,
// and returns the epoch.
func increment(ctx context.Context, s store.Store, name string) (uint64, error) {
	for {
		k, err := s.Key(ctx, name)
		if err != nil {
			return 0, err
		}
		next := Step(k, touch)
		err = s.Commit(ctx, store.Change{Key: next, FromEpoch: k.Epoch})
		if err == nil || !errors.Is(err, keys.ErrConflict) {
			return next.Epoch, err
		}
	}
}

// testSameKeyAtOnce: each epoch is used once and no change is lost.
func testSameKeyAtOnce(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("payments", 1))
	second := open()
	defer second.Close()
	const workers, each = 8, 12
	epochs := make(chan uint64, workers*each)
	together(workers, func(i int) {
		for range each {
			epoch, err := increment(ctx, []store.Store{s, second}[i%2], "payments")
			if err != nil {
				t.Errorf("worker %d: %v", i, err)
				return
			}
			epochs <- epoch
		}
	})
	close(epochs)
	seen := map[uint64]bool{}
	for epoch := range epochs {
		if seen[epoch] {
			t.Errorf("epoch %d was used twice", epoch)
		}
		seen[epoch] = true
	}
	k := stored(t, s, "payments")
	if k.Epoch != workers*each+1 || len(k.Description) != workers*each || len(seen) != workers*each {
		t.Errorf("%d changes made epoch %d and left %d traces", workers*each, k.Epoch, len(k.Description))
	}
	if _, revision := load(t, s); revision != workers*each+1 {
		t.Errorf("%d commits made revision %d", workers*each+1, revision)
	}
}

// testManyKeysAtOnce: commits to different keys do not disturb each other.
func testManyKeysAtOnce(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	const workers, each = 8, 12
	together(workers, func(i int) {
		name := fmt.Sprintf("key-%d", i)
		k := NewKey(name, 1)
		for range each {
			if err := s.Commit(ctx, store.Change{Key: k, FromEpoch: k.Epoch - 1}); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			k = Step(k, touch)
		}
	})
	all, revision := load(t, s)
	if len(all) != workers || revision != workers*each {
		t.Errorf("%d keys at revision %d", len(all), revision)
	}
	for _, k := range all {
		if k.Epoch != each {
			t.Errorf("%s is at epoch %d", k.Name, k.Epoch)
		}
	}
}

func testCreateAtOnce(t *testing.T, open func() store.Store) {
	_, s := start(t, open)
	made := make([]*keys.Key, 12)
	won := atOnce(t, open, len(made), func(ctx context.Context, s store.Store, i int) error {
		made[i] = NewKey("payments", 1)
		return s.Commit(ctx, store.Change{Key: made[i]})
	}, keys.ErrKeyExists)
	if len(won) != 1 {
		t.Fatalf("%v created the key", won)
	}
	same(t, made[won[0]], stored(t, s, "payments"))
}

// testReadersSeeWholeCommits: each commit adds a version and says so in the
// description; nobody ever sees the one without the other.
func testReadersSeeWholeCommits(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("payments", 0))
	const commits = 40
	done := make(chan struct{})
	check := func(k *keys.Key) bool {
		ok := len(k.Description) == len(k.Versions) && k.Epoch == uint64(len(k.Versions))+1
		if !ok {
			t.Errorf("epoch %d has %d versions and says %d", k.Epoch, len(k.Versions), len(k.Description))
		}
		return ok
	}
	together(3, func(i int) {
		if i == 0 {
			defer close(done)
			for n := range commits {
				commit(t, s, "payments", func(k *keys.Key) {
					k.Versions, k.Description = append(k.Versions, Reserved(uint32(n+1))), k.Description+"."
				})
			}
			return
		}
		var revision uint64
		for {
			select {
			case <-done:
				return
			default:
			}
			changed, _, now, err := s.Changed(ctx, revision)
			if err != nil || now < revision {
				t.Errorf("revision %d behind %d, %v", now, revision, err)
				return
			}
			revision = now
			k, err := s.Key(ctx, "payments")
			if err != nil || !check(k) {
				t.Errorf("reading: %v", err)
				return
			}
			for _, k := range changed {
				if k.Epoch != revision || !check(k) {
					t.Errorf("epoch %d at revision %d", k.Epoch, revision)
					return
				}
			}
		}
	})
}
