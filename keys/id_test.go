package keys_test

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"keyhole/keys"
)

func TestNewID(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[0-7][0-9A-HJKMNP-TV-Z]{25}$`)
	var ids []string
	at := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	for i := range 1000 {
		id := keys.NewID(at.Add(time.Duration(i) * time.Millisecond))
		if !form.MatchString(id) {
			t.Fatalf("%q", id)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		t.Error("ids do not sort by time, or come twice")
	}
	if a, b := keys.NewID(at), keys.NewID(at); a == b || a[:10] != b[:10] {
		t.Errorf("of one moment: %s and %s", a, b)
	}
}
