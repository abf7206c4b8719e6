package rotation

import (
	"context"
	"errors"
	"sync"
	"time"

	"keyhole/audit"
	"keyhole/keys"
	"keyhole/rotation/lease"
	"keyhole/store"
)

// retireBudget bounds how long one look at the ends of versions may take, so
// that a thousand that end at the same moment hold up nothing else.
const retireBudget = time.Second

// retire takes the versions and keys whose time has come one step further
// towards their end:
//
//   - a predecessor whose overlap is over is archived, or its destruction is
//     scheduled, unless it was used of late;
//   - a version whose destruction was scheduled for a moment that has come is
//     destroyed;
//   - a deleted key whose versions are all destroyed goes, and leaves a
//     tombstone.
//
// Each step is one durable write and is decided anew from the store. What
// fails is logged and tried again after a pause, for each version by itself.
// What is not done within the budget comes the next time, here or on another
// gateway: one does it at one time.
func (e *Engine) retire(ctx context.Context, all []*keys.Key) {
	sure := e.ends.clock.sure(e.now())
	var steps []endStep
	for _, k := range all {
		for _, s := range e.endSteps(k, sure) {
			if e.mayTry(s.id) {
				steps = append(steps, s)
			}
		}
	}
	if len(steps) == 0 {
		return
	}
	ctx, done, err := e.leases.Try(ctx, leaseRetire)
	if err != nil { // another gateway does it, or the store cannot be used
		return
	}
	defer done()
	begin := time.Now()
	for _, s := range steps {
		if ctx.Err() != nil || time.Since(begin) > retireBudget {
			return
		}
		err := s.do(ctx)
		e.noteResult(s.id, err)
		if err != nil {
			e.log.ErrorContext(ctx, "a step towards the end of a version or key failed; trying again", "step", s.name, "id", s.id, "err", err)
		}
	}
}

// ends is what the engine keeps of this in memory. The zero value serves.
type ends struct {
	clock clockGuard

	mu   sync.Mutex
	told map[keys.VersionID]time.Time // that a version is kept because it is used
}

// endStep is what is due to be done to a version or a key.
type endStep struct {
	name string
	id   string // for the pause after a failure
	do   func(ctx context.Context) error
}

// endSteps says what is due. Destruction waits until the clock is sure.
func (e *Engine) endSteps(k *keys.Key, sure bool) (steps []endStep) {
	if k.Damaged {
		return nil
	}
	now := e.clock()
	gone := true
	for _, v := range k.Versions {
		id := k.ID(v)
		gone = gone && !v.DestroyedAt.IsZero()
		switch k.StateAt(v, now) {
		case keys.Deactivated:
			if end := k.OverlapEndsAt(v, now); end.IsZero() || now.Before(end) {
				continue
			}
			if last, used := e.keptByUse(k, id.Number, now); !used {
				steps = append(steps, endStep{"end of overlap", id.String(), func(ctx context.Context) error { return e.endOverlap(ctx, k.Policy.AfterOverlap, id) }})
			} else if !e.toldKept(id, now) {
				steps = append(steps, endStep{"telling of a version in use", id.String(), func(ctx context.Context) error { return e.tellKept(ctx, k, id, last) }})
			}
		case keys.DestroyScheduled:
			if sure && destroyable(v, now) {
				steps = append(steps, endStep{"destruction", id.String(), func(ctx context.Context) error { return e.destroyVersion(ctx, id) }})
			}
		}
	}
	if gone && !k.DeleteAt.IsZero() && !now.Before(k.DeleteAt) {
		steps = append(steps, endStep{"tombstone", k.Name + ".key", func(ctx context.Context) error { return e.bury(ctx, k.Name) }})
	}
	return steps
}

// errNoLonger ends a step that the store says is not due, or not any more.
var errNoLonger = errors.New("it is not due")

func ignoreNoLonger(err error) error {
	if errors.Is(err, errNoLonger) || errors.Is(err, keys.ErrKeyNotFound) {
		return nil
	}
	return err
}

