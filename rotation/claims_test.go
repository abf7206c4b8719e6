package rotation

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// refusing is a store that refuses every change.
type refusing struct {
	Store
	err error
}

func (s refusing) Commit(context.Context, store.Change) error { return s.err }

func (refusing) AcquireLease(context.Context, string, string, time.Duration) (bool, error) {
	return true, nil
}

func (refusing) ReleaseLease(context.Context, string, string) error { return nil }

// TestNothingIsKeptOfARefusedRotation: whoever asks for a rotation while
// another one runs, again and again, fills no memory. What may have been
// written is kept.
func TestNothingIsKeptOfARefusedRotation(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]int{keys.ErrRotationRunning: 0, keys.ErrConflict: 0, keys.ErrStore: 1} {
		e := New(Config{Store: refusing{err: err}, Log: slog.New(slog.DiscardHandler)})
		k := &keys.Key{Name: "payments", Versions: []*keys.Version{{Number: 1}}}
		r := &keys.Rotation{}
		if _, berr := e.begin(t.Context(), systemActor, k, &keys.Version{}, r); berr == nil {
			t.Error("the store refused, and it was begun")
		}
		if len(e.unused) != want || e.leases.Busy(leaseOf(r.ID)) {
			t.Errorf("%v: %d rotations are kept, want %d; worked on: %v", err, len(e.unused), want, e.leases.Busy(leaseOf(r.ID)))
		}
	}
}
