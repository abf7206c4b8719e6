package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keyhole/keys"
	"keyhole/rotation/lease"
	"keyhole/store"
)

// tick is how often the engine looks for what is due.
const tick = time.Second

// Recover takes up every rotation that a crash left open and takes it as far
// as the moment permits, and makes the successors that revocations still
// want. What another gateway works on is left to it. Before, the outcomes that
// the crash kept from being recorded are. Call it once, before requests are served, with the snapshot loaded. A
// rotation that fails is logged and left for Run; the returned error says that
// nothing could be looked at.
func (e *Engine) Recover(ctx context.Context) error {
	if err := e.finishRecords(ctx); err != nil && ctx.Err() == nil {
		e.log.ErrorContext(ctx, "the audit log may have intents without an outcome", "err", err)
	}
	if _, err := e.first(ctx, true); err != nil {
		return err
	}
	_, err := e.first(ctx, true) // successors that waited for the end of a rotation
	return err
}

// first does what must not wait behind rotations by policy: it makes the
// successors that revocations still want, and takes a step with every open
// rotation that has one to take. It returns the keys that have an open
// rotation.
func (e *Engine) first(ctx context.Context, start bool) (open map[string]bool, err error) {
	rotations, err := e.store.Rotations(ctx, store.RotationFilter{OpenOnly: true})
	if err != nil {
		return nil, fmt.Errorf("listing open rotations: %w", err)
	}
	byName, err := e.byName()
	if err != nil {
		return nil, err
	}
	open = make(map[string]bool, len(rotations))
	for _, r := range rotations {
		open[r.Key] = true
	}
	for name, k := range byName {
		if ctx.Err() == nil && !open[name] && successorWanted(k, e.clock()) && e.mayTry(name) {
			e.rotateByItself(ctx, name, keys.ReasonCompromise)
		}
	}
	for _, r := range rotations {
		if ctx.Err() != nil {
			return open, nil
		}
		if e.waits(r, byName[r.Key], e.clock()) || !e.mayTry(r.Key) || !e.stirs(ctx, r) {
			continue
		}
		began := time.Now()
		e.takeUp(ctx, r)
		if !start {
			rest(ctx, time.Since(began)) // as after rotations by policy
		}
	}
	return open, nil
}

// stirs reports whether r has a step to take, as far as that shows without
// its lease.
func (e *Engine) stirs(ctx context.Context, r *keys.Rotation) bool {
	if undoing(r) || r.Phase != keys.PhaseAnnounced && r.Phase != keys.PhaseScheduled {
		return true
	}
	k, err := e.store.Key(ctx, r.Key)
	if err != nil {
		return true // whoever takes it up will say so
	}
	t := e.turn(k, r, e.clock())
	return e.forward(ctx, t) != nil || t.moved
}

func (e *Engine) byName() (map[string]*keys.Key, error) {
	all, err := e.keys()
	if err != nil {
		return nil, err
	}
	m := make(map[string]*keys.Key, len(all))
	for _, k := range all {
		m[k.Name] = k
	}
	return m, nil
}

// waits reports whether nothing but the clock moves r, and its time has not
// come. k is its key as far as known here, or nil.
func (e *Engine) waits(r *keys.Rotation, k *keys.Key, now time.Time) bool {
	if k == nil || undoing(r) || successorWanted(k, now) || !k.DeleteAt.IsZero() {
		return false
	}
	if v, err := k.Version(r.To); err != nil || !v.RevokedAt.IsZero() || !v.DestroyAt.IsZero() {
		return false
	}
	switch r.Phase {
	case keys.PhaseAnnounced:
		return now.Before(e.asAnnounced(r, now).Due())
	case keys.PhaseScheduled:
		if latest := now.Add(e.propagation + tolerance); r.SwitchAt.After(latest) && !r.SwitchAt.Equal(r.ActivateAt) {
			return false // planned by a clock that was wrong
		}
		return now.Before(r.SwitchAt)
	}
	return false
}

// takeUp goes on with a rotation, unless somebody works on it.
func (e *Engine) takeUp(ctx context.Context, r *keys.Rotation) {
	ctx, cancel := detach(ctx)
	defer cancel()
	held, done, err := e.leases.Try(ctx, leaseOf(r.ID))
	if errors.Is(err, lease.ErrTaken) {
		return
	}
	if err == nil {
		defer done()
		if r.Phase == keys.PhaseReserved {
			e.log.InfoContext(ctx, "taking up an interrupted rotation", "key", r.Key, "version", r.To, "phase", r.Phase, "rotation", r.ID)
		}
		_, err = e.advance(held, systemActor, r.ID)
	}
	if r.Phase == keys.PhaseReserved || errors.Is(err, keys.ErrTampered) {
		e.noteResult(r.Key, err)
	} else {
		e.noteUpTo(lastPauseOfSteps, r.Key, err)
	}
	if err != nil {
		e.log.ErrorContext(ctx, "rotation not driven further", "key", r.Key, "rotation", r.ID, "phase", r.Phase, "err", err)
	}
}

