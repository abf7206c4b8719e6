package rotation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyhole/audit"
	"keyhole/keys"
	"keyhole/store"
)

// advance takes a rotation from whatever state it is in as far as the moment
// permits, and returns it. ctx is of the rotation's lease.
func (e *Engine) advance(ctx context.Context, actor Actor, id string) (*keys.Rotation, error) {
	for {
		r, err := e.store.Rotation(ctx, id)
		if err != nil {
			return nil, lostOr(ctx, err)
		}
		if r.Phase.Done() {
			e.forget(id)
			return r, nil
		}
		moved, err := e.step(ctx, actor, r)
		if err != nil {
			return nil, lostOr(ctx, err)
		}
		if !moved {
			return r, nil
		}
	}
}

// advanceSoon is advance, after waiting for whoever works on the rotation.
func (e *Engine) advanceSoon(ctx context.Context, actor Actor, id string) error {
	held, done, err := e.leases.Wait(ctx, leaseOf(id))
	if err != nil {
		return err
	}
	defer done()
	_, err = e.advance(held, actor, id)
	return err
}

// step looks at the rotation's state and takes one step. It reports whether
// there was one to take.
func (e *Engine) step(ctx context.Context, actor Actor, r *keys.Rotation) (moved bool, err error) {
	switch {
	case undoing(r):
		return e.undo(ctx, actor, r, nil)
	case r.Phase == keys.PhaseReserved:
		return true, e.generate(ctx, actor, r)
	case r.Phase == keys.PhaseAnnounced, r.Phase == keys.PhaseScheduled:
		return e.move(ctx, r)
	case r.Phase == keys.PhaseActivated:
		return true, e.conclude(ctx, actor, r)
	}
	return false, fmt.Errorf("rotation %s: no step from phase %q: %w", r.ID, r.Phase, keys.ErrInternal)
}

// move takes a rotation that waits a step further, if it need not wait any
// longer.
func (e *Engine) move(ctx context.Context, r *keys.Rotation) (moved bool, err error) {
	return e.change(ctx, r, func(t *turn) error { return e.forward(ctx, t) })
}

// forward is turn.forward over what the agents say by now.
func (e *Engine) forward(ctx context.Context, t *turn) error {
	c, err := e.crowdOf(ctx, t.r, t.now)
	if err != nil {
		return err
	}
	return t.forward(c)
}

// crowdOf reads what the agents say, if r still waits for them, and notes in
// r who they are.
func (e *Engine) crowdOf(ctx context.Context, r *keys.Rotation, now time.Time) (crowd, error) {
	if !r.Acks.Waits() || r.Phase != keys.PhaseAnnounced {
		return crowd{}, nil
	}
	c, err := e.crowd(ctx, r, now)
	if err == nil {
		r.Expected = c.expected
	}
	return c, err
}

// change is one durable write about a rotation that has not ended: look at
// the key and the rotation as they are, decide, commit. It reports whether
// there was anything to write. One that has ended, or is to be undone, is
// left alone; that is something to look at.
func (e *Engine) change(ctx context.Context, r *keys.Rotation, decide func(t *turn) error) (moved bool, err error) {
	return retryConflict(func() (bool, error) {
		// The key first: whoever changes the rotation changes the key's epoch
		// too, and a rotation that is older than its key would not be noticed.
		k, err := e.store.Key(ctx, r.Key)
		if err != nil {
			return false, err
		}
		r, err := e.store.Rotation(ctx, r.ID)
		if err != nil {
			return false, err
		}
		if r.Phase.Done() || undoing(r) {
			return true, nil
		}
		t := e.turn(k, r, e.clock())
		if err := decide(t); err != nil || !t.moved {
			return false, err
		}
		return true, e.put(ctx, k, t.change(), t.now)
	})
}

// conclude records the outcome and closes the rotation.
func (e *Engine) conclude(ctx context.Context, actor Actor, r *keys.Rotation) error {
	k, err := e.store.Key(ctx, r.Key)
	if err != nil {
		return err
	}
	v, err := k.Version(r.To)
	if err != nil {
		return err
	}
	rec := e.rotationRecord(actor, r, k, v, audit.OutcomeOK, nil)
	rec.Intent = e.intentOf(ctx, r)
	if err := e.witnesses(ctx, r, rec.Details); err != nil {
		return err
	}
	if _, err := e.audit.Append(ctx, rec); err != nil {
		return err
	}
	next := *r
	next.Phase = keys.PhaseCompleted
	err = e.commit(ctx, store.Change{Rotation: &next})
	if errors.Is(err, keys.ErrConflict) {
		return nil // another process was faster
	}
	if err == nil {
		e.log.InfoContext(ctx, "key rotated", "key", r.Key, "from", r.From, "to", r.To, "reason", r.Reason, "rotation", r.ID)
	}
	return err
}

