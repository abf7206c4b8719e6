package api

// CreateKeyRequest makes a key, generates its version 1 and activates it.
type CreateKeyRequest struct {
	Name        string            `json:"name"`
	Algorithm   string            `json:"algorithm"`
	Bits        int               `json:"bits,omitempty"` // RSA: 2048, 3072 (default), 4096
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
	Epoch       uint64             `json:"epoch,omitempty"`
}

// RotateRequest makes the next version. Algorithm and Bits, if set, change
// those of the key from this version on, within its purpose.
type RotateRequest struct {
	Reason    string `json:"reason,omitempty"` // default manual
	Algorithm string `json:"algorithm,omitempty"`
	Bits      int    `json:"bits,omitempty"`
}

// VersionActRequest goes with suspend, resume and revoke.
type VersionActRequest struct {
	Reason string `json:"reason,omitempty"` // free text for the audit log, 200 bytes at most
}

// Rotation describes one rotation.
type Rotation struct {
	ID          string `json:"id"`
	Key         string `json:"key"`
	From        uint32 `json:"from_version"` // 0: the key's first version
	To          uint32 `json:"to_version"`
	Reason      string `json:"reason"`
	Phase       string `json:"phase"` // reserved, activated, completed, aborted
	StartedBy   string `json:"started_by"`
	RequestID   string `json:"request_id"`
	StartedAt   Time   `json:"started_at"`
	CompletedAt Time   `json:"completed_at,omitzero"`
	Error       string `json:"error,omitempty"`
}

// RotationList is a page of rotations, newest first.
type RotationList struct {
	Rotations []Rotation `json:"rotations"`
	Next      string     `json:"next,omitempty"`
}
