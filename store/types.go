package store

import (
	"time"

	"keyhole/keys"
)

// Change is one atomic, durable write about one key, with what belongs to it.
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
	// Notices are appended to the event stream; their ID is ignored.
	Notices []keys.Notice
	// Approval, whose act this change is or ends, is replaced; nil leaves the
	// approvals alone.
	Approval *keys.Approval
}

// RotationFilter selects rotations. The zero value selects all.
type RotationFilter struct {
	Key      string // "": of every key
	Before   string // only ids that sort before this one
	Limit    int    // 0: no limit
	OpenOnly bool   // only those that have not ended
}

// ApprovalFilter selects approvals. The zero value selects all.
type ApprovalFilter struct {
	State  keys.ApprovalState // as of At; "": any
	At     time.Time          // pending ones that are expired by then count as expired
	Before string             // only ids that sort before this one
	Limit  int                // 0: no limit
}

// AgentFilter selects agents, in order of their principals.
type AgentFilter struct {
	After string // only principals that sort behind this one
	Limit int    // 0: no limit
}

// Sighting says that a principal was authenticated.
type Sighting struct {
	Principal string
	At        time.Time
}

// Hook is where the delivery of events to one webhook stands.
type Hook struct {
	Name      string
	Cursor    uint64 // the last event that was delivered, given up or not meant for it
	Failures  int    // attempts in a row for the event behind the cursor
	FirstFail time.Time
	RetryAt   time.Time
	LastError string // safe to show to administrators
	LastOK    time.Time
}

// DeadEvent is an event that a webhook did not take.
type DeadEvent struct {
	Hook   string
	Notice keys.Notice
	Error  string
	At     time.Time // when it was given up
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