// Run does by itself what is due, until ctx ends. It is the only timer loop
// in the engine. An outage of the store is logged once, and so is its end.
func (e *Engine) Run(ctx context.Context) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		err := e.Tick(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil && !failing:
			e.log.ErrorContext(ctx, "rotations stand still: it cannot be seen what is due", "err", err)
		case err == nil && failing:
			e.log.InfoContext(ctx, "rotations go on")
		}
		failing = err != nil
	}
}

// Tick looks once for what is due and does it: first what is under way, then
// successors of revoked versions, the end of predecessors, the hourly
// comparison with the tokens, and last the rotations that are due by policy.
//
// Those are made one after the other, and after each there is a pause as long
// as it took, so that at least half of the token, the store and the processor
// is left to requests. What comes meanwhile waits for one generation at most: acts of
// people do not go through here, and everything else is looked at each second
// in between.
//
// What fails is tried again with growing pauses; the returned error says that
// nothing could be looked at.
func (e *Engine) Tick(ctx context.Context) error {
	open, err := e.first(ctx, false)
	if err != nil {
		return err
	}
	all, err := e.keys()
	if err != nil {
		return err
	}
	e.markOthers(ctx, all)
	e.retire(ctx, all)
	e.reconcileHourly(ctx)
	e.rotateAllDue(ctx, all, open)
	return nil
}

// rotateAllDue rotates what is due by policy. Due tells how much is left.
func (e *Engine) rotateAllDue(ctx context.Context, all []*keys.Key, open map[string]bool) {
	var due []*keys.Key
	for _, k := range all {
		if _, ok := e.dueReason(k, e.clock()); ok && !open[k.Name] {
			due = append(due, k)
		}
	}
	e.due.Store(int64(len(due)))
	due = slices.DeleteFunc(due, func(k *keys.Key) bool { return !e.mayTry(k.Name) })
	if len(due) == 0 {
		return
	}
	held, done, err := e.leases.Try(ctx, leaseDue)
	if errors.Is(err, lease.ErrTaken) {
		return // another gateway does it
	}
	if err != nil {
		e.log.ErrorContext(ctx, "no automatic rotations: the store does not say who makes them", "err", err)
		return
	}
	defer done()
	ctx = held
	if len(due) > 1 {
		e.log.InfoContext(ctx, "keys are due for rotation", "keys", len(due))
	}
	looked := e.now()
	for _, k := range due {
		if ctx.Err() != nil {
			return
		}
		began := time.Now()
		reason, ok := e.dueReason(k, e.clock())
		if !ok || e.rotateByItself(ctx, k.Name, reason) {
			e.due.Add(-1)
		}
		for left := min(time.Since(began), longestRest); ; left -= tick {
			rest(ctx, min(left, tick))
			if ctx.Err() != nil {
				return
			}
			if e.now().Sub(looked) >= tick {
				looked = e.now()
				if _, err := e.first(ctx, false); err != nil {
					return // Tick will say so
				}
			}
			if left <= tick {
				break
			}
		}
	}
}

// Due returns how many keys automatic rotation is due on, as of the last
// look: those that wait for their turn, and those whose rotation failed and
// is to be tried again.
func (e *Engine) Due() int { return int(e.due.Load()) }

// rotateByItself rotates a key that is due and reports whether it worked.
func (e *Engine) rotateByItself(ctx context.Context, name string, reason keys.Reason) bool {
	err := e.rotateDue(ctx, systemActor, name)
	e.noteResult(name, err)
	if err != nil {
		e.log.ErrorContext(ctx, "automatic rotation failed", "key", name, "reason", reason, "err", err)
	}
	return err == nil
}

// longestRest bounds the pause after an automatic rotation.
const longestRest = 10 * time.Second

// rest leaves the field to requests.
func rest(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Pauses of automatic work that fails, per key: from firstPause on they
// double, up to lastPause; steps that need no HSM are tried again sooner.
const (
	firstPause       = 5 * time.Second
	lastPause        = time.Hour
	lastPauseOfSteps = 30 * time.Second
)

// pause is how long automatic work on a key pauses, and until when. The
// moment has the monotonic clock in it: no step of the clock prolongs it.
type pause struct {
	length time.Duration
	until  time.Time
}

// mayTry reports whether the key's pause has passed.
func (e *Engine) mayTry(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.now().Before(e.pauses[key].until)
}

// noteResult begins or ends a key's pause.
func (e *Engine) noteResult(key string, err error) { e.noteUpTo(lastPause, key, err) }

func (e *Engine) noteUpTo(longest time.Duration, key string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		delete(e.pauses, key)
		return
	}
	if errors.Is(err, keys.ErrConflict) {
		return // somebody else acts on it
	}
	length := min(max(2*e.pauses[key].length, firstPause), longest)
	e.pauses[key] = pause{length: length, until: e.now().Add(length)}
}

// Rotation returns one rotation, or keys.ErrNotFound.
func (e *Engine) Rotation(ctx context.Context, id string) (*keys.Rotation, error) {
	return e.store.Rotation(ctx, id)
}

// Rotations returns rotations, newest first.
func (e *Engine) Rotations(ctx context.Context, f store.RotationFilter) ([]*keys.Rotation, error) {
	return e.store.Rotations(ctx, f)
}
