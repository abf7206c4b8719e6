package rotation

import (
	"context"
	"errors"
	"time"

	"keyhole/keys"
)

// wrapsBound is how often an A256GCM version wraps before its key is rotated,
// whatever the policy says: half of keys.MaxWraps, at which it stops.
const wrapsBound = keys.MaxWraps / 2

// afterAbort is the pause after a rotation that was announced and aborted
// before an automatic one is begun in its place. A person who aborts one
// means it, and agents that did not acknowledge are not there a minute later.
const afterAbort = 24 * time.Hour

// errNotDue ends a rotation that would have been the second one for the same
// reason.
var errNotDue = errors.New("no rotation is due")

// rotateDue rotates a key if the store, too, says that it is due: a snapshot
// may not know yet of a rotation that came between.
func (e *Engine) rotateDue(ctx context.Context, actor Actor, name string) error {
	_, err := e.Rotate(ctx, actor, name, RotateSpec{ifDue: true})
	if errors.Is(err, errNotDue) || errors.Is(err, keys.ErrRotationRunning) {
		return nil
	}
	return err
}

// dueReason reports whether k wants a new version at now, and why: its
// newest version is revoked; the active one has wrapped as often as is safe,
// or did more than the policy lets it do; or the policy's period is over or
// its schedule has a tick behind the last switch. However many ticks have
// passed, what is due is one rotation.
//
// Time runs from the newest switch, also of a version that is suspended:
// its stand-in has been active before. Use is that of the version that is
// used, the stand-in's too. Nothing but a revocation makes a key due that has
// no active version: people have taken them all out.
func (e *Engine) dueReason(k *keys.Key, now time.Time) (keys.Reason, bool) {
	if successorWanted(k, now) {
		return keys.ReasonCompromise, true
	}
	active := k.ActiveAt(now)
	if active == nil || k.Damaged || !k.DeleteAt.IsZero() || resting(k, now) {
		return "", false
	}
	used := e.usage.Of(k.Name, active.Number)
	if active.Algorithm == keys.A256GCM && used.Applied >= wrapsBound {
		return keys.ReasonUsageThreshold, true
	}
	if at := e.dueAt(k, now); !at.IsZero() && !at.After(now) {
		return keys.ReasonScheduled, true
	}
	p := k.Policy
	over := p.MaxOperations != 0 && used.Applied >= p.MaxOperations || p.MaxBytes != 0 && used.Bytes >= p.MaxBytes
	// A bound that a busy key reaches within seconds must not fill the token.
	age := now.Sub(switchedAt(active)) // negative by far: switched by a clock that was ahead
	if over && (age >= e.limits.MinPeriod || age < -tolerance) {
		return keys.ReasonUsageThreshold, true
	}
	return "", false
}

// successorWanted reports whether the version that was to sign is
// compromised: the newest one, or the one that stood in for newer ones that
// are suspended. An older one may be active meanwhile.
func successorWanted(k *keys.Key, now time.Time) bool {
	if k.Damaged || !k.DeleteAt.IsZero() {
		return false
	}
	var suspended time.Time // since when all newer ones are
	var newer *keys.Version
	for {
		v := newestOf(k, func(v *keys.Version) bool {
			return started(v, now) && (newer == nil || v.ActivateAt.Before(newer.ActivateAt) || v.ActivateAt.Equal(newer.ActivateAt) && v.Number < newer.Number)
		})
		switch {
		case v == nil:
			return false
		case !v.RevokedAt.IsZero():
			return !v.RevokedAt.Before(suspended)
		case v.SuspendedAt.IsZero():
			return false
		case v.SuspendedAt.After(suspended):
			suspended = v.SuspendedAt
		}
		newer = v
	}
}

// started reports whether v's activation has come.
func started(v *keys.Version, now time.Time) bool {
	return !v.CreatedAt.IsZero() && !v.ActivateAt.IsZero() && (!v.ActivatedAt.IsZero() || !v.ActivateAt.After(now))
}

