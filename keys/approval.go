package keys

import "time"

// ApprovalState is what has become of an act that needs two people.
type ApprovalState string

// The states. Expired is computed: pending and past ExpiresAt.
const (
	ApprovalPending  ApprovalState = "pending"
	ApprovalApproved ApprovalState = "approved" // decided, and the act is under way
	ApprovalDone     ApprovalState = "done"     // approved and done
	ApprovalFailed   ApprovalState = "failed"   // approved, and the act was refused
	ApprovalRejected ApprovalState = "rejected"
	ApprovalExpired  ApprovalState = "expired"
)

// Approval is an act that one principal asked for and another must approve.
type Approval struct {
	ID          string // as Rotation.ID
	Action      string // as the policy language calls it: destroy, delete-key
	Key         string
	Version     uint32 // 0: the key as a whole
	Force       bool   // the act overrides what speaks against it
	Note        string // why, in the requester's words
	State       ApprovalState
	RequestedBy string
	RequestedAs []string // every identity that the requester showed, RequestedBy among them
	RequestID   string
	RequestedAt time.Time
	ExpiresAt   time.Time
	DecidedBy   string // who approved or rejected it
	DecidedAt   time.Time
	DecidedNote string
	Error       string // why the act failed
}

// StateAt returns a's state at now.
func (a *Approval) StateAt(now time.Time) ApprovalState {
	if a.State == ApprovalPending && !now.Before(a.ExpiresAt) {
		return ApprovalExpired
	}
	return a.State
}
