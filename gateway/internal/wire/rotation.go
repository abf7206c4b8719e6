package wire

import (
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/rotation"
)

// Rotation describes r. Without its progress, neither the acknowledgements
// nor the next step are shown.
func Rotation(r *keys.Rotation, p *rotation.Progress) api.Rotation {
	out := api.Rotation{
		ID: r.ID, Key: r.Key, From: r.From, To: r.To, Reason: string(r.Reason), Note: r.Note, Phase: string(r.Phase),
		StartedBy: r.StartedBy, RequestID: r.RequestID, StartedAt: Time(r.StartedAt), AnnouncedAt: Time(r.AnnouncedAt),
		ActivateAt: Time(r.ActivateAt), CompletedAt: Time(r.CompletedAt), ForcedBy: r.ForcedBy, EndedBy: r.EndedBy, Error: r.Error,
	}
	if !r.SwitchAt.IsZero() {
		out.ActivateAt = Time(r.SwitchAt)
	}
	if p == nil {
		return out
	}
	if r.Acks.Waits() {
		out.Acks = acks(r, p)
	}
	if p.Next != "" {
		out.Next = &api.NextStep{Step: p.Next, At: Time(p.NextAt), Text: p.Text}
	}
	return out
}

func acks(r *keys.Rotation, p *rotation.Progress) *api.RotationAcks {
	out := &api.RotationAcks{
		Require: string(r.Acks.Require), Quorum: r.Acks.Quorum, Deadline: Time(r.AckDeadline()), OnTimeout: string(r.Acks.OnTimeout),
		Acknowledged: []api.AgentAt{}, Missing: listed(p.Missing), Skipped: listed(p.Skipped),
	}
	if out.OnTimeout == "" {
		out.OnTimeout = string(keys.TimeoutAbort)
	}
	for _, a := range p.Acked {
		out.Acknowledged = append(out.Acknowledged, api.AgentAt{Principal: a.Principal, At: Time(a.At)})
	}
	return out
}

// listed is s, but never null.
func listed[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// Report is what a reconciliation found and did.
func Report(r rotation.Report) api.ReconcileReport {
	out := api.ReconcileReport{DryRun: r.DryRun, Objects: r.Objects, Versions: r.Versions, Findings: []api.Finding{}}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, api.Finding{
			Kind: string(f.Kind), Token: f.Token, Label: f.Label, CKAID: f.CKAID, Key: f.Key, Text: f.Text, Action: string(f.Action),
		})
	}
	return out
}
