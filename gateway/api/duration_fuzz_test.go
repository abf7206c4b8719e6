package api_test

import (
	"testing"

	"keyhole/gateway/api"
)

// A duration that is read is written so that it is read again.
func FuzzDuration(f *testing.F) {
	for _, s := range []string{"720h", "30m", "1ns", "-1h", "1", "9999999h", "1h1h", "\u00b5s", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var d, again api.Duration
		if d.UnmarshalText([]byte(s)) != nil {
			return
		}
		text, err := d.MarshalText()
		if err != nil || again.UnmarshalText(text) != nil || again != d {
			t.Fatalf("%q is read as %d, written as %q, read as %d", s, d, text, again)
		}
	})
}
