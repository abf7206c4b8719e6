package client

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"keyhole/client/internal/ring"
	"keyhole/keys"
)

// acknowledge sees to the versions that wait, until ctx ends.
func (f *followed) acknowledge(ctx context.Context) {
	tries := 0
	for {
		retry := f.acknowledgeAll(ctx)
		var due <-chan time.Time
		if retry {
			due = time.After(backOff(tries))
			tries++
		} else {
			tries = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-due:
		case <-f.wakeAcker:
		}
	}
}

// acknowledgeAll sees to each version that waits, and reports whether one
// must be tried again.
func (f *followed) acknowledgeAll(ctx context.Context) (retry bool) {
	f.mu.Lock()
	waiting := slices.Sorted(maps.Keys(f.waiting))
	f.mu.Unlock()
	for _, n := range waiting {
		if ctx.Err() != nil {
			return false
		}
		id := keys.VersionID{Key: f.name, Number: n}
		done, err := f.acknowledgeOne(ctx, id)
		if err != nil && ctx.Err() == nil {
			f.w.cfg.Log.WarnContext(ctx, "the version is not acknowledged", "version", id.String(), "given_up", done, "err", err)
		}
		if !done {
			retry = true
			continue
		}
		f.mu.Lock()
		delete(f.waiting, n)
		f.settled[n] = true
		f.mu.Unlock()
	}
	return retry
}

// acknowledgeOne does what is left to do for a version. done is false if it
// must be tried again.
func (f *followed) acknowledgeOne(ctx context.Context, id keys.VersionID) (done bool, err error) {
	v, ok := f.ring.Version(id.Number)
	switch {
	case !ok, v.State == keys.Suspended:
		return false, nil
	case !v.State.Published():
		return true, nil // nobody waits for it any more
	case !v.Ready():
		return false, nil
	}
	f.mu.Lock()
	entry := f.waiting[id.Number]
	f.mu.Unlock()
	if !entry.taken && f.w.cfg.OnVersion != nil { // taken is acknowledge's own
		if err := f.w.cfg.OnVersion(ctx, f.announced(v)); err != nil {
			return false, err
		}
	}
	entry.taken = true
	_, err = f.w.c.Acknowledge(ctx, id)
	switch {
	case errors.Is(err, keys.ErrNotSubscribed):
		f.resubscribe()
		f.changed(nil)
		return false, err
	case errors.Is(err, keys.ErrVersionState), errors.Is(err, keys.ErrVersionNotFound), errors.Is(err, keys.ErrInvalid):
		return true, err // given up or gone
	}
	return err == nil, err
}

func (f *followed) announced(v ring.Version) AnnouncedVersion {
	out := AnnouncedVersion{ID: keys.VersionID{Key: f.name, Number: v.Number}, State: v.State}
	if v.Public != nil {
		out.Algorithm, out.PublicKey = v.Public.Algorithm, v.Public.Key
	}
	return out
}
