package audit

import "time"

// Outcome is how an operation ended, as far as a record knows.
const (
	OutcomeOK     = "ok"     // done
	OutcomeDenied = "denied" // refused: authentication or policy
	OutcomeError  = "error"  // tried and failed; Reason holds the error's code
	OutcomeIntent = "intent" // about to be done; a later record holds the outcome
)

// Acts of the log itself, by SystemPrincipal.
const (
	// ActionRecover: the log was repaired and goes on. Details say what was
	// cut ("bytes_cut"), and after an outage in the middle of a run also why
	// and since when nothing could be recorded ("error", "since") and how many
	// records were refused meanwhile ("refused"); "hashes" is "rebuilt" where
	// the nodes of the Merkle tree had to be made anew from the lines.
	ActionRecover = "audit-recover"
	// ActionClock: the clock was found behind the last record. Details hold
	// what it said ("clock"). Until it has caught up, records bear the time of
	// the last record before the step.
	ActionClock = "audit-clock"
)

// SystemPrincipal acts where no caller does.
const SystemPrincipal = "system"

// Record is one line of the log. It never holds payloads, tokens or other
// secrets. Seq, Time and Node are filled in by the log, whatever the caller
// put there. Empty members are left out of the line.
//
// Strings are written as UTF-8 of at most 1024 bytes; longer ones are cut and
// end in "...", and bytes that are no UTF-8 become U+FFFD. Of Policies and
// Details the first 64 are kept, and a last "..." tells that there were more.
type Record struct {
	Seq  uint64    `json:"seq"`  // from 0, without gaps
	Time time.Time `json:"time"` // UTC, nanoseconds; never before that of the record in front
	Node string    `json:"node"`

	RequestID  string `json:"request_id,omitempty"`
	Principal  string `json:"principal,omitempty"`
	AuthMethod string `json:"auth_method,omitempty"`
	Source     string `json:"source,omitempty"` // IP address of the connection

	Action    string   `json:"action"`
	Key       string   `json:"key,omitempty"`
	Version   uint32   `json:"version,omitempty"`
	KeyID     string   `json:"kid,omitempty"` // "payments.v3"
	Algorithm string   `json:"algorithm,omitempty"`
	Purpose   string   `json:"purpose,omitempty"`
	Policies  []string `json:"policies,omitempty"` // ids of the policies that decided

	Outcome  string        `json:"outcome"`
	Reason   string        `json:"reason,omitempty"`      // stable code, or a short text in rotation records
	Size     int64         `json:"size,omitempty"`        // of the payload, bytes
	Duration time.Duration `json:"duration_ns,omitempty"` // until the record was handed in

	// Acts that change keys.
	Initiator   string            `json:"initiator,omitempty"` // principal, or "system"
	Rotation    string            `json:"rotation,omitempty"`
	FromVersion uint32            `json:"from_version,omitempty"`
	ToVersion   uint32            `json:"to_version,omitempty"`
	StartedAt   time.Time         `json:"started_at,omitzero"`
	CompletedAt time.Time         `json:"completed_at,omitzero"`
	Intent      *uint64           `json:"intent,omitempty"` // seq of the intent record of this outcome
	Details     map[string]string `json:"details,omitempty"`
}
