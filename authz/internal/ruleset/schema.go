package ruleset

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// Action is an action and the types of resource that it is asked about.
type Action struct {
	Name      string
	Resources []string
}

// Schema is what policies can speak of. A policy that speaks of anything
// else would never apply, which is fatal in one that forbids: it is refused
// when it is read.
type Schema struct {
	actions   []string
	types     []string
	validator *validate.Validator
}

// NewSchema compiles a Cedar schema of entity types and common types, to
// which an action is added for each of actions. Its context is the type
// Context of the schema, its principal an Agent.
func NewSchema(entities string, actions []Action) (*Schema, error) {
	var text strings.Builder
	text.WriteString(entities)
	s := &Schema{}
	for _, a := range actions {
		fmt.Fprintf(&text, "action %q appliesTo { principal: Agent, resource: [%s], context: Context };\n",
			a.Name, strings.Join(a.Resources, ", "))
		s.actions = append(s.actions, a.Name)
	}
	var parsed schema.Schema
	parsed.SetFilename("schema")
	if err := parsed.UnmarshalCedar([]byte(text.String())); err != nil {
		return nil, fmt.Errorf("reading the policy schema: %w", err)
	}
	resolved, err := parsed.Resolve()
	if err != nil {
		return nil, fmt.Errorf("reading the policy schema: %w", err)
	}
	for t := range resolved.Entities {
		s.types = append(s.types, string(t))
	}
	slices.Sort(s.types)
	s.validator = validate.New(resolved)
	return s, nil
}

// check refuses a policy that speaks of what there is not. Its own checks
// come before the validator's, for messages that say what to write instead.
func (s *Schema) check(p *ast.Policy) error {
	for _, uid := range scopeEntities(p) {
		if err := s.checkEntity(uid); err != nil {
			return err
		}
	}
	for _, t := range scopeTypes(p) {
		if err := s.checkType(t); err != nil {
			return err
		}
	}
	var err error
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			if err == nil {
				err = s.checkNode(n)
			}
			return err == nil
		})
	}
	if err != nil {
		return err
	}
	return s.validator.Policy("", p)
}

func (s *Schema) checkNode(n ast.IsNode) error {
	switch n := n.(type) {
	case ast.NodeValue:
		if uid, ok := n.Value.(types.EntityUID); ok {
			return s.checkEntity(uid)
		}
	case ast.NodeTypeIs:
		return s.checkType(n.EntityType)
	case ast.NodeTypeIsIn:
		return s.checkType(n.EntityType)
	case ast.NodeTypeAccess:
		return checkTags(n.StrOpNode)
	case ast.NodeTypeHas:
		return checkTags(n.StrOpNode)
	}
	return nil
}

// checkTags explains how tags are read.
func checkTags(n ast.StrOpNode) error {
	v, ok := n.Arg.(ast.NodeTypeVariable)
	if ok && v.Name == "resource" && n.Value == "tags" {
		return fmt.Errorf(`tags are read with resource.hasTag("team") && resource.getTag("team") == "pay", not with resource.tags`)
	}
	return nil
}

func (s *Schema) checkEntity(uid types.EntityUID) error {
	if uid.Type != "Action" {
		return s.checkType(uid.Type)
	}
	return known("action", string(uid.ID), s.actions)
}

func (s *Schema) checkType(t types.EntityType) error {
	return known("entity type", string(t), s.types)
}

func known(what, name string, all []string) error {
	if slices.Contains(all, name) {
		return nil
	}
	best, distance := "", 3 // a suggestion further away than this does not help
	for _, a := range all {
		if d := editDistance(strings.ToLower(name), strings.ToLower(a)); d < distance {
			best, distance = a, d
		}
	}
	if best != "" {
		return fmt.Errorf("unknown %s %q; did you mean %q?", what, name, best)
	}
	return fmt.Errorf("unknown %s %q; there are %s", what, name, strings.Join(all, ", "))
}

// editDistance is the number of letters to insert, delete or replace, or of
// neighbours to swap.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

func scopeEntities(p *ast.Policy) []types.EntityUID {
	var uids []types.EntityUID
	for _, scope := range []ast.IsScopeNode{p.Principal, p.Action, p.Resource} {
		switch n := scope.(type) {
		case ast.ScopeTypeEq:
			uids = append(uids, n.Entity)
		case ast.ScopeTypeIn:
			uids = append(uids, n.Entity)
		case ast.ScopeTypeInSet:
			uids = append(uids, n.Entities...)
		case ast.ScopeTypeIsIn:
			uids = append(uids, n.Entity)
		}
	}
	return uids
}

func scopeTypes(p *ast.Policy) []types.EntityType {
	var all []types.EntityType
	for _, scope := range []ast.IsScopeNode{p.Principal, p.Resource} {
		switch n := scope.(type) {
		case ast.ScopeTypeIs:
			all = append(all, n.Type)
		case ast.ScopeTypeIsIn:
			all = append(all, n.Type)
		}
	}
	return all
}