// fail decides that a rotation whose version could not be made under a
// CKA_ID is undone, undoes it, and returns the reason, cause. What cannot be
// undone now, Recover and the timer will.
func (e *Engine) fail(ctx context.Context, actor Actor, r *keys.Rotation, ref keys.Ref, cause error) error {
	e.log.ErrorContext(ctx, "rotation failed; undoing it", "key", r.Key, "version", r.To, "rotation", r.ID, "err", cause)
	_, err := e.change(ctx, r, func(t *turn) error {
		if !t.making(ref) {
			return errTakenOver
		}
		t.giveUp(publicText(cause), "")
		return nil
	})
	if err == nil {
		r, err = e.store.Rotation(ctx, r.ID)
	}
	if err == nil && undoing(r) {
		_, err = e.undo(ctx, actor, r, cause)
	}
	if err != nil {
		e.log.ErrorContext(ctx, "rotation not undone yet; it will be taken up again", "rotation", r.ID, "err", err)
	}
	return cause
}

// undo destroys the version of a rotation that is to be undone, and closes
// the rotation, unless a gateway may not know yet that the version must not be
// used: false. cause is the error that it is undone for, if it has just
// happened: a log that could not take the intent need not take the outcome.
func (e *Engine) undo(ctx context.Context, actor Actor, r *keys.Rotation, cause error) (moved bool, err error) {
	k, err := e.store.Key(ctx, r.Key)
	if err != nil {
		return false, err
	}
	v, err := k.Version(r.To)
	if err != nil {
		return false, err
	}
	if !v.ActivatedAt.IsZero() {
		return false, fmt.Errorf("rotation %s: version %s was active and cannot be undone: %w", r.ID, k.ID(v), keys.ErrInternal)
	}
	// A version that was revoked stays, compromised, for whoever looks into
	// it; it goes when its destruction is ordered.
	if v.RevokedAt.IsZero() {
		if !v.CreatedAt.IsZero() { // it was published
			if known, err := e.allKnow(ctx, actor, leaseOf(r.ID)); err != nil || !known {
				return false, err
			}
		}
		if err := stillOurs(ctx); err != nil {
			return false, err
		}
		if err := e.destroyTries(ctx, k.Ref(v)); err != nil {
			return false, err
		}
	}
	next := *r
	next.Phase, next.CompletedAt = keys.PhaseAborted, e.clock()
	if cause == nil {
		cause = keys.Errorf(keys.ErrConflict, "%s", r.Error)
	}
	rec := e.rotationRecord(actor, &next, k, v, audit.OutcomeError, cause)
	rec.Intent = e.intentOf(ctx, r)
	if _, err := e.audit.Append(ctx, rec); err != nil && !errors.Is(cause, keys.ErrAudit) {
		return false, err
	}
	_, err = retryConflict(func() (struct{}, error) {
		k, err := e.store.Key(ctx, r.Key)
		if err != nil {
			return struct{}{}, err
		}
		now, err := e.store.Rotation(ctx, r.ID)
		if err != nil || now.Phase.Done() {
			return struct{}{}, err // another process was faster
		}
		return struct{}{}, e.close(ctx, k, &next)
	})
	return true, err
}

// close is the write that ends a rotation which is undone.
func (e *Engine) close(ctx context.Context, k *keys.Key, r *keys.Rotation) error {
	now := e.clock()
	if r.Reason == keys.ReasonInitial {
		// Nothing was ever made under this name: it stays free.
		return e.put(ctx, k, store.Change{Key: k, Delete: true, Rotation: r}, now)
	}
	c := k.Clone()
	v, err := c.Version(r.To)
	if err != nil {
		return err
	}
	announced := !v.CreatedAt.IsZero()
	if v.RevokedAt.IsZero() {
		v.SuspendedAt, v.ActivateAt = time.Time{}, time.Time{}
		if c, err = c.Apply(r.To, keys.EventDestroy, now, now); err != nil {
			return err
		}
	}
	notices := []keys.Notice{notice(keys.NoticeAborted, c, r.To, now, r.Error)}
	if announced && v.RevokedAt.IsZero() {
		notices = append(notices, notice(keys.NoticeDestroyed, c, r.To, now, r.Error))
	}
	for i := range notices {
		notices[i].Rotation = r.ID
	}
	return e.put(ctx, k, store.Change{Key: c, Rotation: r, Notices: notices}, now)
}

// publicText is what administrators may see of an error.
func publicText(err error) string {
	var e *keys.Error
	if errors.As(err, &e) {
		return e.Detail
	}
	for _, sentinel := range []error{keys.ErrHSM, keys.ErrAudit, keys.ErrStore, keys.ErrTimeout, keys.ErrUnsupported} {
		if errors.Is(err, sentinel) {
			return sentinel.Error()
		}
	}
	return keys.ErrInternal.Error()
}
