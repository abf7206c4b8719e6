package keys

import "time"

// ActiveAt returns the version that signs and encrypts at now: the one with
// the latest ActivateAt that is not after now (of equals, the highest number)
// among those that are generated and neither suspended, revoked, archived,
// scheduled for destruction nor destroyed. It returns nil if there is none.
//
// Because the answer depends only on the versions and the clock, every
// gateway that knows a planned ActivateAt switches at that instant by itself.
func (k *Key) ActiveAt(now time.Time) *Version {
	var active *Version
	for _, v := range k.Versions { // ascending by number: >= lets the later win
		if v.eligible(now) && (active == nil || !v.ActivateAt.Before(active.ActivateAt)) {
			active = v
		}
	}
	return active
}

// eligible reports whether v may be the active version at now.
func (v *Version) eligible(now time.Time) bool {
	return v.started(now) && v.SuspendedAt.IsZero() && v.RevokedAt.IsZero() &&
		v.ArchivedAt.IsZero() && v.DestroyAt.IsZero() && v.DestroyedAt.IsZero()
}

// started reports whether v's activation time has come. A switch that was
// recorded stands, wherever a clock steps to.
func (v *Version) started(now time.Time) bool {
	return !v.CreatedAt.IsZero() && !v.ActivateAt.IsZero() && (!v.ActivatedAt.IsZero() || !v.ActivateAt.After(now))
}

// StateAt returns the state of version v of k at now. What was done to the
// version for good comes first; the clock decides the rest.
func (k *Key) StateAt(v *Version, now time.Time) State {
	switch {
	case !v.DestroyedAt.IsZero():
		return Destroyed
	case !v.DestroyAt.IsZero():
		return DestroyScheduled
	case !v.RevokedAt.IsZero():
		return Compromised
	case !v.ArchivedAt.IsZero():
		return Archived
	case !v.SuspendedAt.IsZero():
		return Suspended
	case !v.started(now):
		return PreActivation
	case k.ActiveAt(now) == v:
		return Active
	}
	return Deactivated
}

// DeactivatedAt returns when v stopped being active: the earliest activation
// behind its own that had come by now. It is zero while v is active or has
// not started.
func (k *Key) DeactivatedAt(v *Version, now time.Time) time.Time {
	if !v.started(now) || k.ActiveAt(now) == v {
		return time.Time{}
	}
	var at time.Time
	for _, w := range k.Versions {
		later := w.started(now) && (w.ActivateAt.After(v.ActivateAt) || w.ActivateAt.Equal(v.ActivateAt) && w.Number > v.Number)
		if later && (at.IsZero() || w.ActivateAt.Before(at)) {
			at = w.ActivateAt
		}
	}
	return at
}

// OverlapEndsAt returns when v's overlap ends by the key's policy; zero while
// v has not been deactivated, and if the policy sets no end.
func (k *Key) OverlapEndsAt(v *Version, now time.Time) time.Time {
	at := k.DeactivatedAt(v, now)
	if at.IsZero() || k.Policy.Overlap == 0 {
		return time.Time{}
	}
	return at.Add(k.Policy.Overlap)
}

// NextSwitch returns the first moment after now at which the clock alone
// changes which version is active, or zero.
func (k *Key) NextSwitch(now time.Time) time.Time {
	var next time.Time
	for _, v := range k.Versions {
		if v.ActivateAt.After(now) && v.eligible(v.ActivateAt) && (next.IsZero() || v.ActivateAt.Before(next)) {
			next = v.ActivateAt
		}
	}
	return next
}

// Apply lets ev happen to version n at now and returns the changed copy. It
// consults the transition table before, and after: an event that would put
// the version where the table does not lead is refused. k is not changed.
// Errors: ErrVersionNotFound, ErrVersionState.
//
// EventActivate plans or brings forward the activation to at; every other
// event uses at as the time of the act (EventScheduleDestroy: the time of
// the destruction to come).
func (k *Key) Apply(n uint32, ev Event, at, now time.Time) (*Key, error) {
	v, err := k.Version(n)
	if err != nil {
		return nil, err
	}
	from := k.StateAt(v, now)
	allowed, err := Transition(from, ev)
	if err != nil {
		return nil, Errorf(ErrVersionState, "version %s is %s; %q is not possible", k.ID(v), from, ev)
	}
	c := k.Clone()
	v, _ = c.Version(n)
	switch ev {
	case EventActivate:
		if v.CreatedAt.IsZero() {
			return nil, Errorf(ErrVersionState, "version %s is not generated yet", c.ID(v))
		}
		// The way from deactivated back to active is the clock's and the
		// successor's, never an act: a new time would rewrite what was.
		if from != PreActivation {
			return nil, Errorf(ErrVersionState, "version %s is %s; only a version in %s can be activated", c.ID(v), from, PreActivation)
		}
		v.ActivateAt = at
		if at.After(now) {
			return c, nil // the clock will do it; v stays in pre-activation until then
		}
	case EventSuspend:
		v.SuspendedAt = at
	case EventResume:
		v.SuspendedAt = time.Time{}
	case EventRevoke:
		v.RevokedAt = at
	case EventArchive:
		v.ArchivedAt = at
	case EventScheduleDestroy, EventDelete:
		v.DestroyAt = at
	case EventRestore:
		v.DestroyAt = time.Time{}
	case EventDestroy:
		v.DestroyedAt = at
	case EventDeactivate:
		return nil, Errorf(ErrVersionState, "a version is deactivated by activating another one")
	}
	to := c.StateAt(v, now)
	for _, s := range allowed {
		if s == to {
			return c, nil
		}
	}
	return nil, Errorf(ErrVersionState, "%q would take version %s from %s to %s", ev, c.ID(v), from, to)
}
