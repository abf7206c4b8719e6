package rotation

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

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
	for name, text := range map[string]string{"note": r.Note, "forced_by": r.ForcedBy, "ended_by": r.EndedBy} {
		if text != "" {
			rec.Details[name] = text
		}
	}
	if outcome == audit.OutcomeOK && k.Policy.Period != 0 {
		rec.Details["expires_at"] = v.ActivateAt.Add(k.Policy.Period).UTC().Format(time.RFC3339)
	}
	if cause != nil {
		rec.Reason = publicText(cause)
	}
	return rec
}

// witnesses adds to the details of an outcome which agents the switch was
// for: how many were subscribed, who had acknowledged, who was skipped, and
// who was overtaken by a deadline or an order.
func (e *Engine) witnesses(ctx context.Context, r *keys.Rotation, details map[string]string) error {
	if !r.Acks.Waits() {
		return nil
	}
	acked, missing, err := e.answers(ctx, r)
	if err != nil {
		return err
	}
	var names []string
	for _, a := range acked {
		names = append(names, a.Principal)
	}
	details["agents"] = strconv.Itoa(len(r.Expected))
	for name, list := range map[string][]string{"acks": names, "missing": missing, "skipped": r.Skipped} {
		if len(list) > 0 {
			details[name] = strings.Join(list, " ")
		}
	}
	return nil
}

// answers says who of those that r has noted down has acknowledged its
// version, and who has not and was waited for.
func (e *Engine) answers(ctx context.Context, r *keys.Rotation) (acked []keys.Ack, missing []string, err error) {
	all, err := e.store.Acks(ctx, r.Key, r.To, "")
	if err != nil {
		return nil, nil, err
	}
	for _, name := range r.Expected {
		i := slices.IndexFunc(all, func(a keys.Ack) bool { return a.Principal == name })
		switch {
		case i >= 0:
			acked = append(acked, all[i])
		case !slices.Contains(r.Skipped, name):
			missing = append(missing, name)
		}
	}
	return acked, missing, nil
}
