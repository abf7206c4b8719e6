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
	//   - keys.ErrConflict: the key is not at FromEpoch, the rotation is
	//     further than the change knows (keys.Phase.Leads), or the approval is
	//     (as PutApproval)
	//   - keys.ErrNotFound: there is no such approval
	//   - keys.ErrRotationRunning: another rotation of the key is open; one
	//     that was altered does not count, and ends by this change
	//   - keys.ErrInternal: the change would undo what is for good: take a
	//     version back that was generated, revoked or destroyed, or a switch
	//     that is recorded, make a number vanish or come again, change what a
	//     version is (but for the CKA_ID of one that was never generated, if
	//     nothing else changes) or what a rotation plans
	//   - keys.ErrTampered: what is stored of the key, the rotation or the
	//     approval is not what Keyhole wrote
	//   - keys.ErrStore
	Commit(ctx context.Context, c Change) error

	// Adopt inserts a key that was rebuilt from its token, or puts it in the
	// place of a Damaged one, in one transaction: the rows of that one go, and
	// an open rotation of it is aborted. Subscriptions, acknowledgements and
	// usage stay. k.Epoch is ignored: what is stored has an epoch above every
	// one that the key had. Nothing of the old rows is taken over, not even a
	// revocation: that is the caller's to judge.
	// Errors:
	//
	//   - keys.ErrKeyExists: the key is there and intact, or objects of k
	//     belong to an intact key
	//   - keys.ErrKeyRetired: a deleted key had the name
	//   - keys.ErrInternal: k is no key to begin with
	Adopt(ctx context.Context, k *keys.Key) error

	// Key returns a key as of now, the caller's own copy. Errors:
	// keys.ErrKeyNotFound, ErrTampered.
	Key(ctx context.Context, name string) (*keys.Key, error)

	// Readable returns a key as Key does, and of a Damaged one, marked so,
	// what can be read of it: for a person to look at, before it is adopted.
	// Anybody may have written it. Errors: keys.ErrKeyNotFound.
	Readable(ctx context.Context, name string) (*keys.Key, error)

	// Load returns all keys in order of their names, and the revision that
	// they are from. Keys whose rows were altered are Damaged, with nothing
	// but their names.
	Load(ctx context.Context) ([]*keys.Key, uint64, error)

	// Changed returns exactly the keys that changed since a revision and
	// still exist, Damaged ones as Load does, the names that were deleted since and do not exist, both
	// sorted, and the revision that this is from. A store that is behind
	// since has been replaced by an older copy of itself: keys.ErrStore.
	Changed(ctx context.Context, since uint64) (changed []*keys.Key, deleted []string, revision uint64, err error)

	// Rotation returns one rotation. Errors: keys.ErrNotFound, ErrTampered.
	Rotation(ctx context.Context, id string) (*keys.Rotation, error)

	// Rotations returns the rotations that f selects, highest id first, without
	// those that were altered.
	Rotations(ctx context.Context, f RotationFilter) ([]*keys.Rotation, error)

	// RotationByRequest returns the rotation that a request began (of
	// several, the one with the highest id). No rotation has the empty
	// request id. Errors: keys.ErrNotFound, ErrTampered.
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
	// most (0: none). Ids of commits that come later are higher.
	Events(ctx context.Context, after uint64, limit int) ([]keys.Notice, error)

	// EventRange returns the lowest id that is still kept and the highest
	// that was ever given; 0, 0 before the first event. Of an emptied stream
	// the lowest is one above the highest.
	EventRange(ctx context.Context) (oldest, newest uint64, err error)

	// ExpireEvents removes the events that were written before a moment, and
	// before all that stay, and returns how many there were.
	ExpireEvents(ctx context.Context, before time.Time) (int, error)

	// SeeAgents notes that principals were seen: an agent's LastSeen never
	// goes back. It does not change the revision.
	SeeAgents(ctx context.Context, seen []Sighting) error

	// BlockAgent blocks a principal, known or not, or with nil unblocks it.
	// The revision grows. Errors: keys.ErrNotFound (unblocking an unknown
	// principal), ErrTampered (unblocking, as Blocked; to block works always).
	BlockAgent(ctx context.Context, principal string, b *keys.Block) error

	// Blocked returns the principals that are blocked, sorted. With
	// keys.ErrTampered the list was altered, or is older than one that was
	// returned before: who is in it is to be refused, and others may be
	// missing.
	Blocked(ctx context.Context) ([]string, error)

	// AdoptBlocks makes the list of blocked principals, as it can be read, the
	// one that counts, and returns it, sorted: for a person to look through,
	// after Blocked said keys.ErrTampered. The revision grows.
	AdoptBlocks(ctx context.Context) ([]string, error)

	// Agent returns the agent with the given keys.AgentID, or keys.ErrNotFound.
	Agent(ctx context.Context, id string) (*keys.Agent, error)

	// Agents returns the agents that f selects.
	Agents(ctx context.Context, f AgentFilter) ([]*keys.Agent, error)

	// Subscribe enters a subscription; one that is there stays as it is. It
	// returns what is there then. Subscriptions, acknowledgements and usage go
	// with their key. Errors: keys.ErrKeyNotFound, ErrTampered.
	Subscribe(ctx context.Context, s keys.Subscription) (keys.Subscription, error)

	// Unsubscribe removes a subscription. It is no error that there is none.
	Unsubscribe(ctx context.Context, key, principal string) error

	// Subscriptions returns the subscriptions of a key ("": of all) by a
	// principal ("": by all), in order of key and principal.
	Subscriptions(ctx context.Context, key, principal string) ([]keys.Subscription, error)

	// Acknowledge enters an acknowledgement; one that is there stays as it
	// is. It returns what is there then. Errors: keys.ErrKeyNotFound,
	// ErrTampered, ErrNotSubscribed, ErrVersionNotFound (there is no such
	// version, or it is not generated).
	Acknowledge(ctx context.Context, a keys.Ack) (keys.Ack, error)

	// Acks returns the acknowledgements of a key's version (0: of all its
	// versions) by a principal ("": by all), newest version first, then in
	// order of the principals. key "": of all keys, in order of their names.
	Acks(ctx context.Context, key string, version uint32, principal string) ([]keys.Ack, error)

	// ClaimUsage takes the counters of a node over: from then on, whichever
	// Store had claimed them before writes none of them any more.
	ClaimUsage(ctx context.Context, node string) error

	// ReserveUsage sets the counters of one node; those of other nodes stay.
	// It does not change the revision. Errors: keys.ErrConflict (this Store
	// has claimed the counters, and another one has since).
	ReserveUsage(ctx context.Context, node string, counted []keys.Usage) error

	// Usage returns the counters of a key ("": of all) by version and
	// principal, in that order, summed over the nodes; with a node, those of
	// that node only.
	Usage(ctx context.Context, key, node string) ([]keys.Usage, error)

	// PutApproval inserts a pending approval, with from "", or replaces one
	// that is in the state from. From pending it goes to approved or rejected,
	// from approved to done or failed, and never on: it serves once. Errors:
	// keys.ErrConflict (it is in another state), ErrNotFound, ErrTampered,
	// ErrInternal (what was asked for or decided would change).
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

	// AcquireLease takes a lease, or prolongs it if holder has it, until ttl
	// from now by the clock of the store. false: another holder has it. It
	// does not change the revision.
	AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, err error)

	// ReleaseLease gives a lease up. It is no error that holder has none.
	ReleaseLease(ctx context.Context, name, holder string) error

	// Beat keeps a heartbeat of this process: what it has seen, and that it
	// stops using keys by itself lapse from now unless it is heard again. It
	// does not change the revision. Errors: keys.ErrConflict (another instance
	// under the same name was seen in the last five seconds; not on SQLite,
	// which one gateway has to itself: one that was killed starts at once).
	Beat(ctx context.Context, n keys.Node, lapse time.Duration) error

	// Leave says that an instance uses no key any more, and gives its leases
	// up.
	Leave(ctx context.Context, instance string) error

	// Nodes returns the nodes that were ever seen and did not leave, in order
	// of their names, and the revision of the store that this is from.
	// Those that ended long ago are forgotten when a new one comes.
	Nodes(ctx context.Context) (all []keys.Node, revision uint64, err error)

	// Hints returns a channel that gets a value when somebody has committed,
	// by this or another process, as far as the store tells: it may miss any
	// of them. nil: it never tells. There is one reader.
	Hints() <-chan struct{}

	// Ping reports whether the store can be used, for readiness.
	Ping(ctx context.Context) error

	// Close releases the store. Every later call fails with keys.ErrStore.
	Close() error
}
