package authz

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/cedar-policy/cedar-go"

	"keyhole/authz/internal/lru"
	"keyhole/authz/internal/ruleset"
)

// terms puts requests into the terms of Cedar. Making entities and records
// costs more than the decision, so those made last are remembered, together
// with all that they were made of: what is remembered is used only for a
// request that says the same.
type terms struct {
	agents    *lru.Map[string, agent]
	resources *lru.Map[string, resource]
	contexts  *lru.Map[Context, cedar.Record]
}

type agent struct {
	groups []string
	entity cedar.Entity
}

type resource struct {
	of     Resource
	entity cedar.Entity
}

func newTerms() terms {
	return terms{
		agents:    lru.New[string, agent](4096),
		resources: lru.New[string, resource](4096),
		contexts:  lru.New[Context, cedar.Record](4096),
	}
}

// question is a Request in the terms of Cedar.
type question struct {
	request  cedar.Request
	entities entities
}

func (t *terms) question(set *ruleset.Set, r Request) question {
	principal := t.agent(r.Principal)
	uid := cedar.NewEntityUID(cedar.EntityType(r.Resource.Type), cedar.String(r.Resource.Name))
	return question{
		request: cedar.Request{
			Principal: principal.UID,
			Action:    cedar.NewEntityUID("Action", cedar.String(r.Action)),
			Resource:  uid,
			Context:   t.context(set, r.Context),
		},
		entities: entities{terms: t, principal: principal, uid: uid, resource: r.Resource},
	}
}

func (t *terms) agent(who Principal) cedar.Entity {
	if known, ok := t.agents.Get(who.ID); ok && slices.Equal(known.groups, who.Groups) {
		return known.entity
	}
	parents := make([]cedar.EntityUID, len(who.Groups))
	for i, g := range who.Groups {
		parents[i] = cedar.NewEntityUID("Group", cedar.String(g))
	}
	e := cedar.Entity{
		UID:     cedar.NewEntityUID("Agent", cedar.String(who.ID)),
		Parents: cedar.NewEntityUIDSet(parents...),
	}
	t.agents.Put(who.ID, agent{groups: slices.Clone(who.Groups), entity: e})
	return e
}

// inSight leaves out of a context what no policy reads, so that contexts
// repeat.
func inSight(set *ruleset.Set, c Context) Context {
	if !set.Reads("method") {
		c.Method = ""
	}
	if !set.Reads("source_ip") {
		c.SourceIP = netip.Addr{}
	}
	if !set.Reads("version_state") {
		c.VersionState = ""
	}
	if !set.Reads("payload_size") {
		c.PayloadSize = 0
	}
	return c
}

func (t *terms) context(set *ruleset.Set, c Context) cedar.Record {
	c = inSight(set, c)
	if known, ok := t.contexts.Get(c); ok {
		return known
	}
	made := cedar.NewRecord(cedar.RecordMap{
		"method":        cedar.String(c.Method),
		"source_ip":     ipAddress(c.SourceIP),
		"version_state": cedar.String(c.VersionState),
		"payload_size":  cedar.Long(c.PayloadSize),
	})
	t.contexts.Put(c, made)
	return made
}

func ipAddress(a netip.Addr) cedar.IPAddr {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		a = netip.IPv4Unspecified()
	}
	return cedar.IPAddr(netip.PrefixFrom(a, a.BitLen()))
}

// entities holds the two entities that a request is about. That of the
// resource is made when a policy first looks at it.
type entities struct {
	terms     *terms
	principal cedar.Entity
	uid       cedar.EntityUID
	resource  Resource
}

// Get implements cedar.EntityGetter.
func (e *entities) Get(uid cedar.EntityUID) (cedar.Entity, bool) {
	switch uid {
	case e.principal.UID:
		return e.principal, true
	case e.uid:
		return e.terms.resource(uid, e.resource), true
	}
	return cedar.Entity{}, false
}

func (t *terms) resource(uid cedar.EntityUID, r Resource) cedar.Entity {
	made := cedar.Entity{UID: uid}
	if r.Type != TypeKey {
		return made
	}
	if known, ok := t.resources.Get(r.Name); ok && known.of.Purpose == r.Purpose && maps.Equal(known.of.Tags, r.Tags) {
		return known.entity
	}
	made.Attributes = cedar.NewRecord(cedar.RecordMap{"purpose": cedar.String(r.Purpose)})
	if len(r.Tags) > 0 {
		tags := make(cedar.RecordMap, len(r.Tags))
		for k, v := range r.Tags {
			tags[cedar.String(k)] = cedar.String(v)
		}
		made.Tags = cedar.NewRecord(tags)
	}
	r.Tags = maps.Clone(r.Tags)
	t.resources.Put(r.Name, resource{of: r, entity: made})
	return made
}
