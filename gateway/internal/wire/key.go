package wire

import (
	"encoding/pem"
	"slices"
	"time"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// Time is t on the wire; the zero time stays zero and is left out there.
func Time(t time.Time) api.Time {
	if t.IsZero() {
		return api.Time{}
	}
	return api.At(t)
}

// Key describes k as of now. Versions that were reserved and never generated
// are not shown.
func Key(k *keys.Key, now time.Time) api.Key {
	out := api.Key{
		Name: k.Name, Purpose: string(k.Purpose), Algorithm: string(k.Algorithm), Bits: k.Bits,
		Description: k.Description, Tags: k.Tags, Token: k.Token, Epoch: k.Epoch, CreatedAt: Time(k.CreatedAt),
		DeleteAt: Time(k.DeleteAt), Policy: Policy(k.Policy), Versions: []api.Version{},
	}
	if active := k.ActiveAt(now); active != nil {
		out.ActiveVersion = active.Number
	}
	for _, v := range slices.Backward(k.Versions) {
		if !v.CreatedAt.IsZero() {
			out.Versions = append(out.Versions, version(k, v, now))
		}
	}
	return out
}

func version(k *keys.Key, v *keys.Version, now time.Time) api.Version {
	d := api.Version{
		Version: v.Number, KeyID: k.ID(v).String(), State: string(k.StateAt(v, now)), Algorithm: string(v.Algorithm), Bits: v.Bits,
		CreatedAt: api.At(v.CreatedAt), AnnouncedAt: Time(v.AnnouncedAt), ActivateAt: Time(v.ActivateAt),
		DeactivatedAt: Time(k.DeactivatedAt(v, now)), OverlapEndsAt: Time(k.OverlapEndsAt(v, now)),
		ArchivedAt: Time(v.ArchivedAt), SuspendedAt: Time(v.SuspendedAt), RevokedAt: Time(v.RevokedAt),
		RevokeReason: v.RevokeReason, DestroyAt: Time(v.DestroyAt), DestroyedAt: Time(v.DestroyedAt), JWK: JWK(k, v),
		HSM: api.HSM{Token: k.Token, CKAID: v.ObjectID.String(), NeverExtractable: v.NeverExtractable, AlwaysSensitive: v.AlwaysSensitive},
	}
	if len(v.PublicKey) > 0 {
		d.PublicKey = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: v.PublicKey}))
	}
	return d
}

// Policy is p on the wire.
func Policy(p keys.Policy) api.Policy {
	out := api.Policy{
		Period: api.Duration(p.Period), Schedule: p.Schedule, MaxOperations: p.MaxOperations, MaxBytes: p.MaxBytes,
		Announce: api.Duration(p.Announce), Overlap: api.Duration(p.Overlap), AfterOverlap: string(p.AfterOverlap),
		DestroyDelay: api.Duration(p.DestroyDelay),
	}
	if a := p.Acks; a != (keys.Acks{}) {
		out.Acks = &api.Acks{
			Require: string(a.Require), Quorum: a.Quorum, Timeout: api.Duration(a.Timeout),
			OnTimeout: string(a.OnTimeout), AbsentAfter: api.Duration(a.AbsentAfter),
		}
	}
	return out
}

// PolicyOf reads what Policy wrote, or a caller. It checks nothing.
func PolicyOf(p api.Policy) keys.Policy {
	out := keys.Policy{
		Period: p.Period.Std(), Schedule: p.Schedule, MaxOperations: p.MaxOperations, MaxBytes: p.MaxBytes,
		Announce: p.Announce.Std(), Overlap: p.Overlap.Std(), AfterOverlap: keys.AfterOverlap(p.AfterOverlap),
		DestroyDelay: p.DestroyDelay.Std(),
	}
	if a := p.Acks; a != nil {
		out.Acks = keys.Acks{
			Require: keys.AckRequirement(a.Require), Quorum: a.Quorum, Timeout: a.Timeout.Std(),
			OnTimeout: keys.OnTimeout(a.OnTimeout), AbsentAfter: a.AbsentAfter.Std(),
		}
	}
	return out
}