// endOverlap archives a predecessor or schedules its destruction, as the
// policy said when this was found to be due.
func (e *Engine) endOverlap(ctx context.Context, way keys.AfterOverlap, id keys.VersionID) error {
	const why = "overlap ended"
	action := "archive"
	if way == keys.OverlapDestroy {
		action = "destroy"
	}
	_, err := e.act(ctx, systemActor, id.Key, id.Number, action, map[string]string{"reason": why}, func(k *keys.Key, now time.Time) (store.Change, error) {
		v, err := k.Version(id.Number)
		if err != nil {
			return store.Change{}, err
		}
		end := k.OverlapEndsAt(v, now)
		over := k.StateAt(v, now) == keys.Deactivated && !end.IsZero() && !now.Before(end)
		if _, used := e.keptByUse(k, id.Number, now); !over || used || k.Policy.AfterOverlap != way {
			return store.Change{}, errNoLonger
		}
		if way == keys.OverlapDestroy {
			return scheduleDestroy(k, id.Number, now.Add(k.Policy.Delay()), now, why)
		}
		c, err := k.Apply(id.Number, keys.EventArchive, now, now)
		if err != nil {
			return store.Change{}, err
		}
		return store.Change{Key: c, Notices: []keys.Notice{notice(keys.NoticeArchived, c, id.Number, now, why)}}, nil
	})
	return ignoreNoLonger(err)
}

// tellEvery is how often it is told that a version is kept.
const tellEvery = 24 * time.Hour

// toldKept reports whether it was told of late that a version is kept.
func (e *Engine) toldKept(id keys.VersionID, now time.Time) bool {
	e.ends.mu.Lock()
	defer e.ends.mu.Unlock()
	told, ok := e.ends.told[id]
	return ok && now.Sub(told) < tellEvery && !now.Before(told)
}

// tellKept says in the log and in the audit log that a version whose overlap
// is over is kept because it is used, and by whom.
func (e *Engine) tellKept(ctx context.Context, k *keys.Key, id keys.VersionID, last time.Time) error {
	now := e.clock()
	users, err := e.users(ctx, k, id.Number, now)
	if err != nil {
		return err
	}
	users = users[:min(len(users), maxNamed)]
	e.log.WarnContext(ctx, "a version is kept beyond its overlap: it is used", "key", id.Key, "version", id.Number, "last_use", last, "users", users)
	rec := e.record(systemActor, "retire", k, id.Number)
	rec.Outcome, rec.Reason = audit.OutcomeDenied, "in_use"
	rec.Details = map[string]string{"kept": "it was used within " + e.useWindow(k).String(), "last_use": last.Format(time.RFC3339)}
	for i, u := range users {
		rec.Details["user_"+itoa(i+1)] = u
	}
	if _, err := e.audit.Append(ctx, rec); err != nil {
		return err
	}
	e.ends.mu.Lock()
	defer e.ends.mu.Unlock()
	if e.ends.told == nil {
		e.ends.told = map[keys.VersionID]time.Time{}
	}
	for old, at := range e.ends.told {
		if now.Sub(at) > 2*tellEvery {
			delete(e.ends.told, old)
		}
	}
	e.ends.told[id] = now
	return nil
}

// destroyable reports whether the moment of a destruction has come, by the
// clock of every gateway: until then one may still restore the version.
func destroyable(v *keys.Version, now time.Time) bool { return !now.Before(v.DestroyAt.Add(skew)) }

// destroyVersion destroys the objects of a version whose time has come:
// intent, destruction, proof of absence, outcome, and then the store. A crash
// in between repeats all of it; the outcome may be recorded twice, but not
// never.
func (e *Engine) destroyVersion(ctx context.Context, id keys.VersionID) error {
	ctx, cancel := detach(ctx)
	defer cancel()
	ctx, done, err := e.leases.Try(ctx, leaseOfEnd(id))
	if errors.Is(err, lease.ErrTaken) {
		return nil
	}
	if err != nil {
		return err
	}
	defer done()
	k, v, err := e.condemned(ctx, id)
	if err != nil || v == nil {
		return ignoreNoLonger(err)
	}
	if known, err := e.allKnow(ctx, systemActor, leaseOfEnd(id)+v.DestroyAt.Format(time.RFC3339Nano)); err != nil || !known {
		return err
	}
	// Whoever was about to restore the version, by a look at the key from
	// before its moment came, finds that the key has changed.
	if err := e.put(ctx, k, store.Change{Key: k.Clone()}, e.clock()); err != nil {
		return err
	}
	if k, v, err = e.condemned(ctx, id); err != nil || v == nil {
		return ignoreNoLonger(err)
	}
	rec := e.record(systemActor, "destroy-objects", k, id.Number)
	rec.Details = map[string]string{"destroy_at": v.DestroyAt.Format(time.RFC3339), "token": k.Token, "label": k.Ref(v).Label, "cka_id": v.ObjectID.String()}
	// Point of no return: from here on Restore is refused.
	err = e.recorded(ctx, rec, func() error {
		if err := stillOurs(ctx); err != nil {
			return err
		}
		return e.destroyObjects(ctx, k.Ref(v))
	})
	if err != nil {
		return err
	}
	_, err = retryConflict(func() (struct{}, error) {
		k, err := e.store.Key(ctx, id.Key)
		if err != nil {
			return struct{}{}, err
		}
		if v, err := k.Version(id.Number); err == nil && !v.DestroyedAt.IsZero() {
			return struct{}{}, nil // another gateway was faster
		}
		now := e.clock()
		c, err := k.Apply(id.Number, keys.EventDestroy, now, now)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, e.put(ctx, k, store.Change{Key: c, Notices: []keys.Notice{notice(keys.NoticeDestroyed, c, id.Number, now, "")}}, now)
	})
	if err == nil {
		e.log.InfoContext(ctx, "version destroyed", "key", id.Key, "version", id.Number)
	}
	return err
}

