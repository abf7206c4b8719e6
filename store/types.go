package store

import (
	"slices"
	"time"

	"keyhole/keys"
)

// Change is one atomic, durable write about one key, one rotation, or both.
type Change struct {
	// Key is the key as it shall be; nil leaves the keys alone. Its Epoch is
	// FromEpoch+1, unless Delete is set.
	Key *keys.Key
	// FromEpoch is the epoch that the key must have now; 0: it must not exist.
	FromEpoch uint64
	// Delete removes the key. If no version of it was ever generated its name
	// is free again; if every one is destroyed the name is retired for good.
	// Any other key stays: keys.ErrInternal.
	Delete bool
	// Rotation is inserted or replaced; nil leaves the rotations alone.
	Rotation *keys.Rotation
}

// RotationFilter selects rotations. The zero value selects all.
type RotationFilter struct {
	Key      string // "": of every key
	Before   string // only ids that sort before this one
	Limit    int    // 0: no limit
	OpenOnly bool   // only those that have not ended
}

// Attempt is one use of an Idempotency-Key by a principal.
type Attempt struct {
	Principal   string
	Key         string // the Idempotency-Key
	Fingerprint string // of method, path and body: the same key with another request is refused
	RequestID   string // of the first attempt
	StartedAt   time.Time
	Status      int    // HTTP status of the answer; 0 while there is none
	Body        []byte // of the answer
}

// Snapshot is all keys as of one revision of the store. It is immutable, and
// so is everything that it returns.
type Snapshot struct {
	byName map[string]*keys.Key
	names  []string // sorted
}

// NewSnapshot returns a snapshot of the given keys.
func NewSnapshot(all []*keys.Key) *Snapshot {
	s := &Snapshot{byName: make(map[string]*keys.Key, len(all))}
	for _, k := range all {
		s.byName[k.Name] = k
	}
	s.names = sortedNames(s.byName)
	return s
}

func sortedNames(byName map[string]*keys.Key) []string {
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Key returns a key by its name.
func (s *Snapshot) Key(name string) (*keys.Key, bool) {
	k, ok := s.byName[name]
	return k, ok
}

// Names returns the names of all keys, sorted. The slice is shared.
func (s *Snapshot) Names() []string { return s.names }

// Keys returns all keys in order of their names.
func (s *Snapshot) Keys() []*keys.Key {
	all := make([]*keys.Key, len(s.names))
	for i, n := range s.names {
		all[i] = s.byName[n]
	}
	return all
}
