package keys

import "time"

// Policy says how a key lives. The zero value means: rotate by hand only,
// at once, and keep every predecessor for verifying and decrypting.
type Policy struct {
	// Period is the longest time a version stays active before the key is
	// rotated by itself (SP 800-57: originator-usage period). 0: never.
	Period time.Duration
	// Schedule is a cron expression of five fields, UTC, at which the key is
	// rotated. "": never.
	Schedule string
	// MaxOperations and MaxBytes bound what a version signs or encrypts
	// before the key is rotated. 0: no bound.
	MaxOperations uint64
	MaxBytes      uint64

	// Announce is the time between the publication of a new version and its
	// activation.
	Announce time.Duration
	// Acks says which agents must have acknowledged it by then.
	Acks Acks

	// Overlap is how long a predecessor verifies and decrypts after it was
	// deactivated (SP 800-57: recipient-usage period). 0: without end.
	Overlap time.Duration
	// AfterOverlap is what becomes of it then; it has no meaning without
	// Overlap.
	AfterOverlap AfterOverlap
	// DestroyDelay is the time between the order to destroy a version and its
	// destruction, in which it can be restored. 0: DefaultDestroyDelay.
	DestroyDelay time.Duration
}

// DefaultDestroyDelay is Policy.DestroyDelay where a policy has none.
const DefaultDestroyDelay = 24 * time.Hour

// Delay returns the policy's destroy delay, or the default one.
func (p Policy) Delay() time.Duration {
	if p.DestroyDelay == 0 {
		return DefaultDestroyDelay
	}
	return p.DestroyDelay
}

// AfterOverlap is what becomes of a version at the end of its overlap.
type AfterOverlap string

// The ways.
const (
	OverlapArchive AfterOverlap = "archive" // the default
	OverlapDestroy AfterOverlap = "destroy"
)

// Acks says which of the subscribed agents must acknowledge a version before
// it is activated. Agents not seen for AbsentAfter are not waited for.
type Acks struct {
	Require     AckRequirement // "": AckNone
	Quorum      int            // percent of the agents waited for, 1 to 100; with AckQuorum
	Timeout     time.Duration  // the longest wait, from the announcement on
	OnTimeout   OnTimeout
	AbsentAfter time.Duration // 0: DefaultAbsentAfter
}

// DefaultAbsentAfter is Acks.AbsentAfter where a policy has none.
const DefaultAbsentAfter = 24 * time.Hour

// Absence returns how long an agent may be unseen and still be waited for.
func (a Acks) Absence() time.Duration {
	if a.AbsentAfter == 0 {
		return DefaultAbsentAfter
	}
	return a.AbsentAfter
}

// AckRequirement is whose acknowledgements a rotation waits for.
type AckRequirement string

// The requirements.
const (
	AckNone   AckRequirement = "none"
	AckAll    AckRequirement = "all"
	AckQuorum AckRequirement = "quorum"
)

// Waits reports whether any acknowledgement is waited for.
func (a Acks) Waits() bool { return a.Require == AckAll || a.Require == AckQuorum }

// Satisfied reports whether acked of expected agents are enough.
func (a Acks) Satisfied(acked, expected int) bool {
	switch a.Require {
	case AckAll:
		return acked >= expected
	case AckQuorum:
		return acked*100 >= a.Quorum*expected
	}
	return true
}

// OnTimeout is what happens to a rotation whose acknowledgements did not
// come in time.
type OnTimeout string

// The ways.
const (
	TimeoutAbort    OnTimeout = "abort" // the default
	TimeoutActivate OnTimeout = "activate"
)

// Limits bound policies from below, so that a slip of the unit neither fills
// the token with keys nor destroys one before anybody could object.
type Limits struct {
	MinPeriod       time.Duration
	MinDestroyDelay time.Duration
}

// DefaultLimits are those of production.
func DefaultLimits() Limits { return Limits{MinPeriod: time.Hour, MinDestroyDelay: 24 * time.Hour} }