// condemned returns a version if the store says that the moment of its
// destruction has come; else no version.
func (e *Engine) condemned(ctx context.Context, id keys.VersionID) (*keys.Key, *keys.Version, error) {
	k, err := e.store.Key(ctx, id.Key)
	if err != nil {
		return nil, nil, err
	}
	v, err := k.Version(id.Number)
	if now := e.clock(); err != nil || k.StateAt(v, now) != keys.DestroyScheduled || !destroyable(v, now) {
		return nil, nil, err
	}
	return k, v, nil
}

// destroyObjects destroys the objects of ref and looks that they are gone.
func (e *Engine) destroyObjects(ctx context.Context, ref keys.Ref) error {
	if err := e.token.Destroy(ctx, ref); err != nil {
		return err
	}
	switch _, err := e.token.Inspect(ctx, ref); {
	case errors.Is(err, keys.ErrNotFound):
		return nil
	case err == nil:
		return keys.Errorf(keys.ErrHSM, "the token %q still has the objects %s after their destruction", ref.Token, ref.Label)
	default:
		return err
	}
}

// bury removes a deleted key of which nothing is left, and retires its name.
func (e *Engine) bury(ctx context.Context, name string) error {
	_, err := e.act(ctx, systemActor, name, 0, "bury-key", nil, func(k *keys.Key, now time.Time) (store.Change, error) {
		if k.DeleteAt.IsZero() || now.Before(k.DeleteAt) {
			return store.Change{}, errNoLonger
		}
		for _, v := range k.Versions {
			if v.DestroyedAt.IsZero() {
				return store.Change{}, errNoLonger
			}
		}
		return store.Change{Key: k, Delete: true, Notices: []keys.Notice{notice(keys.NoticeKeyDeleted, k, 0, now, "")}}, nil
	})
	return ignoreNoLonger(err)
}

// How far the wall clock may run ahead of the monotonic one, and how long it
// must have been ahead to be believed.
const (
	clockJump    = 5 * time.Minute
	clockConfirm = time.Hour
)

// clockGuard holds up what cannot be undone when the wall clock has jumped
// ahead: it may be wrong. The zero value serves.
type clockGuard struct {
	mu      sync.Mutex
	began   time.Time                         // the first look
	elapsed func(now time.Time) time.Duration // monotonic time since then; nil: by the reading in now
	ahead   time.Duration                     // of the wall clock before the monotonic one; believed
	doubted time.Duration                     // what it is ahead by now, and is not believed; 0: nothing
	since   time.Duration                     // monotonic time of the first doubt
}

// sure reports whether the wall clock can be believed at now, which carries a
// monotonic reading.
func (g *clockGuard) sure(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.began.IsZero() {
		g.began = now
	}
	mono := now.Sub(g.began)
	if g.elapsed != nil {
		mono = g.elapsed(now)
	}
	ahead := now.Round(0).Sub(g.began.Round(0)) - mono
	switch {
	case ahead <= g.ahead+clockJump:
		g.ahead, g.doubted = min(g.ahead, ahead), 0 // a step back is followed
		return true
	case g.doubted == 0 || ahead > g.doubted+clockJump:
		g.doubted, g.since = ahead, mono // a first jump, or a further one
		return false
	case mono-g.since < clockConfirm:
		g.doubted = min(g.doubted, ahead)
		return false
	}
	g.ahead, g.doubted = ahead, 0
	return true
}
