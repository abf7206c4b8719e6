package api

// CreateKeyRequest makes a key, generates its version 1 and activates it.
type CreateKeyRequest struct {
	Name        string            `json:"name"`
	Algorithm   string            `json:"algorithm"`
	Bits        int               `json:"bits,omitzero"` // RSA: 2048, 3072 (default), 4096
	Description string            `json:"description,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	Token       string            `json:"token,omitempty"` // configured name; default the first one
	Policy      *Policy           `json:"policy,omitempty"`
}

// UpdateKeyRequest changes what is set and leaves the rest. Epoch, if set,
// makes the change conditional on it.
type UpdateKeyRequest struct {
	Description *string            `json:"description,omitempty"`
	Tags        *map[string]string `json:"tags,omitempty"`
	Policy      *Policy            `json:"policy,omitempty"`
	Epoch       uint64             `json:"epoch,omitzero"`
}

// RotateRequest makes the next version. Algorithm and Bits, if set, change
// those of the key from this version on, within its purpose. ActivateAt and
// Announce, if set, take the place of what the policy says. The reason
// compromise neither announces nor waits.
type RotateRequest struct {
	Reason     string    `json:"reason,omitempty"` // default manual
	Note       string    `json:"note,omitempty"`   // free text, 200 bytes at most
	Algorithm  string    `json:"algorithm,omitempty"`
	Bits       int       `json:"bits,omitzero"`
	ActivateAt Time      `json:"activate_at,omitzero"` // the switch is at this moment, not before and, if all acknowledged, not after
	Announce   *Duration `json:"announce,omitempty"`
}

// VersionActRequest goes with suspend, resume, revoke and restore.
type VersionActRequest struct {
	Reason string `json:"reason,omitempty"` // free text for the audit log, 200 bytes at most
}

// DestroyRequest orders the destruction of a version. Force overrides what
// speaks against it, and needs a reason.
type DestroyRequest struct {
	Reason string `json:"reason,omitempty"`
	Force  bool   `json:"force,omitzero"`
}

// ActResult is what became of an act that may need two people: the key after
// it, or the approval that it waits for.
type ActResult struct {
	Key      *Key      `json:"key,omitempty"`
	Approval *Approval `json:"approval,omitempty"`
}

// RotationActRequest goes with activate and abort.
type RotationActRequest struct {
	Reason string `json:"reason,omitempty"`
}

// Rotation describes one rotation.
type Rotation struct {
	ID          string        `json:"id"`
	Key         string        `json:"key"`
	From        uint32        `json:"from_version"` // 0: the key's first version
	To          uint32        `json:"to_version"`
	Reason      string        `json:"reason"`
	Note        string        `json:"note,omitempty"`
	Phase       string        `json:"phase"` // reserved, announced, scheduled, activated, completed, aborted
	StartedBy   string        `json:"started_by"`
	RequestID   string        `json:"request_id"`
	StartedAt   Time          `json:"started_at"`
	AnnouncedAt Time          `json:"announced_at,omitzero"`
	ActivateAt  Time          `json:"activate_at,omitzero"` // the moment of the switch, once it is set, or the one asked for
	CompletedAt Time          `json:"completed_at,omitzero"`
	Acks        *RotationAcks `json:"acks,omitempty"` // absent if none are waited for
	ForcedBy    string        `json:"forced_by,omitempty"`
	EndedBy     string        `json:"ended_by,omitempty"`
	Next        *NextStep     `json:"next,omitempty"` // absent when nothing is left to happen
	Error       string        `json:"error,omitempty"`
}

// RotationAcks says who has acknowledged a version and who has not.
type RotationAcks struct {
	Require      string    `json:"require"`
	Quorum       int       `json:"quorum,omitzero"`
	Deadline     Time      `json:"deadline,omitzero"`
	OnTimeout    string    `json:"on_timeout"`
	Acknowledged []AgentAt `json:"acknowledged"`
	Missing      []string  `json:"missing"` // waited for
	Skipped      []string  `json:"skipped"` // subscribed, absent and not waited for
}

// AgentAt is a principal and a moment.
type AgentAt struct {
	Principal string `json:"principal"`
	At        Time   `json:"at"`
}

// NextStep is what happens next: announce, schedule, activate, record, abort,
// archive, schedule-destroy, destroy. At is zero if it waits for agents.
type NextStep struct {
	Step string `json:"step"`
	At   Time   `json:"at,omitzero"`
	Text string `json:"text"` // for people
}

// RotationList is a page of rotations, newest first.
type RotationList struct {
	Rotations []Rotation `json:"rotations"`
	Next      string     `json:"next,omitempty"`
}

// Usage is what was done with a version, by all or by one agent. After a
// crash the figures may be too high, never too low.
type Usage struct {
	Operations uint64 `json:"operations"` // applied and processed
	Applied    uint64 `json:"applied"`    // signed, encrypted
	Processed  uint64 `json:"processed"`  // verified, decrypted
	Bytes      uint64 `json:"bytes"`
	LastUsedAt Time   `json:"last_used_at,omitzero"`
}

// KeyUsage says who used which version of a key.
type KeyUsage struct {
	Key      string         `json:"key"`
	Versions []VersionUsage `json:"versions"` // newest first
}

// VersionUsage is the use of one version and whether it may go.
type VersionUsage struct {
	Version uint32 `json:"version"`
	KeyID   string `json:"kid"`
	State   string `json:"state"`
	Usage
	Agents        []AgentUsage  `json:"agents"` // latest use first
	SafeToDestroy SafeToDestroy `json:"safe_to_destroy"`
}

// AgentUsage is one agent's part.
type AgentUsage struct {
	Principal string `json:"principal"`
	Usage
}

// SafeToDestroy is whether anything speaks against the destruction of a
// version, and what.
type SafeToDestroy struct {
	Safe    bool     `json:"safe"`
	Reasons []string `json:"reasons"` // against it; empty if safe
}

// Agent is a principal that was seen, subscribed or blocked.
type Agent struct {
	ID            string    `json:"id"` // for URLs
	Principal     string    `json:"principal"`
	FirstSeenAt   Time      `json:"first_seen_at,omitzero"`
	LastSeenAt    Time      `json:"last_seen_at,omitzero"`
	BlockedAt     Time      `json:"blocked_at,omitzero"`
	BlockedBy     string    `json:"blocked_by,omitempty"`
	BlockReason   string    `json:"block_reason,omitempty"`
	Subscriptions []string  `json:"subscriptions"` // keys
	Acks          []AckedAt `json:"acks"`          // the newest acknowledged version of each key
}

// AckedAt is an acknowledged version.
type AckedAt struct {
	KeyID string `json:"kid"`
	At    Time   `json:"at"`
}

// AgentList is a page of agents in order of their principals.
type AgentList struct {
	Agents []Agent `json:"agents"`
	Next   string  `json:"next,omitempty"`
}

// BlockRequest goes with block and unblock. Principal, if set, must have the
// id in the URL; with it a principal that was never seen can be blocked.
type BlockRequest struct {
	Principal string `json:"principal,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// Approval is an act that one principal asked for and another must approve.
type Approval struct {
	ID          string `json:"id"`
	Action      string `json:"action"` // destroy, delete-key
	Key         string `json:"key"`
	Version     uint32 `json:"version,omitzero"`
	Force       bool   `json:"force,omitzero"`
	Reason      string `json:"reason,omitempty"`
	State       string `json:"state"` // pending, approved, done, failed, rejected, expired
	RequestedBy string `json:"requested_by"`
	RequestedAt Time   `json:"requested_at"`
	ExpiresAt   Time   `json:"expires_at"`
	DecidedBy   string `json:"decided_by,omitempty"`
	DecidedAt   Time   `json:"decided_at,omitzero"`
	Decision    string `json:"decision_reason,omitempty"`
	Error       string `json:"error,omitempty"` // why the act failed
	Mine        bool   `json:"mine"`            // the caller asked for it, and cannot approve it
}

// ApprovalList is a page of approvals, newest first.
type ApprovalList struct {
	Approvals []Approval `json:"approvals"`
	Next      string     `json:"next,omitempty"`
}

// DecisionRequest goes with approve and reject.
type DecisionRequest struct {
	Reason string `json:"reason,omitempty"`
}

// TriggerRequest goes with a named trigger.
type TriggerRequest struct {
	Note string `json:"note,omitempty"` // free text, 200 bytes at most
}

// TriggerResult is what a trigger has begun. One key's failure fails no
// other.
type TriggerResult struct {
	Trigger string         `json:"trigger"`
	Reason  string         `json:"reason"`
	Results []TriggeredKey `json:"results"`
}

// TriggeredKey is what a trigger did with one key.
type TriggeredKey struct {
	Key      string     `json:"key"`
	Rotation *Rotation  `json:"rotation,omitempty"`
	Error    *ItemError `json:"error,omitempty"`
}

// ReconcileRequest compares the token with the store. DryRun repairs nothing.
type ReconcileRequest struct {
	DryRun bool `json:"dry_run,omitzero"`
}

// ReconcileReport is what was found and done.
type ReconcileReport struct {
	DryRun   bool      `json:"dry_run,omitzero"`
	Objects  int       `json:"objects"`  // on the tokens, of Keyhole
	Versions int       `json:"versions"` // in the store
	Findings []Finding `json:"findings"`
}

// Finding is one difference between the token and the store.
type Finding struct {
	Kind   string `json:"kind"` // orphan, missing, half-pair, duplicate, mismatch, not-destroyed, revocation-lost, damaged
	Token  string `json:"token"`
	Label  string `json:"label,omitempty"`
	CKAID  string `json:"cka_id,omitempty"`
	Key    string `json:"key,omitempty"`
	Text   string `json:"text"`   // for people: what it is and what to do
	Action string `json:"action"` // none, repaired, would-repair, failed
}

// Webhook is where the delivery of events to a webhook stands. Its URL is
// not shown: it may hold a secret.
type Webhook struct {
	Name      string      `json:"name"`
	Host      string      `json:"host"`
	Pending   uint64      `json:"pending"`  // events behind the last one delivered, at most
	Failures  int         `json:"failures"` // in a row
	RetryAt   Time        `json:"retry_at,omitzero"`
	LastOKAt  Time        `json:"last_ok_at,omitzero"`
	LastError string      `json:"last_error,omitempty"`
	Dead      []DeadEvent `json:"dead"` // given up
}

// DeadEvent is an event that a webhook did not take.
type DeadEvent struct {
	Event Event  `json:"event"`
	Error string `json:"error"`
	At    Time   `json:"given_up_at"`
}

// WebhookList lists the configured webhooks.
type WebhookList struct {
	Webhooks []Webhook `json:"webhooks"`
}

// Node is a gateway process that shares the store. Times are the store's.
type Node struct {
	Name      string `json:"name"`     // as configured
	Instance  string `json:"instance"` // of this run of the process
	Version   string `json:"version"`  // of the program
	Revision  uint64 `json:"revision"` // of the store, that it serves
	Behind    uint64 `json:"behind"`   // revisions that it has not seen yet
	StartedAt Time   `json:"started_at"`
	SeenAt    Time   `json:"seen_at"` // its latest heartbeat
	// StoppedAt is when a gateway that is not live has stopped using keys by
	// itself, at the latest.
	StoppedAt Time `json:"stopped_at,omitzero"`
	Live      bool `json:"live"` // it may be using keys
	Self      bool `json:"self"` // it gave this answer
}

// NodeList lists the gateways that share the store, in order of their names.
// Those that shut down in order are not in it.
type NodeList struct {
	Revision uint64 `json:"revision"` // of the store
	Nodes    []Node `json:"nodes"`
}
