package rotation

import (
	"context"
	"maps"
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
	planned(r, rec.Details)
	if outcome == audit.OutcomeOK {
		e.expiry(k, rec.Details)
	}
	if cause != nil {
		rec.Reason = publicText(cause)
	}
	return rec
}

// planned adds to the details of a rotation what was planned for its switch.
func planned(r *keys.Rotation, details map[string]string) {
	if r.Announce > 0 {
		details["announce"] = r.Announce.String()
	}
	if r.Acks.Waits() {
		details["acks"] = string(r.Acks.Require)
	}
	if !r.ActivateAt.IsZero() {
		details["activate_at"] = r.ActivateAt.UTC().Format(time.RFC3339)
	}
}

// expiry adds to the details when the active version of k is due to be
// followed by the next one, if policy says so.
func (e *Engine) expiry(k *keys.Key, details map[string]string) {
	if at := e.NextRotation(k); !at.IsZero() {
		details["expires_at"] = at.UTC().Format(time.RFC3339)
	}
}

// witnesses adds to the details of an outcome which agents the switch was
// for: how many were subscribed, and where acknowledgements were waited for,
// who had given one, who was skipped, and who was overtaken by a deadline or
// an order.
func (e *Engine) witnesses(ctx context.Context, r *keys.Rotation, details map[string]string) error {
	if !r.Acks.Waits() {
		subscribed, err := e.store.Subscriptions(ctx, r.Key, "")
		if err != nil {
			return err
		}
		details["agents"] = strconv.Itoa(len(subscribed))
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
	for name, list := range map[string][]string{"acknowledged": names, "missing": missing, "skipped": r.Skipped} {
		if len(list) > 0 {
			details[name] = listed(list)
		}
	}
	return nil
}

// updated adds to the details of an update what it changes: policies by their
// contents, descriptions and tags by name alone.
func (e *Engine) updated(before, after *keys.Key, details map[string]string) {
	var changed []string
	if before.Description != after.Description {
		changed = append(changed, "description")
	}
	if !maps.Equal(before.Tags, after.Tags) {
		changed = append(changed, "tags")
	}
	if before.Policy != after.Policy {
		changed = append(changed, "policy")
		details["policy_before"], details["policy"] = policyText(before.Policy), policyText(after.Policy)
	}
	details["changed"] = strings.Join(changed, " ")
	e.expiry(after, details)
}

// policyText is a policy as records show it.
func policyText(p keys.Policy) string {
	var parts []string
	for _, d := range []struct {
		name string
		is   time.Duration
	}{{"period", p.Period}, {"announce", p.Announce}, {"overlap", p.Overlap}, {"destroy_delay", p.DestroyDelay}, {"acks_timeout", p.Acks.Timeout}, {"absent_after", p.Acks.AbsentAfter}} {
		if d.is != 0 {
			parts = append(parts, d.name+"="+d.is.String())
		}
	}
	for _, w := range []struct{ name, is string }{
		{"after_overlap", string(p.AfterOverlap)}, {"acks", string(p.Acks.Require)}, {"on_timeout", string(p.Acks.OnTimeout)}, {"schedule", p.Schedule},
	} {
		if w.is != "" {
			parts = append(parts, w.name+"="+strconv.Quote(w.is))
		}
	}
	for _, n := range []struct {
		name string
		is   uint64
	}{{"max_operations", p.MaxOperations}, {"max_bytes", p.MaxBytes}, {"quorum", uint64(p.Acks.Quorum)}} {
		if n.is != 0 {
			parts = append(parts, n.name+"="+strconv.FormatUint(n.is, 10))
		}
	}
	return strings.Join(parts, " ")
}

// maxListed bounds the text of a list of names. A record would cut a longer
// one in the middle of a name.
const maxListed = 900

// listed joins names, and says how many of them there was no room for.
func listed(names []string) string {
	var text strings.Builder
	for i, name := range names {
		if text.Len()+len(name) > maxListed {
			return strings.TrimSpace(text.String() + " and " + strconv.Itoa(len(names)-i) + " more")
		}
		if i > 0 {
			text.WriteByte(' ')
		}
		text.WriteString(name)
	}
	return text.String()
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
