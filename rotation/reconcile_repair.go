package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keyhole/audit"
	"keyhole/keys"
	"keyhole/rotation/internal/tries"
	"keyhole/store"
)

// settle repairs a difference, if that can be done, and returns what was
// found and done.
func (e *Engine) settle(ctx context.Context, actor Actor, dryRun bool, d difference) Finding {
	var act func(context.Context, Actor, difference) (bool, error)
	switch d.repair {
	case repairDestroy, repairAbandon, repairTry:
		act = e.destroyLeftover
	case repairRevoke:
		act = e.revokeAgain
	default:
		return d.Finding
	}
	if dryRun {
		d.Action = FindingWouldRepair
		return d.Finding
	}
	ctx, cancel := detach(ctx)
	defer cancel()
	done, err := act(ctx, actor, d)
	switch {
	case err != nil:
		e.log.ErrorContext(ctx, "a difference between token and store is not repaired", "kind", d.Kind, "label", d.Label, "err", err)
		d.Action = FindingFailed
		d.Text += ". It could not be repaired (" + publicText(err) + "), and is tried again"
	case done:
		d.Action = FindingRepaired
	default:
		d.Text += ". It is gone by now"
	}
	return d.Finding
}

// destroyLeftover destroys the objects of a version that has none by right,
// and declares one that was never finished destroyed. It reports false if the
// store, asked once more, says otherwise by now.
func (e *Engine) destroyLeftover(ctx context.Context, actor Actor, d difference) (bool, error) {
	k, v, err := e.leftover(ctx, d)
	if err != nil || k == nil {
		return false, err
	}
	rec := e.record(actor, "destroy", k, v.Number)
	rec.Details = map[string]string{"reason": "reconcile: " + string(d.Kind), "token": d.Token, "label": d.Label, "cka_id": d.CKAID}
	return true, e.recorded(ctx, rec, func() error {
		if err := e.token.Destroy(ctx, d.ref); err != nil || d.repair != repairAbandon {
			return err
		}
		_, err := retryConflict(func() (struct{}, error) {
			k, v, err := e.leftover(ctx, d)
			if err != nil || k == nil {
				return struct{}{}, err
			}
			change := store.Change{Key: k, FromEpoch: k.Epoch, Delete: true} // nothing was ever made: the name stays free
			if !slices.ContainsFunc(k.Versions, func(v *keys.Version) bool { return v.Number != d.version.Number }) {
				return struct{}{}, e.commit(ctx, change)
			}
			now := e.clock()
			c, err := k.Apply(v.Number, keys.EventDestroy, now, now)
			if err != nil {
				return struct{}{}, err
			}
			c.Epoch = k.Epoch + 1
			return struct{}{}, e.commit(ctx, store.Change{Key: c, FromEpoch: k.Epoch})
		})
		return err
	})
}

// leftover returns the version of a difference if the store still says that
// it has no objects by right; else nil.
func (e *Engine) leftover(ctx context.Context, d difference) (*keys.Key, *keys.Version, error) {
	// A version that was there without a rotation cannot come to one: so
	// the rotations are read before the key.
	open, err := e.store.Rotations(ctx, store.RotationFilter{Key: d.version.Key, OpenOnly: true})
	if err != nil || slices.ContainsFunc(open, func(r *keys.Rotation) bool { return r.To == d.version.Number }) {
		return nil, nil, err
	}
	k, err := e.store.Key(ctx, d.version.Key)
	if errors.Is(err, keys.ErrKeyNotFound) {
		return nil, nil, nil // with its last version destroyed the key has gone
	}
	if err != nil {
		return nil, nil, err
	}
	v, err := k.Version(d.version.Number)
	if err != nil {
		return nil, nil, nil
	}
	right := false
	switch d.repair {
	case repairDestroy:
		right = v.ObjectID == d.ref.ID && !v.DestroyedAt.IsZero()
	case repairAbandon:
		right = v.ObjectID == d.ref.ID && v.CreatedAt.IsZero() && v.DestroyedAt.IsZero()
	case repairTry:
		right = v.Label == "" && tries.Earlier(d.ref.ID[:], v.ObjectID)
	}
	if !right {
		return nil, nil, nil
	}
	return k, v, nil
}

// recorded lets act happen between its intent and its outcome.
func (e *Engine) recorded(ctx context.Context, rec audit.Record, act func() error) error {
	rec.StartedAt, rec.Outcome = e.clock(), audit.OutcomeIntent
	intent, err := e.audit.Append(ctx, rec)
	if err != nil {
		return err
	}
	aerr := act()
	rec.Intent, rec.CompletedAt, rec.Outcome = &intent, e.clock(), audit.OutcomeOK
	if aerr != nil {
		rec.Outcome, rec.Reason = audit.OutcomeError, publicText(aerr)
	}
	_, err = e.audit.Append(ctx, rec)
	return errors.Join(aerr, err)
}

// lostReason is what a revocation that a mark has brought back says of itself.
const lostReason = "the token says that it is compromised"

