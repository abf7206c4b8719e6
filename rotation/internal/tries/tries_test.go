package tries_test

import (
	"testing"

	"keyhole/keys"
	"keyhole/rotation/internal/tries"
)

// Each try has an id of its own, and every one knows those before it.
func TestTries(t *testing.T) {
	t.Parallel()
	id := tries.First()
	if len(tries.Before(id)) != 0 || tries.First() == id {
		t.Fatal("the first try is not the first")
	}
	seen := []keys.ObjectID{id}
	for {
		next, ok := tries.Next(id)
		if !ok {
			break
		}
		before := tries.Before(next)
		if len(before) != len(seen) {
			t.Fatalf("%d before, want %d", len(before), len(seen))
		}
		for i, b := range before {
			if b != seen[i] || !tries.Earlier(b[:], next) || tries.Earlier(next[:], b) {
				t.Fatalf("%s is not known before %s", b, next)
			}
		}
		seen, id = append(seen, next), next
	}
	if len(seen) != 256 {
		t.Errorf("%d tries", len(seen))
	}
	other := tries.First()
	if tries.Earlier(other[:], id) || tries.Earlier(id[:], id) || tries.Earlier(id[:15], id) || tries.Earlier(nil, id) {
		t.Error("what is no try of the version is taken for one")
	}
}
