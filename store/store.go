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
	//   - keys.ErrTampered: what is stored of the key, the rotation or the
	//     approval is not what Keyhole wrote
	//   - keys.ErrStore
	Commit(ctx context.Context, c Change) error

	// Key returns a key as of now, the caller's own copy. Errors:
	// keys.ErrKeyNotFound, ErrTampered.
	Key(ctx context.Context, name string) (*keys.Key, error)

	// Load returns all keys in order of their names, and the revision that
	// they are from. Keys whose rows were altered are Damaged.
	Load(ctx context.Context) ([]*keys.Key, uint64, error)

	// Changed returns exactly the keys that changed since a revision and
	// still exist, the names that were deleted since and do not exist, both
	// sorted, and the revision that this is from. A store that is behind
	// since has been replaced by an older copy of itself: keys.ErrStore.
	Changed(ctx context.Context, since uint64) (changed []*keys.Key, deleted []string, revision uint64, err error)

	// Rotation returns one rotation. Errors: keys.ErrNotFound, ErrTampered.
	Rotation(ctx context.Context, id string) (*keys.Rotation, error)

	// Rotations returns the rotations that f selects, highest id first, without
	// those that were altered.
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

	// Events returns events with ids above after, in their order, limit at
	// most. Ids of commits that come later are higher.
	Events(ctx context.Context, after uint64, limit int) ([]keys.Notice, error)

	// EventRange returns the lowest id that is still kept and the highest
	// that was ever given; 0, 0 before the first event. Of an emptied stream
	// the lowest is one above the highest.
	EventRange(ctx context.Context) (oldest, newest uint64, err error)

	// ExpireEvents removes the events that were written before a moment and
	// returns how many there were.
	ExpireEvents(ctx context.Context, before time.Time) (int, error)

	// SeeAgents notes that principals were seen: an agent's LastSeen never
	// goes back. It does not change the revision.
	SeeAgents(ctx context.Context, seen []Sighting) error

	// BlockAgent blocks a principal, known or not, or with nil unblocks it.
	// The revision grows. Unblocking an unknown principal: keys.ErrNotFound.
	BlockAgent(ctx context.Context, principal string, b *keys.Block) error

	// Blocked returns the principals that are blocked, sorted.
	Blocked(ctx context.Context) ([]string, error)

	// Agent returns the agent with the given keys.AgentID, or keys.ErrNotFound.
	Agent(ctx context.Context, id string) (*keys.Agent, error)

	// Agents returns the agents that f selects.
	Agents(ctx context.Context, f AgentFilter) ([]*keys.Agent, error)

	// Subscribe enters a subscription; one that is there stays as it is. It
	// returns what is there then. Errors: keys.ErrKeyNotFound.
	Subscribe(ctx context.Context, s keys.Subscription) (keys.Subscription, error)

	// Unsubscribe removes a subscription. It is no error that there is none.
	Unsubscribe(ctx context.Context, key, principal string) error

	// Subscriptions returns the subscriptions of a key ("": of all) by a
	// principal ("": by all), in order of key and principal.
	Subscriptions(ctx context.Context, key, principal string) ([]keys.Subscription, error)

	// Acknowledge enters an acknowledgement; one that is there stays as it
	// is. It returns what is there then. Errors: keys.ErrKeyNotFound,
	// ErrNotSubscribed, ErrVersionNotFound (there is no such version, or it
	// is not generated).
	Acknowledge(ctx context.Context, a keys.Ack) (keys.Ack, error)

	// Acks returns the acknowledgements of a key's version (0: of all its
	// versions) by a principal ("": by all), newest version first. key "":
	// of all keys.
	Acks(ctx context.Context, key string, version uint32, principal string) ([]keys.Ack, error)

	// ReserveUsage sets the counters of one node; those of other nodes stay.
	// It does not change the revision.
	ReserveUsage(ctx context.Context, node string, counted []keys.Usage) error

	// Usage returns the counters of a key ("": of all) by version and
	// principal, in that order, summed over the nodes; with a node, those of
	// that node only.
	Usage(ctx context.Context, key, node string) ([]keys.Usage, error)

	// PutApproval inserts an approval, with from "", or replaces one that is
	// in the state from. Errors: keys.ErrConflict (it is in another state).
	PutApproval(ctx context.Context, a *keys.Approval, from keys.ApprovalState) error

	// Approval returns one approval. Errors: keys.ErrNotFound, ErrTampered.
	Approval(ctx context.Context, id string) (*keys.Approval, error)

	// Approvals returns the approvals that f selects, highest id first,
	// without those that were altered.
	Approvals(ctx context.Context, f ApprovalFilter) ([]*keys.Approval, error)

	// Hook returns where a webhook stands; one that is not known stands at
	// the newest event and is entered so.
	Hook(ctx context.Context, name string) (Hook, error)

	// PutHook keeps where a webhook stands and, in the same transaction, the
	// events that were given up.
	PutHook(ctx context.Context, h Hook, dead ...DeadEvent) error

	// DeadEvents returns what a webhook ("": any) did not take, in order of
	// the events, limit at most (0: all).
	DeadEvents(ctx context.Context, hook string, limit int) ([]DeadEvent, error)

	// ForgetDead removes a dead event, after it was delivered or dropped.
	ForgetDead(ctx context.Context, hook string, event uint64) error

	// Ping reports whether the store can be used, for readiness.
	Ping(ctx context.Context) error

	// Close releases the store. Every later call fails with keys.ErrStore.
	Close() error
}
