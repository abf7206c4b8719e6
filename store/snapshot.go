package store

import (
	"maps"
	"slices"
	"time"

	"keyhole/keys"
)

// Snapshot is all keys as of one revision of the store. It is immutable, and
// so is everything that it returns.
type Snapshot struct {
	byName  map[string]*keys.Key
	names   []string // sorted
	damaged []string // names of the Damaged ones, sorted
	blocked map[string]bool
	// gone has the epochs that deleted keys had reached: a deletion that
	// somebody made up is no way around what follow holds.
	gone map[string]uint64

	marks int // versions that are revoked by a witness's word alone
}

// NewSnapshot returns a snapshot of the given keys, with nobody blocked.
func NewSnapshot(all []*keys.Key) *Snapshot {
	return (&Snapshot{}).with(all, nil)
}

// Key returns a key by its name.
func (s *Snapshot) Key(name string) (*keys.Key, bool) {
	k, ok := s.byName[name]
	return k, ok
}

// Blocked reports whether a principal is to be refused.
func (s *Snapshot) Blocked(principal string) bool { return s.blocked[principal] }

// Names returns the names of all keys, sorted. The slice is shared.
func (s *Snapshot) Names() []string { return s.names }

// Damaged returns the names of the Damaged keys, sorted. The slice is shared.
func (s *Snapshot) Damaged() []string { return s.damaged }

// Keys returns all keys in order of their names.
func (s *Snapshot) Keys() []*keys.Key {
	all := make([]*keys.Key, len(s.names))
	for i, n := range s.names {
		all[i] = s.byName[n]
	}
	return all
}

// with returns the snapshot after changes. What did not change is shared
// with s.
func (s *Snapshot) with(changed []*keys.Key, deleted []string) *Snapshot {
	next := &Snapshot{byName: maps.Clone(s.byName), names: s.names, damaged: s.damaged, blocked: s.blocked, gone: s.gone}
	if next.byName == nil {
		next.byName = make(map[string]*keys.Key, len(changed))
	}
	sameNames, sameDamage := true, true
	for _, k := range changed {
		old := next.byName[k.Name]
		if epoch, ok := next.gone[k.Name]; ok && old == nil {
			k = follow(&keys.Key{Epoch: epoch, Damaged: true}, k)
		} else {
			k = follow(old, k)
		}
		sameNames = sameNames && old != nil
		sameDamage = sameDamage && k.Damaged == (old != nil && old.Damaged)
		next.byName[k.Name] = k
	}
	for _, name := range deleted {
		old := next.byName[name]
		sameNames = sameNames && old == nil
		sameDamage = sameDamage && (old == nil || !old.Damaged)
		delete(next.byName, name)
		if epoch := reached(old); epoch > 1 {
			next.gone = maps.Clone(next.gone)
			if next.gone == nil {
				next.gone = map[string]uint64{}
			}
			next.gone[name] = epoch
		}
	}
	if !sameNames {
		next.names = slices.Sorted(maps.Keys(next.byName))
	}
	if !sameDamage {
		next.damaged = nil
		for _, name := range next.names {
			if next.byName[name].Damaged {
				next.damaged = append(next.damaged, name)
			}
		}
	}
	return next
}

// unrevoked calls f for each version that is neither revoked nor destroyed.
func (s *Snapshot) unrevoked(f func(k *keys.Key, v *keys.Version)) {
	for _, k := range s.byName {
		for _, v := range k.Versions {
			if v.RevokedAt.IsZero() && v.DestroyedAt.IsZero() {
				f(k, v)
			}
		}
	}
}

// withRevoked returns the snapshot with the versions revoked whose CKA_IDs
// are marked.
func (s *Snapshot) withRevoked(marked map[keys.ObjectID]keys.RevocationMark) *Snapshot {
	next := *s
	next.byName, next.marks = maps.Clone(s.byName), 0
	s.unrevoked(func(k *keys.Key, v *keys.Version) {
		m, ok := marked[v.ObjectID]
		if !ok {
			return
		}
		if next.byName[k.Name] == k {
			next.byName[k.Name] = k.Clone()
		}
		revoked, _ := next.byName[k.Name].Version(v.Number) // it is a copy of k
		revoked.RevokedAt, revoked.RevokeReason = m.RevokedAt, "as marked on the token"
		if m.RevokedAt.IsZero() {
			revoked.RevokedAt = time.Unix(0, 0).UTC()
		}
		next.marks++
	})
	return &next
}

// withBlocked returns the snapshot with other principals blocked.
func (s *Snapshot) withBlocked(all []string) *Snapshot {
	next := *s
	next.blocked = make(map[string]bool, len(all))
	for _, principal := range all {
		next.blocked[principal] = true
	}
	return &next
}

// follow returns what is to be believed of a key that was read now, after old
// (nil: nothing) was known of it. An epoch that goes back is an old row that
// somebody put back: the key is Damaged, and remembers the epoch that it had
// reached. Only a key of which nothing was ever generated may begin anew.
func follow(old, now *keys.Key) *keys.Key {
	if reached := reached(old); now.Damaged || now.Epoch < reached {
		return &keys.Key{Name: now.Name, Epoch: reached, Damaged: true}
	}
	return now
}

// reached returns the epoch behind which a key cannot fall: 1 for one that
// may begin anew, 0 for one that was never seen whole.
func reached(k *keys.Key) uint64 {
	switch {
	case k == nil:
		return 0
	case k.Damaged || slices.ContainsFunc(k.Versions, func(v *keys.Version) bool { return !v.CreatedAt.IsZero() }):
		return k.Epoch
	}
	return 1
}
