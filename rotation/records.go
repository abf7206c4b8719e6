package rotation

import (
	"keyhole/audit"
	"keyhole/keys"
)

// record begins an audit record about key k and version n (0: none).
func (e *Engine) record(actor Actor, action string, k *keys.Key, n uint32) audit.Record {
	rec := audit.Record{
		RequestID: actor.RequestID, Principal: actor.Principal, AuthMethod: actor.AuthMethod, Source: actor.Source,
		Action: action, Key: k.Name, Purpose: string(k.Purpose), Algorithm: string(k.Algorithm), Initiator: actor.Principal,
	}
	if v, err := k.Version(n); err == nil {
		rec.Version, rec.KeyID, rec.Algorithm = v.Number, k.ID(v).String(), string(v.Algorithm)
	}
	return rec
}

// rotationRecord is the intent or outcome of a rotation.
func (e *Engine) rotationRecord(actor Actor, r *keys.Rotation, k *keys.Key, v *keys.Version, outcome string, cause error) audit.Record {
	action := "rotate"
	if r.Reason == keys.ReasonInitial {
		action = "create-key"
	}
	rec := e.record(actor, action, k, v.Number)
	rec.Initiator = r.StartedBy // who began it, even when a restart goes on with it
	rec.Rotation, rec.FromVersion, rec.ToVersion = r.ID, r.From, r.To
	rec.StartedAt, rec.CompletedAt = r.StartedAt, r.CompletedAt
	rec.Outcome = outcome
	rec.Details = map[string]string{"reason": string(r.Reason), "token": k.Token, "cka_id": v.ObjectID.String()}
	if cause != nil {
		rec.Reason = publicText(cause)
	}
	return rec
}