// revokeAgain takes a version out of use for good, as its mark says. It
// reports false if the store, asked once more, knows of the revocation.
func (e *Engine) revokeAgain(ctx context.Context, actor Actor, d difference) (bool, error) {
	errKnown := errors.New("known")
	change := func(k *keys.Key, now time.Time) (*keys.Key, error) {
		v, err := k.Version(d.version.Number)
		if err != nil {
			return nil, err
		}
		if v.ObjectID != d.mark.ObjectID || !v.RevokedAt.IsZero() || !v.DestroyedAt.IsZero() || v.CreatedAt.IsZero() {
			return nil, errKnown
		}
		c, err := k.Apply(v.Number, keys.EventRevoke, now, now)
		if err != nil {
			return nil, err
		}
		w, err := c.Version(v.Number)
		if err != nil {
			return nil, err
		}
		if d.mark.RevokedAt.Before(now) {
			w.RevokedAt = d.mark.RevokedAt
		}
		w.RevokeReason = lostReason
		c.Epoch = k.Epoch + 1
		return c, nil
	}
	k, err := e.store.Key(ctx, d.version.Key)
	if err != nil {
		return false, err
	}
	if _, err := change(k, e.clock()); errors.Is(err, errKnown) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	rec := e.record(actor, "revoke", k, d.version.Number)
	rec.Details = map[string]string{"reason": "reconcile: " + string(d.Kind), "note": lostReason, "token": d.Token, "cka_id": d.CKAID,
		"revoked_at": d.mark.RevokedAt.UTC().Format(time.RFC3339Nano)}
	err = e.recorded(ctx, rec, func() error {
		_, err := retryConflict(func() (struct{}, error) {
			k, err := e.store.Key(ctx, d.version.Key)
			if err != nil {
				return struct{}{}, err
			}
			now := e.clock()
			c, err := change(k, now)
			if errors.Is(err, errKnown) {
				return struct{}{}, nil // somebody else was faster
			}
			if err != nil {
				return struct{}{}, err
			}
			notices := append([]keys.Notice{notice(keys.NoticeRevoked, c, d.version.Number, now, lostReason)}, switched(k, c, now, lostReason)...)
			stamp(notices, k.Name, now)
			return struct{}{}, e.commit(ctx, store.Change{Key: c, FromEpoch: k.Epoch, Notices: notices})
		})
		return err
	})
	return err == nil, err
}

// markAgain leaves the marks of revocations that are not on the token: it
// could not be written to at that time, or was replaced by an older copy.
func (e *Engine) markAgain(ctx context.Context, v view) error {
	for _, k := range v.keys {
		if k.Token != v.token || k.Damaged {
			continue
		}
		for _, ver := range k.Versions {
			marked := slices.ContainsFunc(v.marks, func(m keys.RevocationMark) bool { return m.Version == k.ID(ver) && m.ObjectID == ver.ObjectID })
			if marked || ver.RevokedAt.IsZero() || ver.CreatedAt.IsZero() || !ver.DestroyedAt.IsZero() {
				continue
			}
			err := e.token.MarkRevoked(ctx, k.Ref(ver), k.ID(ver), ver.RevokedAt)
			if errors.Is(err, keys.ErrUnsupported) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("marking the revocation of %s on the token: %w", k.ID(ver), err)
			}
			e.log.InfoContext(ctx, "a revocation is marked on the token", "label", k.ID(ver), "token", v.token)
		}
	}
	return nil
}

// ReconcileAtStart applies the revocations that the store has lost, as the
// marks on the tokens say. Call it before anything else that uses keys, and
// do not serve when it fails: a version that is compromised may count as
// good. Errors: keys.ErrHSM and others of a token that could not be read,
// ErrStore, ErrAudit.
func (e *Engine) ReconcileAtStart(ctx context.Context) error {
	for _, token := range e.token.Tokens() {
		marks, err := e.token.Revoked(ctx, token)
		if err != nil {
			return fmt.Errorf("reading the marks of revocations on the token %q: %w", token, err)
		}
		all, err := e.snapshot(ctx)
		if err != nil {
			return err
		}
		v := view{token: token, marks: marks, keys: all}
		for _, d := range v.lostRevocations() {
			if d.repair != repairRevoke {
				e.log.ErrorContext(ctx, "tokens and store differ", "kind", d.Kind, "label", d.Label, "token", token, "text", d.Text)
				continue
			}
			if _, err := e.revokeAgain(ctx, systemActor, d); err != nil {
				return fmt.Errorf("applying a revocation that the store has lost: %w", err)
			}
			e.log.ErrorContext(ctx, "a revocation that the store had lost is applied again", "label", d.Label, "token", token, "text", d.Text)
		}
	}
	return nil
}

// reconcileEvery is how often the engine reconciles by itself.
const reconcileEvery = time.Hour

// reconcileHourly reconciles when an hour has passed since it last did, and
// the first time it is called.
func (e *Engine) reconcileHourly(ctx context.Context) {
	now := e.clock()
	e.reconciling.mu.Lock()
	due := e.reconciling.last.IsZero() || now.Sub(e.reconciling.last).Abs() >= reconcileEvery
	if due {
		e.reconciling.last = now
	}
	e.reconciling.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	if _, err := e.Reconcile(ctx, systemActor, false); err != nil && ctx.Err() == nil && !errors.Is(err, keys.ErrConflict) {
		e.log.ErrorContext(ctx, "tokens and store were not compared; it is tried again in an hour", "err", err)
	}
}