// newestOf returns the version with the latest activation among those that
// are chosen; of equals, the highest number.
func newestOf(k *keys.Key, chosen func(*keys.Version) bool) *keys.Version {
	var newest *keys.Version
	for _, v := range k.Versions {
		if chosen(v) && (newest == nil || !v.ActivateAt.Before(newest.ActivateAt)) {
			newest = v
		}
	}
	return newest
}

// lastSwitch returns the moment from which k's time runs: that of its newest
// version that is active, or would be but for its suspension. A switch that
// lies ahead was recorded by a clock that has been set back since. Nobody
// knows when it was; the one before it counts, or, if there is none, the
// moment at which this process saw that.
//
// What is made after such a switch has its activation behind it (see behind),
// but is recorded when it was: a clock that was years ahead once makes a key
// due once more at most, not again and again, nor never.
func (e *Engine) lastSwitch(k *keys.Key, now time.Time) time.Time {
	newest := newestOf(k, func(v *keys.Version) bool {
		return started(v, now) && v.RevokedAt.IsZero() && v.ArchivedAt.IsZero() && v.DestroyAt.IsZero() && v.DestroyedAt.IsZero() &&
			!switchedAt(v).After(now.Add(tolerance))
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	if newest != nil {
		delete(e.lost, k.Name)
		return switchedAt(newest)
	}
	since, ok := e.lost[k.Name]
	if !ok || since.After(now) {
		since = now
		e.lost[k.Name] = now
	}
	return since
}

// switchedAt returns when v became active, as it was recorded or planned. A
// gateway whose clock is a little behind records it a little early.
func switchedAt(v *keys.Version) time.Time {
	if !v.ActivatedAt.IsZero() && v.ActivatedAt.Before(v.ActivateAt.Add(-tolerance)) {
		return v.ActivatedAt
	}
	return v.ActivateAt
}

// lastAborted returns the latest version if it was announced and its rotation
// aborted then.
func lastAborted(k *keys.Key) *keys.Version {
	v := k.Latest()
	if v != nil && !v.CreatedAt.IsZero() && v.ActivateAt.IsZero() && !v.DestroyedAt.IsZero() {
		return v
	}
	return nil
}

// resting reports whether k pauses after a rotation that was aborted.
func resting(k *keys.Key, now time.Time) bool {
	v := lastAborted(k)
	if v == nil {
		return false
	}
	pause := afterAbort
	if k.Policy.Period != 0 {
		pause = min(pause, k.Policy.Period)
	}
	ago := now.Sub(v.DestroyedAt)
	return ago > -tolerance && ago < pause
}

// dueAt returns when a rotation is due by period or schedule; zero if never.
func (e *Engine) dueAt(k *keys.Key, now time.Time) time.Time {
	base := e.lastSwitch(k, now)
	var at time.Time
	if k.Policy.Period != 0 {
		at = base.Add(k.Policy.Period)
	}
	if k.Policy.Schedule != "" {
		from := base
		if v := lastAborted(k); v != nil && v.ReservedAt.After(from) && !v.ReservedAt.After(now.Add(tolerance)) {
			from = v.ReservedAt // its tick was tried
		}
		if tick := e.ticks.next(k.Policy.Schedule, from); !tick.IsZero() && (at.IsZero() || tick.Before(at)) {
			at = tick
		}
	}
	return at
}

// NextRotation returns when k will be rotated by the period or schedule of
// its policy; a moment in the past means that it is due. Zero: by neither.
func (e *Engine) NextRotation(k *keys.Key) time.Time {
	now := e.clock()
	if k.Damaged || !k.DeleteAt.IsZero() || k.ActiveAt(now) == nil {
		return time.Time{}
	}
	at := e.dueAt(k, now)
	if v := lastAborted(k); v != nil && !at.IsZero() && resting(k, now) {
		rested := v.DestroyedAt.Add(afterAbort)
		if k.Policy.Period != 0 {
			rested = v.DestroyedAt.Add(min(afterAbort, k.Policy.Period))
		}
		if rested.After(at) {
			return rested
		}
	}
	return at
}
