package rotation

import (
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// tolerance is how far the clocks of gateways may differ. A recorded moment
// further ahead was written by a clock that has been set back since.
const tolerance = 5 * time.Minute

// turn is one look at a rotation between generation and switch: what it was,
// and what it shall be by now. It does nothing outward; what it comes to is
// one Change.
type turn struct {
	was         *keys.Key // not to be changed
	key         *keys.Key
	r           *keys.Rotation
	timed       *keys.Rotation // the rotation for its times: see Engine.asAnnounced
	now         time.Time
	propagation time.Duration
	notices     []keys.Notice
	moved       bool
}

// turn begins a turn over a copy of k and of r.
func (e *Engine) turn(k *keys.Key, r *keys.Rotation, now time.Time) *turn {
	next := *r
	return &turn{was: k, key: k.Clone(), r: &next, timed: e.asAnnounced(r, now), now: now, propagation: e.propagation}
}

// asAnnounced returns r with the moment of its announcement as it counts. One
// that lies ahead was written by a clock that has been set back since: its
// lead, and the wait for agents, run from when this process saw that.
func (e *Engine) asAnnounced(r *keys.Rotation, now time.Time) *keys.Rotation {
	if !r.AnnouncedAt.After(now.Add(tolerance)) {
		return r
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	seen, ok := e.seen[r.ID]
	if !ok {
		seen = now
		e.seen[r.ID] = now
	}
	c := *r
	c.AnnouncedAt = seen
	return &c
}

// change is what the turn came to.
func (t *turn) change() store.Change {
	for i := range t.notices {
		t.notices[i].Rotation = t.r.ID
	}
	return store.Change{Key: t.key, Rotation: t.r, Notices: t.notices}
}

func (t *turn) tell(nt keys.NoticeType, n uint32, when time.Time) {
	t.notices = append(t.notices, notice(nt, t.key, n, when, string(t.r.Reason)))
}

// forward takes the rotation as far as the moment and the agents permit: from
// announced to scheduled, from there to activated, or to being undone.
func (t *turn) forward(c crowd) error {
	v, err := t.key.Version(t.r.To)
	if err != nil || t.r.Error != "" {
		return err
	}
	if t.r.Phase == keys.PhaseScheduled && !t.now.Before(t.r.SwitchAt) && usableAt(v, t.r.SwitchAt) {
		t.activate(v) // whatever became of it since
		return nil
	}
	switch {
	case !v.RevokedAt.IsZero():
		t.giveUp("version "+t.key.ID(v).String()+" was revoked before its switch", "")
		return nil
	case !t.key.DeleteAt.IsZero() || !v.DestroyAt.IsZero() || !v.DestroyedAt.IsZero():
		t.giveUp(deletedMeanwhile, "")
		return nil
	case !v.SuspendedAt.IsZero() && successorWanted(t.key, t.now):
		t.giveUp("version "+t.key.ID(v).String()+" is suspended, and the key needs a successor that can be used", "")
		return nil
	case !v.SuspendedAt.IsZero():
		return nil // until Resume
	}
	switch t.r.Phase {
	case keys.PhaseAnnounced:
		if err := t.schedule(c); err != nil {
			return err
		}
	case keys.PhaseScheduled:
		if err := t.reschedule(); err != nil {
			return err
		}
	}
	if t.r.Phase == keys.PhaseScheduled && !t.now.Before(t.r.SwitchAt) {
		if v, err = t.key.Version(t.r.To); err != nil {
			return err
		}
		t.activate(v)
	}
	return nil
}

// deletedMeanwhile is why a rotation is undone whose key is to go.
const deletedMeanwhile = "the key is to be deleted"

// usableAt reports whether nothing was done to v before a moment, so that it
// became active then, by the clock.
func usableAt(v *keys.Version, at time.Time) bool {
	for _, end := range []time.Time{v.SuspendedAt, v.RevokedAt, v.DestroyedAt} {
		if !end.IsZero() && end.Before(at) {
			return false
		}
	}
	return true
}

// schedule sets the moment of the switch once nothing is waited for.
func (t *turn) schedule(c crowd) error {
	r := t.r
	urgent := successorWanted(t.key, t.now)
	if !urgent && r.ForcedBy == "" {
		if t.now.Before(t.timed.Due()) {
			return nil
		}
		if !c.satisfied(r.Acks) {
			switch {
			case t.now.Before(t.timed.AckDeadline()):
				return nil
			case r.Acks.OnTimeout != keys.TimeoutActivate:
				t.giveUp("agents did not acknowledge the version in time", "")
				return nil
			}
		}
	}
	r.Phase = keys.PhaseScheduled
	if r.Acks.Waits() {
		r.Expected, r.Skipped = c.expected, c.skipped
	}
	return t.planSwitch(t.soonest(urgent))
}

// reschedule brings a switch forward that must not wait, and one back into
// reach that a clock planned which has been set back since.
func (t *turn) reschedule() error {
	urgent := successorWanted(t.key, t.now)
	at := t.soonest(urgent)
	switch {
	case !t.now.Before(t.r.SwitchAt):
		return nil
	case urgent || t.r.SwitchAt.After(at.Add(tolerance)):
		return t.planSwitch(at)
	}
	return nil
}

// soonest returns the earliest moment at which the switch may be. In an
// emergency nobody waits for gateways that do not know of it yet: until they
// do they have no version to use at all, or an older one.
func (t *turn) soonest(urgent bool) time.Time {
	at := t.now.Add(t.propagation)
	switch {
	case urgent:
		return t.now
	case t.r.ForcedBy == "" && t.r.ActivateAt.After(at):
		return t.r.ActivateAt
	case t.key.ActiveAt(t.now) == nil:
		return t.now // there is nothing to switch from
	}
	return at
}

// planSwitch sets the moment of the switch.
func (t *turn) planSwitch(at time.Time) error {
	key, err := t.key.Apply(t.r.To, keys.EventActivate, behind(t.key, t.r.To, at), t.now)
	if err != nil {
		return err
	}
	t.key, t.r.SwitchAt, t.moved = key, at, true
	if at.After(t.now) {
		t.tell(keys.NoticeScheduled, t.r.To, at)
	}
	return nil
}

// behind returns a moment that is not before at, nor before the activation of
// any version that number n shall replace. A gateway whose clock is ahead may
// have made that one; version n, with the earlier time, would give way to it.
func behind(k *keys.Key, n uint32, at time.Time) time.Time {
	for _, w := range k.Versions {
		if w.Number < n && w.RevokedAt.IsZero() && w.DestroyedAt.IsZero() && w.ActivateAt.After(at) {
			at = w.ActivateAt // of equals, the higher number is active
		}
	}
	return at
}

// activate records the switch, which the clock has made or makes now. Point
// of no return: what is recorded stands, wherever a clock steps to.
func (t *turn) activate(v *keys.Version) {
	v.ActivatedAt = t.now
	t.key.Algorithm, t.key.Bits = v.Algorithm, v.Bits
	t.r.Phase, t.r.CompletedAt, t.moved = keys.PhaseActivated, t.r.SwitchAt, true
	if t.key.StateAt(v, t.now) != keys.Active {
		return // it was taken out again already, and that was told
	}
	t.tell(keys.NoticeActivated, v.Number, t.r.SwitchAt)
	if p := without(t.was, v.Number).ActiveAt(t.now); p != nil {
		t.notices = append(t.notices, deactivated(t.key, p.Number, t.r.SwitchAt, t.now, string(t.r.Reason))...)
	}
}

// without returns k as it would be without version n.
func without(k *keys.Key, n uint32) *keys.Key {
	c := *k
	c.Versions = nil
	for _, v := range k.Versions {
		if v.Number != n {
			c.Versions = append(c.Versions, v)
		}
	}
	return &c
}

// giveUp decides that the rotation is undone. The decision is written before
// the first object is destroyed: nothing may lead to a version whose objects
// are gone.
func (t *turn) giveUp(why, by string) {
	t.r.Error, t.r.EndedBy, t.moved = why, by, true
	if v, err := t.key.Version(t.r.To); err == nil {
		v.ActivateAt = time.Time{}
	}
}

// undoing reports whether a rotation is to be undone.
func undoing(r *keys.Rotation) bool { return r.Error != "" && !r.Phase.Done() }
