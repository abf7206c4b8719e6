package barrier_test

import (
	"fmt"
	"slices"
	"testing"

	"keyhole/keys"
	"keyhole/rotation/internal/barrier"
)

func TestBarrier(t *testing.T) {
	t.Parallel()
	var b barrier.Barrier
	node := func(name string, revision uint64, live bool) keys.Node {
		return keys.Node{Instance: name, Name: name, Revision: revision, Live: live}
	}
	nodes := []keys.Node{node("self", 1, true), node("a", 9, true), node("dead", 2, false)}
	if behind, ok := b.Passed("x", "self", nodes, 10); ok || !slices.Equal(behind, []string{"a"}) {
		t.Errorf("%v, %v", behind, ok)
	}
	// The store goes on; what counts is where it was.
	nodes[1].Revision = 10
	if _, ok := b.Passed("x", "self", nodes, 20); !ok {
		t.Error("it waits for more than it must")
	}
	if _, ok := b.Passed("y", "self", nodes, 20); ok {
		t.Error("another thing does not wait")
	}
	nodes[1].Live = false
	if _, ok := b.Passed("y", "self", nodes, 20); !ok {
		t.Error("a dead gateway is waited for")
	}
	if _, ok := b.Passed("z", "self", nil, 0); !ok {
		t.Error("there is nobody else")
	}
	// What is forgotten waits anew.
	nodes[1].Live = true
	for i := range 10_001 {
		if _, ok := b.Passed(fmt.Sprint(i), "self", nodes, 30); ok {
			t.Fatal("it does not wait")
		}
	}
}
