package rotation

import (
	"context"
	"errors"
	"math"
	"time"

	"keyhole/audit"
	"keyhole/audit/lookup"
	"keyhole/keys"
)

// History is this node's own audit log, as lookup.Log reads it.
type History interface {
	Newest(ctx context.Context, f lookup.Filter, before uint64, limit int) (lookup.Page, error)
}

// How far back an intent without an outcome can be: an act ends within
// actTimeout, and what a process did last is in front of its end. Processes
// that ended before they came here are passed over, maxRuns at most.
const (
	actWindow = actTimeout + time.Minute
	maxRuns   = 100
	pageSize  = 500
)

// finishRecords writes the outcomes that the end of a process of this node
// kept from being recorded, as the store tells them by now. Another node could
// not: it does not have the intents. Those of rotations that are under way are
// remembered for whoever brings them to their end.
func (e *Engine) finishRecords(ctx context.Context) error {
	if e.history == nil {
		return nil
	}
	intents, err := e.lastIntents(ctx)
	if err != nil || len(intents) == 0 {
		return err
	}
	ended, rotations, err := e.outcomes(ctx, intents)
	if err != nil {
		return err
	}
	for _, rec := range intents {
		if ended[rec.Seq] {
			continue
		}
		if rec.Rotation != "" && ofRotation(rec) {
			if rotations[rec.Rotation] {
				continue
			}
			if r, err := e.store.Rotation(ctx, rec.Rotation); err == nil && !r.Phase.Done() {
				e.intended(r.ID, rec.Seq)
				continue
			}
		}
		if err := e.finishRecord(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// ofRotation reports whether a record is the intent or outcome of a rotation,
// and not of an order about it.
func ofRotation(rec audit.Record) bool { return rec.Action == "rotate" || rec.Action == "create-key" }

// lastIntents returns the intents of the last moments of the processes before
// this one, newest first.
func (e *Engine) lastIntents(ctx context.Context) (all []audit.Record, err error) {
	before := uint64(math.MaxUint64)
	for range maxRuns {
		end, err := e.history.Newest(ctx, lookup.Filter{}, before, 1)
		if err != nil || len(end.Records) == 0 {
			return all, err
		}
		since := end.Records[0].Time.Add(-actWindow)
		if all, err = e.recordsOf(ctx, lookup.Filter{Outcome: audit.OutcomeIntent, Since: since}, before, all); err != nil {
			return nil, err
		}
		starts, err := e.recordsOf(ctx, lookup.Filter{Action: "start", Since: since}, before, nil)
		if err != nil || len(starts) == 0 {
			return all, err
		}
		if before = starts[len(starts)-1].Seq; before == 0 { // nothing is in front of it
			return all, nil
		}
	}
	return all, nil
}

// recordsOf appends what f means of the log in front of a seq.
func (e *Engine) recordsOf(ctx context.Context, f lookup.Filter, before uint64, all []audit.Record) ([]audit.Record, error) {
	for {
		page, err := e.history.Newest(ctx, f, before, pageSize)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Records {
			if len(all) == 0 || r.Seq < all[len(all)-1].Seq {
				all = append(all, r)
			}
		}
		if before = page.Next; before == 0 {
			return all, nil
		}
	}
}

// outcomes returns which intents have an outcome, and which rotations.
func (e *Engine) outcomes(ctx context.Context, intents []audit.Record) (ended map[uint64]bool, rotations map[string]bool, err error) {
	oldest := map[string]time.Time{} // intent, by action
	for _, r := range intents {
		oldest[r.Action] = r.Time // newest first
	}
	ended, rotations = map[uint64]bool{}, map[string]bool{}
	for action, since := range oldest {
		found, err := e.recordsOf(ctx, lookup.Filter{Action: action, Since: since}, math.MaxUint64, nil)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range found {
			if r.Outcome == audit.OutcomeIntent {
				continue
			}
			if r.Intent != nil {
				ended[*r.Intent] = true
			}
			if r.Rotation != "" && ofRotation(r) {
				rotations[r.Rotation] = true
			}
		}
	}
	return ended, rotations, nil
}

// intentOf returns the seq of the intent of a rotation; nil if it is not in
// this node's log, as far as is known.
func (e *Engine) intentOf(ctx context.Context, r *keys.Rotation) *uint64 {
	e.mu.Lock()
	seq, ok := e.intents[r.ID]
	e.mu.Unlock()
	if ok {
		return &seq
	}
	if e.history == nil {
		return nil
	}
	f := lookup.Filter{Key: r.Key, Outcome: audit.OutcomeIntent, Since: r.StartedAt.Add(-skew)}
	if !r.AnnouncedAt.IsZero() { // it was generated before
		f.Until = r.AnnouncedAt.Add(skew)
	}
	page, err := e.history.Newest(ctx, f, math.MaxUint64, pageSize)
	if err != nil {
		e.log.WarnContext(ctx, "the intent of a rotation is not looked up", "rotation", r.ID, "err", err)
		return nil
	}
	for _, rec := range page.Records {
		if rec.Rotation == r.ID && ofRotation(rec) {
			return &rec.Seq
		}
	}
	return nil
}

// Why the outcome of an act comes late.
const (
	lateDone    = "interrupted when it was done"
	lateNot     = "interrupted before it was done"
	lateUnknown = "interrupted; what stands tells whether it was done"
)

// finishRecord records the outcome of an intent, as the store tells it.
func (e *Engine) finishRecord(ctx context.Context, rec audit.Record) error {
	done, known, err := e.tookEffect(ctx, rec)
	if err != nil {
		return err
	}
	intent := rec.Seq
	rec.Intent, rec.Time, rec.CompletedAt = &intent, time.Time{}, e.clock()
	switch {
	case done:
		rec.Outcome, rec.Reason = audit.OutcomeOK, lateDone
	case known:
		rec.Outcome, rec.Reason = audit.OutcomeError, lateNot
	default:
		rec.Outcome, rec.Reason = audit.OutcomeError, lateUnknown
	}
	e.log.WarnContext(ctx, "the outcome of an act was not recorded when the process ended; it is now", "action", rec.Action, "key", rec.Key, "intent", intent, "outcome", rec.Outcome)
	_, err = e.audit.Append(ctx, rec)
	return err
}

// tookEffect reports whether what an intent says was done, and whether the
// store tells.
func (e *Engine) tookEffect(ctx context.Context, rec audit.Record) (done, known bool, err error) {
	if rec.Rotation != "" {
		r, err := e.store.Rotation(ctx, rec.Rotation)
		if err != nil {
			return false, false, ignore(err, keys.ErrNotFound)
		}
		switch rec.Action {
		case "activate-rotation":
			return r.ForcedBy == rec.Principal, true, nil
		case "abort-rotation":
			return r.EndedBy == rec.Principal, true, nil
		case "rotate", "create-key":
			return r.Phase == keys.PhaseCompleted, true, nil
		}
	}
	k, err := e.store.Key(ctx, rec.Key)
	if errors.Is(err, keys.ErrKeyNotFound) && rec.Action == "bury-key" {
		return true, true, nil
	}
	if err != nil {
		return false, false, ignore(ignore(err, keys.ErrKeyNotFound), keys.ErrTampered)
	}
	if rec.Version == 0 {
		return keyStands(k, rec)
	}
	v, err := k.Version(rec.Version)
	if err != nil {
		return false, false, nil
	}
	since := func(at time.Time) (bool, bool, error) { return !at.IsZero() && !at.Before(rec.StartedAt), true, nil }
	switch rec.Action {
	case "suspend":
		return since(v.SuspendedAt)
	case "resume":
		return v.SuspendedAt.IsZero(), true, nil
	case "revoke":
		return since(v.RevokedAt)
	case "archive":
		return since(v.ArchivedAt)
	case "destroy":
		return !v.DestroyAt.IsZero() || !v.DestroyedAt.IsZero(), true, nil
	case "restore":
		return v.DestroyAt.IsZero(), true, nil
	case "destroy-objects":
		return !v.DestroyedAt.IsZero(), true, nil
	}
	return false, false, nil
}

// keyStands is tookEffect for acts on a key as a whole.
func keyStands(k *keys.Key, rec audit.Record) (done, known bool, err error) {
	switch rec.Action {
	case "delete-key":
		return !k.DeleteAt.IsZero(), true, nil
	case "restore":
		return k.DeleteAt.IsZero(), true, nil
	case "bury-key":
		return false, true, nil
	case "update-key": // descriptions and tags are not recorded
		known = rec.Details["changed"] == "policy"
		return known && policyText(k.Policy) == rec.Details["policy"], known, nil
	}
	return false, false, nil
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}
