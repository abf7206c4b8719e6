package keys

import "time"

// Reason says why a key is rotated or a version revoked.
type Reason string

// The reasons.
const (
	ReasonInitial         Reason = "initial" // version 1, made with the key
	ReasonScheduled       Reason = "scheduled"
	ReasonManual          Reason = "manual"
	ReasonCompromise      Reason = "compromise"
	ReasonPersonnelChange Reason = "personnel-change"
	ReasonDeployment      Reason = "deployment"
	ReasonUsageThreshold  Reason = "usage-threshold"
)

// ParseReason reads a reason that a caller may give; empty means manual.
// The error is ErrInvalid.
func ParseReason(s string) (Reason, error) {
	switch r := Reason(s); r {
	case "":
		return ReasonManual, nil
	case ReasonScheduled, ReasonManual, ReasonCompromise, ReasonPersonnelChange, ReasonDeployment, ReasonUsageThreshold:
		return r, nil
	}
	return "", Errorf(ErrInvalid, "unknown reason; use scheduled, manual, compromise, personnel-change, deployment or usage-threshold")
}

// Phase is how far a rotation has come.
type Phase string

// The phases.
const (
	PhaseReserved  Phase = "reserved"  // number and CKA_ID taken; the HSM may hold the objects or not
	PhaseActivated Phase = "activated" // the new version is active; the audit outcome is not written yet
	PhaseCompleted Phase = "completed" // the new version is active and the outcome recorded
	PhaseAborted   Phase = "aborted"   // given up before the switch; the new version is destroyed
)

// Done reports whether the rotation has ended.
func (p Phase) Done() bool { return p == PhaseCompleted || p == PhaseAborted }

// Rotation is a persisted workflow that brings one new version of a key from
// its reserved number to its place as the active version.
type Rotation struct {
	ID          string // 26 characters, sortable by time of start
	Key         string
	From        uint32 // the active version at the start; 0 for the first
	To          uint32 // the version being made
	Reason      Reason
	Phase       Phase
	StartedBy   string // principal; "system" for the engine itself
	RequestID   string
	StartedAt   time.Time
	CompletedAt time.Time // zero while it runs
	Error       string    // why it was aborted; safe to show to administrators
}
