package tail

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"keyhole/keys"
)

// Follower is one who follows a Tail.
type Follower struct {
	Cursor   uint64          // the last event that was looked at
	Expires  time.Duration   // from now on until Allowed will refuse; 0: never by time
	Idle     time.Duration   // longest time without a call of Send or Quiet
	Draining <-chan struct{} // ends the following when it is closed; nil: never
	Log      *slog.Logger

	// Allowed is asked before each reading; its error ends the following.
	Allowed func() error
	// Sees decides whether an event is sent.
	Sees func(keys.Notice) (bool, error)
	Send func(keys.Notice) error
	// Reset tells that the events up to newest are not sent, because they are
	// gone or never were.
	Reset func(newest uint64) error
	// Quiet is called first, and then whenever nothing was sent for Idle.
	Quiet func() error
}

// retry is how soon a store that cannot be read is tried again.
const retry = time.Second

// errDraining ends a following in good order.
var errDraining = errors.New("draining")

// Follow sends events until ctx ends or a function of f fails, and returns
// that error; nil when Draining is closed. A store that cannot be read for a
// moment (keys.ErrStore) does not end it.
func (t *Tail) Follow(ctx context.Context, f Follower) error {
	quiet := time.NewTicker(f.Idle)
	defer quiet.Stop()
	var expired <-chan time.Time
	if f.Expires > 0 {
		timer := time.NewTimer(f.Expires)
		defer timer.Stop()
		expired = timer.C
	}
	if err := f.Quiet(); err != nil {
		return err
	}
	for {
		changed := t.Changed()
		var again <-chan time.Time
		switch err := t.drain(ctx, &f, quiet); {
		case errors.Is(err, errDraining):
			return nil
		case err != nil && ctx.Err() == nil && errors.Is(err, keys.ErrStore):
			f.Log.WarnContext(ctx, "events cannot be read; trying again", "err", err)
			again = time.After(retry)
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.Draining:
			return nil
		case <-expired:
		case <-changed:
		case <-again:
		case <-quiet.C:
			if err := f.Quiet(); err != nil {
				return err
			}
		}
	}
}

// drain sends all events that there are.
func (t *Tail) drain(ctx context.Context, f *Follower, quiet *time.Ticker) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.Draining:
			return errDraining
		default:
		}
		if err := f.Allowed(); err != nil {
			return err
		}
		events, complete, err := t.Next(ctx, f.Cursor)
		switch {
		case err != nil:
			return err
		case !complete:
			if err := t.restart(ctx, f); err != nil {
				return err
			}
			continue
		case len(events) == 0:
			return nil
		}
		for _, n := range events {
			seen, err := f.Sees(n)
			if err == nil && seen {
				err = f.Send(n)
				quiet.Reset(f.Idle)
			}
			if err != nil {
				return err
			}
			f.Cursor = n.ID
		}
	}
}

// restart goes on at the end of the stream.
func (t *Tail) restart(ctx context.Context, f *Follower) error {
	newest, err := t.Newest(ctx)
	if err != nil {
		return err
	}
	f.Cursor = newest
	return f.Reset(newest)
}
