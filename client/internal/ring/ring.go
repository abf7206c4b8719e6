// Package ring is what an agent keeps of one key, to verify without asking:
// the public key and the state of each version. It is filled from what the
// gateway publishes (JWKS and status) and from events, and judges signatures
// as the gateway does.
package ring

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"keyhole/client/internal/public"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Ring keeps the versions of one key. It is safe for concurrent use.
//
// Two things are for good, whatever is published later: a version that was
// revoked or destroyed stays so, and the public key that was seen first with
// a kid stays the one of that kid.
type Ring struct {
	key string

	mu       sync.RWMutex
	versions map[uint32]*entry
}

type entry struct {
	public  *public.Version // nil: none was seen
	secret  bool            // there is none to be seen
	state   keys.State
	revoked bool
}

// Version is what is kept of one version.
type Version struct {
	Number uint32
	State  keys.State
	Public *public.Version // nil: none was seen
	Secret bool            // there is none to be seen
}

// Ready reports whether all that a user of the version needs is kept.
func (v Version) Ready() bool { return v.Secret || v.Public != nil }

// New returns an empty Ring of a key.
func New(key string) *Ring { return &Ring{key: key, versions: map[uint32]*entry{}} }

// Fill takes in what the gateway publishes of the key. What cannot be used
// is left out, and the error says what and why: an algorithm that is not
// known here, or keys.ErrTampered: another public key for a kid.
func (r *Ring) Fill(jwks api.JWKS, status api.StatusSet) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, s := range status.Keys {
		id, err := keys.ParseVersionID(s.KeyID)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("the status of a key: %w", err))
		case id.Key == r.key:
			e := r.at(id.Number)
			e.revoked = e.revoked || !s.RevokedAt.IsZero() || keys.State(s.State) == keys.Compromised
			e.set(keys.State(s.State))
		}
	}
	for _, jwk := range jwks.Keys {
		v, err := public.FromJWK(jwk)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case v.ID.Key != r.key:
			continue
		}
		switch e := r.at(v.ID.Number); {
		case e.public == nil:
			e.public = v
			if e.state == "" { // published between the two answers
				e.set(keys.PreActivation)
			}
		case !e.public.Equal(v):
			errs = append(errs, keys.Errorf(keys.ErrTampered, "the gateway publishes another public key for %s than before; the first one is kept", v.ID))
		}
	}
	return errors.Join(errs...)
}

// at returns the entry of version n, made if there is none.
func (r *Ring) at(n uint32) *entry {
	e := r.versions[n]
	if e == nil {
		e = &entry{}
		r.versions[n] = e
	}
	return e
}

// set takes a new state, but none that would bring a version back.
func (e *entry) set(s keys.State) {
	switch {
	case e.state == keys.Destroyed:
	case e.revoked && s != keys.DestroyScheduled && s != keys.Destroyed:
		e.state = keys.Compromised
	default:
		e.state = s
	}
}

// Secret enters a version that has no public key. It has no say on versions
// that are published.
func (r *Ring) Secret(n uint32, state keys.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.at(n); e.public == nil {
		e.secret = true
		e.set(state)
	}
}

// Apply lets an event have its effect at once, as far as it takes trust away;
// all else is for Fill.
func (r *Ring) Apply(ev api.Event) {
	if ev.Key != r.key {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch keys.NoticeType(ev.Type) {
	case keys.NoticeRevoked:
		e := r.at(ev.Version)
		e.revoked = true
		e.set(keys.Compromised)
	case keys.NoticeSuspended:
		r.at(ev.Version).set(keys.Suspended)
	case keys.NoticeArchived:
		r.at(ev.Version).set(keys.Archived)
	case keys.NoticeDestroyScheduled:
		r.at(ev.Version).set(keys.DestroyScheduled)
	case keys.NoticeDestroyed:
		r.at(ev.Version).set(keys.Destroyed)
	case keys.NoticeKeyDeleted:
		for _, e := range r.versions {
			e.set(keys.DestroyScheduled)
		}
	}
}

// Version returns what is kept of version n.
func (r *Ring) Version(n uint32) (Version, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, ok := r.versions[n]
	if !ok {
		return Version{}, false
	}
	return e.version(n), true
}

func (e *entry) version(n uint32) Version {
	return Version{Number: n, State: e.state, Public: e.public, Secret: e.secret && e.public == nil}
}

// Versions returns all versions, newest first.
func (r *Ring) Versions() []Version {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]Version, 0, len(r.versions))
	for n, e := range r.versions {
		all = append(all, e.version(n))
	}
	slices.SortFunc(all, func(a, b Version) int { return int(int64(b.Number) - int64(a.Number)) })
	return all
}
