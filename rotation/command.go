package rotation

import (
	"context"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// skew is how far the clocks of gateways may differ without any harm.
const skew = 5 * time.Second

// leastMargin is the abort margin where there is one gateway only.
const leastMargin = 2 * time.Second

// abortMargin is how long before a planned switch a rotation can still be
// aborted: by then every gateway knows of it, that with the fastest clock too,
// and none uses a version that is about to be destroyed.
func abortMargin(propagation time.Duration) time.Duration {
	if propagation == 0 {
		return leastMargin
	}
	return max(propagation, skew) + leastMargin
}

// ActivateRotation switches without waiting any longer: neither for the rest
// of the announce time, nor for acknowledgements, nor for a coordinated
// moment. It is possible in every phase before the switch, and may be
// repeated. A version that is still being generated is switched to when it is
// there. Errors: keys.ErrNotFound, ErrConflict (it was aborted, or has
// switched without this), ErrVersionState (the version is suspended),
// ErrTampered, ErrAudit, ErrStore.
func (e *Engine) ActivateRotation(ctx context.Context, actor Actor, id, note string) (*keys.Rotation, error) {
	return e.order(ctx, actor, id, "activate-rotation", note, func(r *keys.Rotation) bool { return r.ForcedBy != "" },
		func(ctx context.Context, t *turn) error {
			if v, err := t.key.Version(t.r.To); err != nil {
				return err
			} else if !v.SuspendedAt.IsZero() {
				return keys.Errorf(keys.ErrVersionState, "version %s is suspended; resume it first", t.key.ID(v))
			}
			t.r.ForcedBy, t.moved = actor.Principal, true
			switch {
			case t.r.Phase == keys.PhaseReserved:
				return nil
			case t.r.Phase == keys.PhaseScheduled && t.soonest(false).Before(t.r.SwitchAt):
				if err := t.planSwitch(t.soonest(false)); err != nil {
					return err
				}
			}
			return e.forward(ctx, t)
		})
}

// AbortRotation gives a rotation up and destroys its new version; the old one
// stays active. It is possible in every phase before the switch, and may be
// repeated. The decision is durable when it returns nil; should the
// destruction fail, Run goes on trying. Errors: keys.ErrNotFound, ErrConflict
// (it has switched, is about to, or was aborted by the engine), ErrTampered,
// ErrAudit, ErrStore.
func (e *Engine) AbortRotation(ctx context.Context, actor Actor, id, note string) (*keys.Rotation, error) {
	why := "aborted by " + actor.Principal
	if note != "" {
		why += ": " + note
	}
	return e.order(ctx, actor, id, "abort-rotation", note, func(r *keys.Rotation) bool { return r.EndedBy != "" },
		func(_ context.Context, t *turn) error {
			v, err := t.key.Version(t.r.To)
			if err != nil {
				return err
			}
			// One that was suspended before its switch was used by nobody.
			inUse := usableAt(v, t.r.SwitchAt.Add(-t.propagation))
			if t.r.Phase == keys.PhaseScheduled && t.r.SwitchAt.Sub(t.now) < abortMargin(t.propagation) && inUse {
				return keys.Errorf(keys.ErrConflict, "rotation %s switches at %s, too soon to be aborted everywhere; suspend or revoke the version if it must not be used",
					t.r.ID, t.r.SwitchAt.Format(time.RFC3339))
			}
			t.giveUp(why, actor.Principal)
			return nil
		})
}

// order is an act on a rotation that has not switched, and what follows from
// it. given reports whether a rotation bears the same order already.
func (e *Engine) order(ctx context.Context, actor Actor, id, action, note string, given func(*keys.Rotation) bool,
	decide func(ctx context.Context, t *turn) error,
) (*keys.Rotation, error) {
	ctx, cancel := detach(ctx)
	defer cancel()
	r, err := e.store.Rotation(ctx, id)
	if err != nil {
		return nil, err
	}
	if !given(r) {
		if err := beforeSwitch(r); err != nil {
			return nil, err
		}
		_, err := e.act(ctx, actor, r.Key, r.To, action, noted(note), func(k *keys.Key, now time.Time) (store.Change, error) {
			r, err := e.store.Rotation(ctx, id)
			if err == nil {
				err = beforeSwitch(r)
			}
			if err != nil {
				return store.Change{}, err
			}
			t := e.turn(k, r, now)
			if err := decide(ctx, t); err != nil {
				return store.Change{}, err
			}
			return t.change(), nil
		})
		if err != nil {
			return nil, err
		}
	}
	if r.Phase.Done() {
		return r, nil
	}
	// Whoever works on it, here or elsewhere, carries the order out at its next
	// step; should it die, its lease lapses.
	if err := e.advanceSoon(ctx, actor, id); err != nil {
		e.log.ErrorContext(ctx, "an order about a rotation stands, and is not carried out yet", "rotation", id, "order", action, "err", err)
	}
	return e.store.Rotation(ctx, id)
}

// beforeSwitch refuses a rotation about which nothing can be ordered any more.
func beforeSwitch(r *keys.Rotation) error {
	switch {
	case r.Phase == keys.PhaseAborted:
		return keys.Errorf(keys.ErrConflict, "rotation %s was aborted at %s: %s", r.ID, r.CompletedAt.Format(time.RFC3339), r.Error)
	case r.Phase == keys.PhaseActivated || r.Phase == keys.PhaseCompleted:
		return keys.Errorf(keys.ErrConflict, "rotation %s has switched at %s", r.ID, r.CompletedAt.Format(time.RFC3339))
	case undoing(r):
		return keys.Errorf(keys.ErrConflict, "rotation %s is being aborted: %s", r.ID, r.Error)
	}
	return nil
}
