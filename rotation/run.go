package rotation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// tick is how often the engine looks for what is due.
const tick = time.Second

// Back-off of automatic rotations that fail, per key.
const (
	firstBackoff = 5 * time.Second
	lastBackoff  = time.Hour
)

// Recover takes up every rotation that a crash left open. Call it once,
// before requests are served. A rotation that still cannot be finished is
// logged and left for Run; the returned error is about the store.
func (e *Engine) Recover(ctx context.Context) error {
	open, err := e.store.Rotations(ctx, store.RotationFilter{OpenOnly: true})
	if err != nil {
		return fmt.Errorf("listing open rotations: %w", err)
	}
	for _, r := range open {
		if ctx.Err() != nil || !e.mayTry(r.Key) || !e.claim(r.ID) {
			continue
		}
		err := e.takeUp(ctx, r.ID)
		e.noteResult(r.Key, err)
		if err != nil {
			e.log.ErrorContext(ctx, "interrupted rotation not finished", "rotation", r.ID, "err", err)
		}
	}
	return nil
}

// takeUp finishes a claimed rotation. It is read anew: whoever had the claim
// before may have ended it since it was listed.
func (e *Engine) takeUp(ctx context.Context, id string) error {
	ctx, cancel := detach(ctx)
	defer cancel()
	r, err := e.store.Rotation(ctx, id)
	if err != nil {
		e.release(id)
		return err
	}
	if !r.Phase.Done() {
		e.log.InfoContext(ctx, "taking up an interrupted rotation", "key", r.Key, "version", r.To, "phase", r.Phase, "rotation", r.ID)
	}
	_, err = e.advance(ctx, systemActor, r)
	return err
}

// Run rotates by itself what is due, until ctx ends. It is the only timer
// loop in the engine.
func (e *Engine) Run(ctx context.Context) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := e.Tick(ctx); err != nil {
				e.log.ErrorContext(ctx, "looking for due rotations", "err", err)
			}
		}
	}
}

// Tick looks once for what is due and does it. Automatic rotations that fail
// are tried again with growing pauses.
func (e *Engine) Tick(ctx context.Context) error {
	if err := e.Recover(ctx); err != nil {
		return err
	}
	all, err := e.keys()
	if err != nil {
		return err
	}
	for _, k := range all {
		reason, due := dueReason(k, e.clock())
		if !due || ctx.Err() != nil || !e.mayTry(k.Name) {
			continue
		}
		err := e.rotateDue(ctx, systemActor, k.Name)
		e.noteResult(k.Name, err)
		if err != nil && !errors.Is(err, keys.ErrRotationRunning) {
			e.log.ErrorContext(ctx, "automatic rotation failed", "key", k.Name, "reason", reason, "err", err)
		}
	}
	return nil
}

// errNotDue ends a rotation that would have been the second one for the same
// reason.
var errNotDue = errors.New("no rotation is due")

// rotateDue rotates a key if the store, too, says that it is due: a snapshot
// may not know yet of a rotation that came between.
func (e *Engine) rotateDue(ctx context.Context, actor Actor, name string) error {
	_, err := e.Rotate(ctx, actor, name, RotateSpec{ifDue: true})
	if errors.Is(err, errNotDue) {
		return nil
	}
	return err
}

// dueReason reports whether k wants a new version at now, and why: its
// newest version is revoked, or the active one is older than the policy's
// period.
func dueReason(k *keys.Key, now time.Time) (keys.Reason, bool) {
	var newest *keys.Version // of those whose time has come
	for _, v := range k.Versions {
		if k.StateAt(v, now) == keys.PreActivation {
			return "", false // on its way
		}
		started := !v.CreatedAt.IsZero() && !v.ActivateAt.IsZero() && !v.ActivateAt.After(now)
		if started && (newest == nil || !v.ActivateAt.Before(newest.ActivateAt)) {
			newest = v
		}
	}
	if newest != nil && !newest.RevokedAt.IsZero() {
		return keys.ReasonCompromise, true // an older one may be active meanwhile
	}
	active := k.ActiveAt(now)
	due := active != nil && k.Policy.Period > 0 && !now.Before(active.ActivateAt.Add(k.Policy.Period))
	return keys.ReasonScheduled, due
}

// mayTry reports whether the key's back-off has passed.
func (e *Engine) mayTry(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.clock().Before(e.retryAt[key])
}

func (e *Engine) noteResult(key string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		delete(e.retryAt, key)
		delete(e.backoff, key)
		return
	}
	pause := min(max(2*e.backoff[key], firstBackoff), lastBackoff)
	e.backoff[key] = pause
	e.retryAt[key] = e.clock().Add(pause)
}

// Rotation returns one rotation, or keys.ErrNotFound.
func (e *Engine) Rotation(ctx context.Context, id string) (*keys.Rotation, error) {
	return e.store.Rotation(ctx, id)
}

// Rotations returns rotations, newest first.
func (e *Engine) Rotations(ctx context.Context, f store.RotationFilter) ([]*keys.Rotation, error) {
	return e.store.Rotations(ctx, f)
}
