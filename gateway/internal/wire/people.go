package wire

import (
	"slices"
	"strings"
	"time"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Approval describes a for a caller who has shown the given identities.
func Approval(a *keys.Approval, identities []string, now time.Time) api.Approval {
	return api.Approval{
		ID: a.ID, Action: a.Action, Key: a.Key, Version: a.Version, Force: a.Force, Reason: a.Note, State: string(a.StateAt(now)),
		RequestedBy: a.RequestedBy, RequestedAt: Time(a.RequestedAt), ExpiresAt: Time(a.ExpiresAt),
		DecidedBy: a.DecidedBy, DecidedAt: Time(a.DecidedAt), Decision: a.DecidedNote, Error: a.Error,
		Mine: authz.SamePerson(identities, a.RequestedAs),
	}
}

// Agent describes a, with its subscriptions and acknowledgements.
func Agent(a *keys.Agent, subs []keys.Subscription, acks []keys.Ack) api.Agent {
	out := api.Agent{
		ID: keys.AgentID(a.Principal), Principal: a.Principal, FirstSeenAt: Time(a.FirstSeen), LastSeenAt: Time(a.LastSeen),
		Subscriptions: []string{}, Acks: []api.AckedAt{},
	}
	if b := a.Block; b != nil {
		out.BlockedAt, out.BlockedBy, out.BlockReason = Time(b.At), b.By, b.Reason
	}
	for _, s := range subs {
		out.Subscriptions = append(out.Subscriptions, s.Key)
	}
	slices.Sort(out.Subscriptions)
	newest := map[string]keys.Ack{}
	for _, k := range acks {
		if k.Version > newest[k.Key].Version {
			newest[k.Key] = k
		}
	}
	for _, k := range newest {
		out.Acks = append(out.Acks, api.AckedAt{KeyID: keys.VersionID{Key: k.Key, Number: k.Version}.String(), At: Time(k.At)})
	}
	slices.SortFunc(out.Acks, func(a, b api.AckedAt) int { return strings.Compare(a.KeyID, b.KeyID) })
	return out
}

// Ack describes an acknowledgement.
func Ack(a keys.Ack) api.Ack {
	return api.Ack{Key: a.Key, Version: a.Version, KeyID: keys.VersionID{Key: a.Key, Number: a.Version}.String(), AcknowledgedAt: Time(a.At)}
}

// Event describes a notice.
func Event(n keys.Notice) api.Event {
	e := api.Event{
		ID: n.ID, Type: string(n.Type), Time: Time(n.At), Key: n.Key, Version: n.Version, When: Time(n.When),
		Rotation: n.Rotation, Reason: n.Reason,
	}
	if n.Version != 0 {
		e.KeyID = keys.VersionID{Key: n.Key, Number: n.Version}.String()
	}
	return e
}