// maxSpan keeps every moment that a policy leads to within what all stores
// and encodings can hold.
const maxSpan = 100 * 365 * 24 * time.Hour

// Check refuses a policy that cannot work. It does not read Schedule, whose
// language is not known here. The error is ErrInvalid.
func (p Policy) Check(l Limits) error {
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"period", p.Period}, {"announce", p.Announce}, {"acks.timeout", p.Acks.Timeout}, {"acks.absent_after", p.Acks.AbsentAfter},
		{"overlap", p.Overlap}, {"destroy_delay", p.DestroyDelay},
	} {
		if d.d < 0 || d.d > maxSpan {
			return Errorf(ErrInvalid, "policy.%s is %s; it must be between 0s and %s", d.name, d.d, maxSpan)
		}
	}
	if err := p.Acks.check(); err != nil {
		return err
	}
	lead := p.Announce
	if p.Acks.Waits() {
		lead = max(lead, p.Acks.Timeout)
	}
	switch {
	case p.Period != 0 && p.Period < l.MinPeriod:
		return Errorf(ErrInvalid, "policy.period is %s; the least is %s, and 0s means never", p.Period, l.MinPeriod)
	case p.Period != 0 && p.Period <= p.Announce+ackWait(p.Acks):
		return Errorf(ErrInvalid, "policy.period is %s, and announcing (%s) and waiting for acknowledgements (%s) may take as long; make it longer",
			p.Period, p.Announce, ackWait(p.Acks))
	case p.Overlap != 0 && p.Overlap < lead:
		return Errorf(ErrInvalid, "policy.overlap is %s, less than a rotation takes from the announcement to the switch (%s); make it longer, or 0s for no end",
			p.Overlap, lead)
	case p.AfterOverlap != "" && p.AfterOverlap != OverlapArchive && p.AfterOverlap != OverlapDestroy:
		return Errorf(ErrInvalid, "policy.after_overlap must be archive or destroy")
	case p.AfterOverlap == OverlapDestroy && p.Overlap == 0:
		return Errorf(ErrInvalid, "policy.after_overlap destroy needs policy.overlap: without it a predecessor is kept for ever")
	case p.AfterOverlap == OverlapDestroy && p.Overlap < l.MinDestroyDelay:
		return Errorf(ErrInvalid, "policy.overlap is %s and after_overlap is destroy; the least is %s then, so that nobody is left behind", p.Overlap, l.MinDestroyDelay)
	case p.DestroyDelay != 0 && p.DestroyDelay < l.MinDestroyDelay:
		return Errorf(ErrInvalid, "policy.destroy_delay is %s; the least is %s, so that a mistake can be undone", p.DestroyDelay, l.MinDestroyDelay)
	}
	return nil
}

func ackWait(a Acks) time.Duration {
	if a.Waits() {
		return a.Timeout
	}
	return 0
}

func (a Acks) check() error {
	switch a.Require {
	case "", AckNone:
		if a.Quorum != 0 || a.Timeout != 0 || a.OnTimeout != "" || a.AbsentAfter != 0 {
			return Errorf(ErrInvalid, "policy.acks.require is none: quorum, timeout, on_timeout and absent_after have no meaning")
		}
		return nil
	case AckAll:
		if a.Quorum != 0 {
			return Errorf(ErrInvalid, "policy.acks.quorum goes with require: quorum")
		}
	case AckQuorum:
		if a.Quorum < 1 || a.Quorum > 100 {
			return Errorf(ErrInvalid, "policy.acks.quorum is %d; it is a percentage, 1 to 100", a.Quorum)
		}
	default:
		return Errorf(ErrInvalid, "policy.acks.require must be all, quorum or none")
	}
	if a.Timeout == 0 {
		return Errorf(ErrInvalid, "policy.acks.timeout is missing: how long a rotation waits for acknowledgements, such as \"1h\"")
	}
	if a.OnTimeout != "" && a.OnTimeout != TimeoutAbort && a.OnTimeout != TimeoutActivate {
		return Errorf(ErrInvalid, "policy.acks.on_timeout must be abort or activate")
	}
	return nil
}
