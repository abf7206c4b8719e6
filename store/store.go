package store

import (
	"context"
	"time"

	"keyhole/keys"
)

// Store is durable and transactional. Its methods are safe for concurrent
// use, by several processes too, and leave soon after ctx ends.
//
// What a method wrote is on stable storage when it returns nil. When it
// returns keys.ErrStore or the context's error, the write has been made
// whole or not at all, and only reading tells which; every other error means
// that nothing was written.
//
// Times are kept in microseconds and returned in UTC. Empty maps and slices
// may come back nil.
type Store interface {
	// Commit makes one Change. All of it is seen, or none, and the revision
	// of the store grows by one. Errors:
	//
	//   - keys.ErrKeyExists: FromEpoch is 0 and the key exists
	//   - keys.ErrKeyRetired: a deleted key had the name
	//   - keys.ErrKeyNotFound: the key to be changed does not exist
	//   - keys.ErrConflict: the key is not at FromEpoch, or the rotation is
	//     further than the change knows: it has ended, or its version is active
	//   - keys.ErrRotationRunning: another rotation of the key is open
	//   - keys.ErrInternal: the change would undo what is for good: take a
	//     version back that was generated, revoked or destroyed, make a
	//     number vanish or come again, change what a version is
	//   - keys.ErrStore
	Commit(ctx context.Context, c Change) error

	// Key returns a key as of now, the caller's own copy, or
	// keys.ErrKeyNotFound.
	Key(ctx context.Context, name string) (*keys.Key, error)

	// Load returns all keys in order of their names, and the revision that
	// they are from.
	Load(ctx context.Context) ([]*keys.Key, uint64, error)

	// Changed returns exactly the keys that changed since a revision and
	// still exist, the names that were deleted since and do not exist, both
	// sorted, and the revision that this is from. A store that is behind
	// since has been replaced by an older copy of itself: keys.ErrStore.
	Changed(ctx context.Context, since uint64) (changed []*keys.Key, deleted []string, revision uint64, err error)

	// Rotation returns one rotation, or keys.ErrNotFound.
	Rotation(ctx context.Context, id string) (*keys.Rotation, error)

	// Rotations returns the rotations that f selects, highest id first.
	Rotations(ctx context.Context, f RotationFilter) ([]*keys.Rotation, error)

	// RotationByRequest returns the rotation that a request began (of
	// several, the one with the highest id), or keys.ErrNotFound. No
	// rotation has the empty request id.
	RotationByRequest(ctx context.Context, requestID string) (*keys.Rotation, error)

	// BeginAttempt enters an attempt: nil, nil says that this call did, and
	// of any number of calls at most one is told so. Otherwise it returns
	// the attempt that is there, whatever its fingerprint.
	BeginAttempt(ctx context.Context, a Attempt) (existing *Attempt, err error)

	// FinishAttempt keeps the answer of an attempt. The first answer stays:
	// finishing once more changes nothing. Errors: keys.ErrNotFound.
	FinishAttempt(ctx context.Context, principal, key string, status int, body []byte) error

	// ForgetAttempt removes an attempt, so that its key can be used again.
	// It is no error that there is none.
	ForgetAttempt(ctx context.Context, principal, key string) error

	// ExpireAttempts removes the attempts that were started before a moment
	// and returns how many there were.
	ExpireAttempts(ctx context.Context, before time.Time) (int, error)

	// Ping reports whether the store can be used, for readiness.
	Ping(ctx context.Context) error

	// Close releases the store. Every later call fails with keys.ErrStore.
	Close() error
}
