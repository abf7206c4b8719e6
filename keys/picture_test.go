package keys_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"keyhole/keys"
)

// The picture in docs/rotation.md shows the table of transitions: every edge
// of it, and nothing else.
func TestPictureOfStates(t *testing.T) {
	t.Parallel()
	svg, err := os.ReadFile("../docs/rotation-states.svg")
	if err != nil {
		t.Fatal(err)
	}
	var drawn, want []string
	for _, m := range regexp.MustCompile(`data-edges="([^"]*)"`).FindAllStringSubmatch(string(svg), -1) {
		drawn = append(drawn, strings.Split(m[1], "; ")...)
	}
	for _, s := range keys.States() {
		if !strings.Contains(string(svg), ">"+string(s)+"<") {
			t.Errorf("the picture has no state %q", s)
		}
		for _, ev := range events {
			to, _ := keys.Transition(s, ev)
			for _, next := range to {
				want = append(want, string(s)+" "+string(ev)+" "+string(next))
			}
		}
	}
	slices.Sort(drawn)
	slices.Sort(want)
	for _, e := range drawn {
		if !slices.Contains(want, e) {
			t.Errorf("the picture shows %q, which the table does not have", e)
		}
	}
	for _, e := range want {
		if !slices.Contains(drawn, e) {
			t.Errorf("the picture does not show %q", e)
		}
	}
	if len(slices.Compact(slices.Clone(drawn))) != len(drawn) {
		t.Error("the picture shows an edge twice")
	}
}
