package rotation

import (
	"context"
	"log/slog"
	"testing"

	"keyhole/keys"
	"keyhole/store"
)

// refusing is a store that refuses every change.
type refusing struct {
	Store
	err error
}

func (s refusing) Commit(context.Context, store.Change) error { return s.err }

// TestNothingIsKeptOfARefusedRotation: whoever asks for a rotation while
// another one runs, again and again, fills no memory. What may have been
// written is kept.
func TestNothingIsKeptOfARefusedRotation(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]int{keys.ErrRotationRunning: 0, keys.ErrConflict: 0, keys.ErrStore: 1} {
		e := New(Config{Store: refusing{err: err}, Log: slog.New(slog.DiscardHandler)})
		k := &keys.Key{Name: "payments", Versions: []*keys.Version{{Number: 1}}}
		if e.begin(t.Context(), systemActor, k, &keys.Version{}, &keys.Rotation{}) == nil {
			t.Error("the store refused, and it was begun")
		}
		if len(e.own) != want || len(e.running) != 0 {
			t.Errorf("%v: %d rotations are kept, want %d; %d are worked on", err, len(e.own), want, len(e.running))
		}
	}
}
