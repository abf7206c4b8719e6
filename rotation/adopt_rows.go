package rotation

import (
	"fmt"
	"time"

	"keyhole/keys"
)

// adoptedText is the description of a key whose rows were built anew.
const adoptedText = "[Rebuilt from the token by keyholed adopt: its policy, description and tags are not there.]"

// key returns the key as it shall be stored.
func (p *adoptPlan) key() *keys.Key {
	k := &keys.Key{Name: p.name, Token: p.token, Description: adoptedText, Purpose: p.fresh[0].ref.Algorithm.Purpose()}
	if p.good() {
		k = p.old.Clone()
	}
	for i, f := range p.fresh {
		// What is not known is made up in the order of the numbers: the
		// highest from now on, the one below it until then.
		at := p.now.Add(-time.Duration(len(p.fresh)-1-i) * time.Microsecond)
		v := &keys.Version{
			Number: f.id.Number, ObjectID: f.ref.ID, Algorithm: f.ref.Algorithm, Bits: f.ref.Bits,
			PublicKey: f.made.PublicKey, Check: f.made.Check, NeverExtractable: f.made.NeverExtractable, AlwaysSensitive: f.made.AlwaysSensitive,
			ReservedAt: at, CreatedAt: at, AnnouncedAt: at, ActivateAt: at, ActivatedAt: at, RevokedAt: f.revokedAt, RevokeReason: f.revoked,
		}
		if f.foreign {
			v.Label = f.ref.Label
		}
		if k.CreatedAt.IsZero() {
			k.CreatedAt = at
		}
		k.Versions = append(k.Versions, v)
	}
	latest := k.Latest()
	if active := k.ActiveAt(p.now); active != nil {
		latest = active
	}
	k.Algorithm, k.Bits = latest.Algorithm, latest.Bits
	if last := k.Latest(); p.highest > last.Number && !p.good() {
		// Numbers never come back: the highest one that was used is kept by
		// a version of which nothing else is left.
		k.Versions = append(k.Versions, &keys.Version{
			Number: p.highest, ObjectID: keys.NewObjectID(), Algorithm: k.Algorithm, Bits: k.Bits, ReservedAt: p.now, DestroyedAt: p.now,
		})
	}
	return k
}

// report says what the plan is, as long as nothing was done about it.
func (p *adoptPlan) report() AdoptedKey {
	r := AdoptedKey{Name: p.name, Token: p.token, Fix: p.fix}
	switch {
	case p.good():
		r.Action, r.Text = AdoptKept, "its rows are good"
		if p.token == "" {
			r.Token = p.old.Token
		}
		r.Algorithm = p.old.Algorithm
		r.Versions = describe(p.old, p.now, nil)
		if len(p.fresh) > 0 {
			r.Text = "the store is an older copy: versions are added"
		}
	case p.old != nil:
		r.Text = "its rows were altered, and are built anew"
	default:
		r.Text = "the store has no rows of it"
	}
	for _, f := range p.fresh {
		if f.foreign {
			r.Text += "; another tool made the key of " + f.id.String()
		}
	}
	switch {
	case p.refusal != "":
		r.Action, r.Text = AdoptRefused, p.refusal
	case len(p.fresh) == 0 && !p.good():
		r.Action, r.Text = AdoptRefused, "nothing of it is to be taken"
	}
	return r
}

// describe shows the versions of a key; those of fresh are new.
func describe(k *keys.Key, now time.Time, fresh []freshVersion) (all []AdoptedVersion) {
	isNew := map[uint32]bool{}
	for _, f := range fresh {
		isNew[f.id.Number] = true
	}
	for _, v := range k.Versions {
		if v.CreatedAt.IsZero() {
			continue // only its number is left
		}
		all = append(all, AdoptedVersion{
			ID: k.ID(v), Label: k.Ref(v).Label, ObjectID: v.ObjectID, Algorithm: v.Algorithm, Bits: v.Bits, State: k.StateAt(v, now),
			Protected: v.NeverExtractable && v.AlwaysSensitive, New: isNew[v.Number],
		})
	}
	return all
}

// rows says in what state the rows of a key are, for the audit log.
func (p *adoptPlan) rows() string {
	switch {
	case p.good():
		return fmt.Sprintf("good up to version %d", p.old.Latest().Number)
	case p.old != nil:
		return "altered"
	}
	return "missing"
}
