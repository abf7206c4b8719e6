package rotation

import (
	"context"
	"time"

	"keyhole/audit"
	"keyhole/keys"
	"keyhole/store"
)

// Update is a change of what a key says about itself. Nil fields stay.
type Update struct {
	Description *string
	Tags        *map[string]string
	Policy      *keys.Policy
	Epoch       uint64 // 0: any
}

// UpdateKey changes a key. Errors: keys.ErrKeyNotFound, ErrInvalid,
// ErrConflict (Epoch is given and has moved on), ErrAudit, ErrStore.
func (e *Engine) UpdateKey(ctx context.Context, actor Actor, name string, u Update) (*keys.Key, error) {
	if u.Policy != nil {
		if err := u.Policy.Check(e.limits); err != nil {
			return nil, err
		}
	}
	return e.act(ctx, actor, name, 0, "update-key", nil, func(k *keys.Key, _ time.Time) (*keys.Key, error) {
		if u.Epoch != 0 && u.Epoch != k.Epoch {
			return nil, keys.Errorf(keys.ErrConflict, "key %q is at epoch %d, not %d; read it again", name, k.Epoch, u.Epoch)
		}
		c := k.Clone()
		if u.Description != nil {
			c.Description = *u.Description
		}
		if u.Tags != nil {
			c.Tags = *u.Tags
		}
		if u.Policy != nil {
			c.Policy = *u.Policy
		}
		return c, nil
	})
}

// Suspend takes a version out of use until Resume. If it was the active one
// and its predecessor is still in its overlap, the predecessor is active in
// the meantime. Errors: keys.ErrKeyNotFound, ErrVersionNotFound,
// ErrVersionState, ErrAudit, ErrStore.
func (e *Engine) Suspend(ctx context.Context, actor Actor, name string, n uint32, note string) (*keys.Key, error) {
	return e.event(ctx, actor, name, n, "suspend", keys.EventSuspend, note)
}

// Resume undoes Suspend. Errors as Suspend.
func (e *Engine) Resume(ctx context.Context, actor Actor, name string, n uint32, note string) (*keys.Key, error) {
	return e.event(ctx, actor, name, n, "resume", keys.EventResume, note)
}

// Revoke declares a version compromised, at once and for good. If it was the
// newest in use a successor is generated and activated; should that fail the
// revocation stands all the same, and Run goes on trying. Errors as Suspend.
func (e *Engine) Revoke(ctx context.Context, actor Actor, name string, n uint32, note string) (*keys.Key, error) {
	ctx, cancel := detach(ctx)
	defer cancel()
	k, err := e.event(ctx, actor, name, n, "revoke", keys.EventRevoke, note)
	if err != nil {
		return nil, err
	}
	if reason, due := dueReason(k, e.clock()); !due || reason != keys.ReasonCompromise {
		return k, nil
	}
	if err := e.rotateDue(ctx, actor, name); err != nil {
		e.log.ErrorContext(ctx, "no successor for a revoked version yet; trying again", "key", name, "version", n, "err", err)
	}
	return e.store.Key(ctx, name)
}

func (e *Engine) event(ctx context.Context, actor Actor, name string, n uint32, action string, ev keys.Event, note string) (*keys.Key, error) {
	var details map[string]string
	if note != "" {
		details = map[string]string{"note": note}
	}
	return e.act(ctx, actor, name, n, action, details, func(k *keys.Key, now time.Time) (*keys.Key, error) {
		// A version in the making is nobody's yet; changed now, its rotation
		// could neither go on nor be undone.
		if v, err := k.Version(n); err == nil && v.CreatedAt.IsZero() {
			return nil, keys.Errorf(keys.ErrVersionNotFound, "key %q has no version %d", name, n)
		}
		c, err := k.Apply(n, ev, now, now)
		if err != nil {
			return nil, err
		}
		if ev == keys.EventRevoke {
			v, err := c.Version(n)
			if err != nil {
				return nil, err
			}
			v.RevokeReason = note
		}
		return c, nil
	})
}

// act is the frame of every change that is one write: try it on paper,
// record the intent, commit, record the outcome. n is the version it is
// about, or 0.
func (e *Engine) act(ctx context.Context, actor Actor, name string, n uint32, action string, details map[string]string,
	change func(k *keys.Key, now time.Time) (*keys.Key, error),
) (*keys.Key, error) {
	ctx, cancel := detach(ctx)
	defer cancel()
	start := e.clock()
	k, err := e.store.Key(ctx, name)
	if err != nil {
		return nil, err
	}
	if _, err := change(k, start); err != nil {
		return nil, err // refused before anything was begun
	}
	rec := e.record(actor, action, k, n)
	rec.StartedAt, rec.Details = start, details
	rec.Outcome = audit.OutcomeIntent
	intent, err := e.audit.Append(ctx, rec)
	if err != nil {
		return nil, err
	}
	changed, cerr := retryConflict(func() (*keys.Key, error) {
		k, err := e.store.Key(ctx, name)
		if err != nil {
			return nil, err
		}
		c, err := change(k, e.clock())
		if err != nil {
			return nil, err
		}
		c.Epoch = k.Epoch + 1
		return c, e.commit(ctx, store.Change{Key: c, FromEpoch: k.Epoch})
	})
	rec.Intent = &intent
	rec.Time, rec.CompletedAt = time.Time{}, e.clock()
	rec.Outcome = audit.OutcomeOK
	if cerr != nil {
		rec.Outcome, rec.Reason = audit.OutcomeError, publicText(cerr)
	}
	if _, err := e.audit.Append(ctx, rec); err != nil && cerr == nil {
		return nil, err // the act stands; the caller sees that it was not recorded
	}
	return changed, cerr
}
