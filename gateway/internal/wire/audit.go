package wire

import (
	"keyhole/audit"
	"keyhole/gateway/api"
)

// AuditRecord shows a record of the audit log.
func AuditRecord(r *audit.Record) api.AuditRecord {
	return api.AuditRecord{
		Seq: r.Seq, Time: api.Time{Time: r.Time}, Node: r.Node,
		RequestID: r.RequestID, Principal: r.Principal, AuthMethod: r.AuthMethod, Source: r.Source,
		Action: r.Action, Key: r.Key, Version: r.Version, KeyID: r.KeyID, Algorithm: r.Algorithm, Purpose: r.Purpose, Policies: r.Policies,
		Outcome: r.Outcome, Reason: r.Reason, Size: uint64(max(r.Size, 0)), Duration: uint64(max(r.Duration, 0)),
		Initiator: r.Initiator, Rotation: r.Rotation, FromVersion: r.FromVersion, ToVersion: r.ToVersion,
		StartedAt: api.Time{Time: r.StartedAt}, CompletedAt: api.Time{Time: r.CompletedAt}, Intent: r.Intent, Details: r.Details,
	}
}
