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

// UpdateKey changes a key. A rotation that is under way keeps the plan that
// it began with. Errors: keys.ErrKeyNotFound, ErrInvalid, ErrConflict (Epoch
// is given and has moved on), ErrTampered, ErrAudit, ErrStore.
func (e *Engine) UpdateKey(ctx context.Context, actor Actor, name string, u Update) (*keys.Key, error) {
	if u.Policy != nil {
		if err := e.CheckPolicy(*u.Policy); err != nil {
			return nil, err
		}
	}
	details := map[string]string{}
	return e.act(ctx, actor, name, 0, "update-key", details, func(k *keys.Key, _ time.Time) (store.Change, error) {
		if u.Epoch != 0 && u.Epoch != k.Epoch {
			return store.Change{}, keys.Errorf(keys.ErrConflict, "key %q is at epoch %d, not %d; read it again", name, k.Epoch, u.Epoch)
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
		e.updated(k, c, details)
		return store.Change{Key: c}, nil
	})
}

// Suspend takes a version out of use until Resume. If it was the active one
// and its predecessor is still in its overlap, the predecessor is active in
// the meantime. The rotation of a version that is suspended before its switch
// stands still until Resume, or until it is aborted, which a revocation of the
// active version does too.
//
// A suspended version still counts as the one whose time runs: its suspension
// alone makes no rotation due. When its period ends all the same it is
// rotated, so that the stand-in does not serve for ever; a later Resume then
// leaves it deactivated, because its time is over.
//
// Errors: keys.ErrKeyNotFound, ErrVersionNotFound, ErrVersionState,
// ErrTampered, ErrAudit, ErrStore.
func (e *Engine) Suspend(ctx context.Context, actor Actor, name string, n uint32, note string) (*keys.Key, error) {
	return e.event(ctx, actor, name, n, "suspend", keys.EventSuspend, keys.NoticeSuspended, note)
}

// Resume undoes Suspend. Errors as Suspend.
func (e *Engine) Resume(ctx context.Context, actor Actor, name string, n uint32, note string) (*keys.Key, error) {
	return e.event(ctx, actor, name, n, "resume", keys.EventResume, keys.NoticeResumed, note)
}

// event lets something happen to one version and tells of it.
func (e *Engine) event(ctx context.Context, actor Actor, name string, n uint32, action string, ev keys.Event, t keys.NoticeType, note string) (*keys.Key, error) {
	return e.act(ctx, actor, name, n, action, noted(note), func(k *keys.Key, now time.Time) (store.Change, error) {
		if err := made(k, n); err != nil {
			return store.Change{}, err
		}
		c, err := k.Apply(n, ev, now, now)
		if err != nil {
			return store.Change{}, err
		}
		notices := append([]keys.Notice{notice(t, c, n, now, note)}, switched(k, c, now, note)...)
		return store.Change{Key: c, Notices: notices}, nil
	})
}

// made refuses a version in the making: it is nobody's yet; changed now, its
// rotation could neither go on nor be undone.
func made(k *keys.Key, n uint32) error {
	if v, err := k.Version(n); err == nil && v.CreatedAt.IsZero() {
		return keys.Errorf(keys.ErrVersionNotFound, "key %q has no version %d", k.Name, n)
	}
	return nil
}

// noted is the details of an act that somebody gave a reason for.
func noted(note string) map[string]string {
	if note == "" {
		return nil
	}
	return map[string]string{"note": note}
}

// act is the frame of every change that is one write: try it on paper,
// record the intent, commit, record the outcome. n is the version it is
// about, or 0; details go into both records.
//
// change says what is to be committed, from a key that it must not alter: a
// changed Clone, and what goes with it. act fills in the epochs, and key and
// times of the notices. It is called more than once and may only look.
func (e *Engine) act(ctx context.Context, actor Actor, name string, n uint32, action string, details map[string]string,
	change func(k *keys.Key, now time.Time) (store.Change, error),
) (*keys.Key, error) {
	ctx, cancel := detach(ctx)
	defer cancel()
	start := e.clock()
	k, err := e.store.Key(ctx, name)
	if err != nil {
		return nil, err
	}
	planned, err := change(k, start)
	if err != nil {
		return nil, err // refused before anything was begun
	}
	rec := e.record(actor, action, k, n)
	rec.StartedAt, rec.Details = start, details
	if r := planned.Rotation; r != nil {
		rec.Rotation, rec.FromVersion, rec.ToVersion = r.ID, r.From, r.To
	}
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
		now := e.clock()
		c, err := change(k, now)
		if err != nil {
			return nil, err
		}
		return c.Key, e.put(ctx, k, c, now)
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

// put commits a change of the key that was read as k.
func (e *Engine) put(ctx context.Context, k *keys.Key, c store.Change, now time.Time) error {
	c.FromEpoch = k.Epoch
	if !c.Delete {
		c.Key.Epoch = k.Epoch + 1
	}
	stamp(c.Notices, k.Name, now)
	return e.commit(ctx, c)
}
