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

// The phases, in their order. A rotation may be aborted in the first three.
const (
	PhaseReserved  Phase = "reserved"  // number and CKA_ID taken; the HSM may hold the objects or not
	PhaseAnnounced Phase = "announced" // generated, tested and published; the lead or acknowledgements are waited for
	PhaseScheduled Phase = "scheduled" // the moment of the switch is set, and every gateway knows it
	PhaseActivated Phase = "activated" // the new version is active; the audit outcome is not written yet
	PhaseCompleted Phase = "completed" // the new version is active and the outcome recorded
	PhaseAborted   Phase = "aborted"   // given up before the switch; the new version is destroyed
)

// Done reports whether the rotation has ended.
func (p Phase) Done() bool { return p == PhaseCompleted || p == PhaseAborted }

// phaseOrder is how far each phase is.
var phaseOrder = map[Phase]int{
	PhaseReserved: 1, PhaseAnnounced: 2, PhaseScheduled: 3, PhaseActivated: 4, PhaseCompleted: 5, PhaseAborted: 5,
}

// Known reports whether p is one of the phases.
func (p Phase) Known() bool { return phaseOrder[p] != 0 }

// Leads reports whether a rotation may go from p to next, or stay.
func (p Phase) Leads(next Phase) bool {
	switch {
	case !p.Known() || p.Done():
		return false
	case next == PhaseAborted:
		return phaseOrder[p] <= phaseOrder[PhaseScheduled]
	}
	return phaseOrder[next] >= phaseOrder[p]
}

// Rotation is a persisted workflow that brings one new version of a key from
// its reserved number to its place as the active version. What becomes of
// the predecessor after that is the version's own timeline and the key's
// policy; several predecessors may be in their overlap at one time.
type Rotation struct {
	ID          string // 26 characters, sortable by time of start
	Key         string
	From        uint32 // the active version at the start; 0 for the first
	To          uint32 // the version being made
	Reason      Reason
	Note        string // what the initiator says to it; safe to show to administrators
	Phase       Phase
	StartedBy   string // principal; "system" for the engine itself
	RequestID   string
	StartedAt   time.Time
	CompletedAt time.Time // the switch, or the end of the undoing; zero while it runs
	Error       string    // why it was aborted; safe to show to administrators

	// The plan, fixed at the start: a later change of the policy does not
	// touch a rotation under way.
	Announce   time.Duration
	Acks       Acks
	ActivateAt time.Time // not before; the coordinated time that was asked for, or zero

	AnnouncedAt time.Time // zero before PhaseAnnounced
	SwitchAt    time.Time // zero before PhaseScheduled
	// Expected are the agents whose acknowledgement counts: those subscribed
	// at the announcement and since. Skipped are those of them that were not
	// waited for because they were absent or blocked, as of the switch.
	Expected []string
	Skipped  []string
	ForcedBy string // who ordered the switch without waiting; "" if nobody
	EndedBy  string // who aborted it; "" if it was not aborted by an act
}

// Due returns the earliest moment at which r may leave PhaseAnnounced, if
// its acknowledgements are there.
func (r *Rotation) Due() time.Time { return r.AnnouncedAt.Add(r.Announce) }

// AckDeadline returns when the wait for acknowledgements ends; zero if none
// are waited for or r is not announced.
func (r *Rotation) AckDeadline() time.Time {
	if !r.Acks.Waits() || r.AnnouncedAt.IsZero() {
		return time.Time{}
	}
	return r.AnnouncedAt.Add(max(r.Acks.Timeout, r.Announce))
}
