package api

// AuditRecord is one record of the audit log; docs/audit.md describes the
// members.
type AuditRecord struct {
	Seq         uint64            `json:"seq"`
	Time        Time              `json:"time"`
	Node        string            `json:"node"`
	RequestID   string            `json:"request_id,omitempty"`
	Principal   string            `json:"principal,omitempty"`
	AuthMethod  string            `json:"auth_method,omitempty"`
	Source      string            `json:"source,omitempty"`
	Action      string            `json:"action"`
	Key         string            `json:"key,omitempty"`
	Version     uint32            `json:"version,omitzero"`
	KeyID       string            `json:"kid,omitempty"`
	Algorithm   string            `json:"algorithm,omitempty"`
	Purpose     string            `json:"purpose,omitempty"`
	Policies    []string          `json:"policies,omitempty"`
	Outcome     string            `json:"outcome"`
	Reason      string            `json:"reason,omitempty"`
	Size        uint64            `json:"size,omitzero"`        // bytes
	Duration    uint64            `json:"duration_ns,omitzero"` // nanoseconds
	Initiator   string            `json:"initiator,omitempty"`
	Rotation    string            `json:"rotation,omitempty"`
	FromVersion uint32            `json:"from_version,omitzero"`
	ToVersion   uint32            `json:"to_version,omitzero"`
	StartedAt   Time              `json:"started_at,omitzero"`
	CompletedAt Time              `json:"completed_at,omitzero"`
	Intent      *uint64           `json:"intent,omitempty"` // seq of the intent of which this is the outcome
	Details     map[string]string `json:"details,omitempty"`
}

// AuditList is a page of the audit log, newest first. It may be empty and yet
// have a Next: then so many records were looked through in vain.
type AuditList struct {
	Records []AuditRecord `json:"records"`
	Next    uint64        `json:"next,omitzero"` // go on before this seq; absent: that was all
}

// AuditQuery says which records of the audit log are asked for. Empty members
// match everything.
type AuditQuery struct {
	Key, KeyID, Principal, Action, Outcome, RequestID string

	Since, Until Time   // from Since on, and before Until
	Before       uint64 // only records in front of this seq; 0: the end of the log
	Limit        int    // 0: 100
}

// Media types of the audit log's documents.
const (
	TypeText = "text/plain"             // checkpoints and proofs
	TypePEM  = "application/x-pem-file" // public audit keys
)
