package client

import (
	"testing"

	"keyhole/client/internal/sse"
)

// An event that a gateway sends is read or refused, whatever it holds.
func FuzzEvent(f *testing.F) {
	f.Add("version.activated", "17", []byte(`{"id":17,"type":"version.activated","key":"payments","version":2}`))
	f.Add("", "18446744073709551616", []byte(`{}`))
	f.Add("x", "-1", []byte(`null`))
	f.Add("x", "1", []byte(`[`))
	f.Fuzz(func(t *testing.T, kind, id string, data []byte) {
		ev, err := readEvent(sse.Event{Type: kind, ID: id, Data: data})
		if err == nil && kind != "" && ev.Type == "" {
			t.Fatalf("%+v", ev)
		}
	})
}
