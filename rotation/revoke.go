package rotation

import (
	"context"
	"errors"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// Revoke declares a version compromised, at once and for good. That write
// waits for nothing, least of all for the HSM. If the version was the active
// one and another is ready, announced or scheduled, the same write makes that
// one active. Then the token is marked: no copy of the database brings the
// version back, and gateways that cannot reach the store learn of it. A mark
// that fails is made by Reconcile. At last, if none was ready, a successor is
// generated and activated without announcement. Should that fail the
// revocation stands all the same, and Run goes on trying. If the version was
// that of a rotation before its switch, the rotation is aborted and the active
// version stays. Errors as Suspend.
func (e *Engine) Revoke(ctx context.Context, actor Actor, name string, n uint32, note string) (*keys.Key, error) {
	ctx, cancel := detach(ctx)
	defer cancel()
	k, err := e.act(ctx, actor, name, n, "revoke", noted(note), func(k *keys.Key, now time.Time) (store.Change, error) {
		return e.revocation(ctx, k, n, note, now)
	})
	if err != nil {
		return nil, err
	}
	if v, err := k.Version(n); err == nil {
		e.mark(ctx, k, v)
	}
	if err := e.replace(ctx, actor, name); err != nil {
		e.log.ErrorContext(ctx, "no successor for a revoked version yet; trying again", "key", name, "version", n, "err", err)
	}
	return e.store.Key(ctx, name)
}

// revocation is the write that revokes version n of k.
func (e *Engine) revocation(ctx context.Context, k *keys.Key, n uint32, note string, now time.Time) (store.Change, error) {
	if err := made(k, n); err != nil {
		return store.Change{}, err
	}
	c, err := k.Apply(n, keys.EventRevoke, now, now)
	if err != nil {
		return store.Change{}, err
	}
	v, err := c.Version(n)
	if err != nil {
		return store.Change{}, err
	}
	v.RevokeReason = note
	told := notice(keys.NoticeRevoked, c, n, now, note)
	r, err := e.openRotation(ctx, k.Name)
	if err != nil {
		return store.Change{}, err
	}
	ready := r != nil && r.To != n && !undoing(r) && (r.Phase == keys.PhaseAnnounced || r.Phase == keys.PhaseScheduled)
	if ready && successorWanted(c, now) {
		t := e.turn(k, r, now)
		t.key = c
		t.notices = []keys.Notice{told}
		if err := t.forward(crowd{expected: r.Expected, skipped: r.Skipped}); err != nil {
			return store.Change{}, err
		}
		if t.moved && !undoing(t.r) {
			return t.change(), nil
		}
	}
	return store.Change{Key: c, Notices: append([]keys.Notice{told}, switched(k, c, now, note)...)}, nil
}

// openRotation returns the rotation of a key that has not ended, or nil.
func (e *Engine) openRotation(ctx context.Context, key string) (*keys.Rotation, error) {
	open, err := e.store.Rotations(ctx, store.RotationFilter{Key: key, OpenOnly: true, Limit: 1})
	if err != nil || len(open) == 0 {
		return nil, err
	}
	return open[0], nil
}

// replace does what a revocation brings about: the rotation that was under
// way is switched or aborted, and if the key wants a successor still, one is
// made.
func (e *Engine) replace(ctx context.Context, actor Actor, name string) error {
	err := e.replaceOnce(ctx, actor, name)
	if errors.Is(err, keys.ErrRotationRunning) { // the timer was first: its rotation is seen to its end
		err = e.replaceOnce(ctx, actor, name)
	}
	return err
}

func (e *Engine) replaceOnce(ctx context.Context, actor Actor, name string) error {
	r, err := e.openRotation(ctx, name)
	if err != nil {
		return err
	}
	if r != nil {
		if err := e.advanceSoon(ctx, actor, r.ID); err != nil {
			e.log.ErrorContext(ctx, "the rotation of a key with a revoked version has not ended yet", "rotation", r.ID, "err", err)
		}
	}
	k, err := e.store.Key(ctx, name)
	if err != nil || !successorWanted(k, e.clock()) {
		return err
	}
	if _, err = e.Rotate(ctx, actor, name, RotateSpec{ifDue: true}); errors.Is(err, errNotDue) {
		return nil
	}
	return err
}
