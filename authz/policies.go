package authz

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cedar-policy/cedar-go"

	"keyhole/authz/internal/lru"
	"keyhole/authz/internal/ruleset"
	"keyhole/keys"
)

// schemaEntities is what policies can speak of, beside the actions.
const schemaEntities = `
entity Group;
entity Agent in [Group];
entity Key { purpose: String } tags String;
entity Gateway;
entity Trigger;
type Context = { method: String, source_ip: ipaddr, version_state: String, payload_size: Long };
`

// resourcesOf returns the types of resource that an action is asked about.
func resourcesOf(action string) []string {
	switch action {
	case ActionRandom, ActionListAgents, ActionBlockAgent, ActionListApprovals, ActionReconcile, ActionListWebhooks, ActionRetryWebhook, ActionListNodes, ActionReadAudit:
		return []string{TypeGateway}
	case ActionTrigger:
		return []string{TypeTrigger}
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
// Key::"<name>" with the attribute purpose and the key's tags,
// Trigger::"<name>", or Gateway::"keyhole". The context has method, source_ip, version_state and
// payload_size. A source without an address has the IP 0.0.0.0.
//
// The annotation @lane("bulk") on a permit has what it permits wait behind
// everything else at the HSM, also where another policy permits the same.
type Policies struct {
	schema  *ruleset.Schema
	paths   []string
	current atomic.Pointer[ruleset.Set]
	reload  sync.Mutex // one Reload at a time
	terms   terms
	made    *lru.Map[inquiry, ruling]
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
	p := &Policies{schema: schema, paths: slices.Clone(paths), terms: newTerms(), made: lru.New[inquiry, ruling](4096)}
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
// evaluated for. A Decision's slices are shared: do not change them.
//
// A decision depends on nothing but the policies and what they can see of the
// request, so one that was made is remembered for requests that are the same
// in all of that.
func (p *Policies) Decide(r Request) Decision {
	set := p.current.Load()
	q := newInquiry(set, &r)
	if made, ok := p.made.Get(q); ok && made.is(&r) {
		return made.decision
	}
	d := p.decide(set, r)
	p.made.Put(q, newRuling(&r, d))
	return d
}

func (p *Policies) decide(set *ruleset.Set, r Request) Decision {
	q := p.terms.question(set, r)
	allowed, found := cedar.Authorize(set.For(r.Action), &q.entities, q.request)
	d := Decision{Allowed: bool(allowed)}
	if len(found.Reasons) > 0 {
		d.Policies = make([]string, len(found.Reasons))
		for i, reason := range found.Reasons {
			d.Policies[i] = string(reason.PolicyID)
			d.Lane = max(d.Lane, set.Rule(d.Policies[i]).Lane)
		}
	}
	for _, e := range found.Errors {
		id := string(e.PolicyID)
		d.Errors = append(d.Errors, id+": "+e.Message)
		if set.Rule(id).Forbid {
			if d.Allowed {
				d.Allowed, d.Policies, d.Lane = false, nil, keys.LaneNormal
			}
			d.Policies = append(d.Policies, id)
		}
	}
	return d
}
