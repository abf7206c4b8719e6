package authz

import (
	"maps"
	"slices"

	"keyhole/authz/internal/ruleset"
)

// inquiry and ruling together hold all that a decision depends on.
type inquiry struct {
	policies  string // hash
	principal string
	action    string
	resource  string // type
	name      string
	context   Context // as far as policies read it
}

// ruling is a decision, and the part of the request that an inquiry, being
// comparable, cannot hold.
type ruling struct {
	groups   []string
	purpose  string
	tags     map[string]string
	decision Decision
}

func newInquiry(set *ruleset.Set, r *Request) inquiry {
	return inquiry{
		policies: set.Hash, principal: r.Principal.ID, action: r.Action,
		resource: r.Resource.Type, name: r.Resource.Name, context: inSight(set, r.Context),
	}
}

func newRuling(r *Request, d Decision) ruling {
	d.Policies, d.Errors = slices.Clip(d.Policies), slices.Clip(d.Errors)
	return ruling{
		groups: slices.Clone(r.Principal.Groups), purpose: r.Resource.Purpose, tags: maps.Clone(r.Resource.Tags), decision: d,
	}
}

// is reports whether the ruling is on this request too.
func (m *ruling) is(r *Request) bool {
	return m.purpose == r.Resource.Purpose && slices.Equal(m.groups, r.Principal.Groups) && maps.Equal(m.tags, r.Resource.Tags)
}
