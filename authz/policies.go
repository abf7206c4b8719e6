package authz

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cedar-policy/cedar-go"

	"keyhole/authz/internal/lru"
	"keyhole/authz/internal/ruleset"
)

// schemaEntities is what policies can speak of, beside the actions.
const schemaEntities = `
entity Group;
entity Agent in [Group];
entity Key { purpose: String } tags String;
entity Gateway;
type Context = { method: String, source_ip: ipaddr, version_state: String, payload_size: Long };
`

// resourcesOf returns the types of resource that an action is asked about.
func resourcesOf(action string) []string {
	switch action {
	case ActionRandom:
		return []string{TypeGateway}
	case ActionJWKS:
		return []string{TypeKey, TypeGateway}
	}
	return []string{TypeKey}
}

func newSchema() (*ruleset.Schema, error) {
	var actions []ruleset.Action
	for _, a := range Actions() {
		actions = append(actions, ruleset.Action{Name: a, Resources: resourcesOf(a)})
	}
	return ruleset.NewSchema(schemaEntities, actions)
}

// Policies decide. They are safe for concurrent use.
//
// In a policy, the principal is Agent::"<principal id>" in Group::"<group>"
// for each of its groups; the action is one of Actions; the resource is
// Key::"<name>" with the attribute purpose and the key's tags, or
// Gateway::"keyhole". The context has method, source_ip, version_state and
// payload_size. A source without an address has the IP 0.0.0.0.
type Policies struct {
	schema  *ruleset.Schema
	paths   []string
	current atomic.Pointer[ruleset.Set]
	reload  sync.Mutex // one Reload at a time
	agents  *lru.Map[string, agent]
}

// agent is the entity of a principal, remembered with the groups that it was
// made of.
type agent struct {
	groups []string
	entity cedar.Entity
}

// LoadPolicies reads the policy files among paths and every *.cedar file in
// the directories among them. The error names the file, line and column of
// whatever does not parse, or speaks of an action, type or attribute that
// there is not.
func LoadPolicies(paths ...string) (*Policies, error) {
	schema, err := newSchema()
	if err != nil {
		return nil, err
	}
	p := &Policies{schema: schema, paths: slices.Clone(paths), agents: lru.New[string, agent](4096)}
	if _, _, err := p.Reload(); err != nil {
		return nil, err
	}
	return p, nil
}

// Reload reads the policies again. On an error those in use stay. hash names
// the policies now in use, and changed says whether they are new.
func (p *Policies) Reload() (changed bool, hash string, err error) {
	p.reload.Lock()
	defer p.reload.Unlock()
	set, err := ruleset.Load(p.schema, p.paths...)
	if err != nil {
		return false, p.Hash(), fmt.Errorf("policies: %w", err)
	}
	if set.Hash == p.Hash() {
		return false, set.Hash, nil
	}
	p.current.Store(set)
	return true, set.Hash, nil
}

// Hash names the policies in use: the SHA-256 of their files.
func (p *Policies) Hash() string {
	if set := p.current.Load(); set != nil {
		return set.Hash
	}
	return ""
}

// Decide answers one question. What no policy permits is denied; what a
// policy forbids is denied, and so is what a forbidding policy could not be
// evaluated for.
func (p *Policies) Decide(r Request) Decision {
	return p.decide(p.current.Load(), r)
}

func (p *Policies) decide(set *ruleset.Set, r Request) Decision {
	q := p.question(r)
	allowed, found := cedar.Authorize(set.For(r.Action), &q.entities, q.request)
	d := Decision{Allowed: bool(allowed)}
	if len(found.Reasons) > 0 {
		d.Policies = make([]string, len(found.Reasons))
		for i, reason := range found.Reasons {
			d.Policies[i] = string(reason.PolicyID)
		}
	}
	for _, e := range found.Errors {
		id := string(e.PolicyID)
		d.Errors = append(d.Errors, id+": "+e.Message)
		if set.Rule(id).Forbid {
			if d.Allowed {
				d.Allowed, d.Policies = false, nil
			}
			d.Policies = append(d.Policies, id)
		}
	}
	return d
}

// question is a Request in the terms of Cedar.
type question struct {
	request  cedar.Request
	entities entities
}

func (p *Policies) question(r Request) question {
	principal := p.agent(r.Principal)
	resource := cedar.NewEntityUID(cedar.EntityType(r.Resource.Type), cedar.String(r.Resource.Name))
	return question{
		request: cedar.Request{
			Principal: principal.UID,
			Action:    cedar.NewEntityUID("Action", cedar.String(r.Action)),
			Resource:  resource,
			Context: cedar.NewRecord(cedar.RecordMap{
				"method":        cedar.String(r.Context.Method),
				"source_ip":     ipAddress(r.Context.SourceIP),
				"version_state": cedar.String(r.Context.VersionState),
				"payload_size":  cedar.Long(r.Context.PayloadSize),
			}),
		},
		entities: entities{principal: principal, uid: resource, resource: r.Resource},
	}
}

// agent returns the entity of a principal.
func (p *Policies) agent(who Principal) cedar.Entity {
	if known, ok := p.agents.Get(who.ID); ok && slices.Equal(known.groups, who.Groups) {
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
	p.agents.Put(who.ID, agent{groups: slices.Clone(who.Groups), entity: e})
	return e
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
	principal cedar.Entity
	uid       cedar.EntityUID
	resource  Resource
	made      *cedar.Entity
}

// Get implements cedar.EntityGetter.
func (e *entities) Get(uid cedar.EntityUID) (cedar.Entity, bool) {
	switch uid {
	case e.principal.UID:
		return e.principal, true
	case e.uid:
		if e.made == nil {
			e.made = resourceEntity(uid, e.resource)
		}
		return *e.made, true
	}
	return cedar.Entity{}, false
}

func resourceEntity(uid cedar.EntityUID, r Resource) *cedar.Entity {
	made := &cedar.Entity{UID: uid}
	if r.Type != TypeKey {
		return made
	}
	made.Attributes = cedar.NewRecord(cedar.RecordMap{"purpose": cedar.String(r.Purpose)})
	if len(r.Tags) > 0 {
		tags := make(cedar.RecordMap, len(r.Tags))
		for k, v := range r.Tags {
			tags[cedar.String(k)] = cedar.String(v)
		}
		made.Tags = cedar.NewRecord(tags)
	}
	return made
}
