// Package ruleset reads Cedar policy files and checks them against a schema,
// so that a misspelt action, attribute or type is an error when a file is
// read, not a rule that silently never applies.
package ruleset

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	cedarast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"keyhole/authz/internal/text"
	"keyhole/keys"
)

// MaxBytes is the largest policy file. It bounds how deep the parser, which
// is recursive, can be made to go.
const MaxBytes = 64 << 10

const maxID = 128

// Rule is one policy.
type Rule struct {
	ID     string
	File   string // base name
	Line   int
	Forbid bool
	Lane   keys.Lane // of what it permits
	Policy *cedar.Policy
}

// forAnyAction returns the rule without the action in its scope.
func (r *Rule) forAnyAction() *Rule {
	policy := *(*ast.Policy)(r.Policy.AST())
	policy.Action = ast.ScopeTypeAll{}
	widened := *r
	widened.Policy = cedar.NewPolicyFromAST((*cedarast.Policy)(&policy))
	return &widened
}

// Rules are policies in the order of their files and lines. They are what
// cedar.Authorize takes.
type Rules []*Rule

// All returns the policies by id.
func (r Rules) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, rule := range r {
			if !yield(cedar.PolicyID(rule.ID), rule.Policy) {
				return
			}
		}
	}
}

// Set is an immutable set of checked policies.
type Set struct {
	All      Rules
	Hash     string // SHA-256 over the names and contents of the files, in hexadecimal
	byAction map[string]Rules
	byID     map[string]*Rule
	context  usage
}

// Reads reports whether any policy reads an attribute of the context.
func (s *Set) Reads(attribute string) bool { return s.context.whole || s.context.attributes[attribute] }

// usage is what policies read of the context.
type usage struct {
	attributes map[string]bool
	whole      bool // they compare or pass it as a whole
}

func (u *usage) add(p *ast.Policy) {
	seen, direct := 0, 0
	isContext := func(n ast.IsNode) bool {
		v, ok := n.(ast.NodeTypeVariable)
		return ok && v.Name == "context"
	}
	read := func(n ast.StrOpNode) {
		if isContext(n.Arg) {
			direct++
			u.attributes[string(n.Value)] = true
		}
	}
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			switch n := n.(type) {
			case ast.NodeTypeVariable:
				if isContext(n) {
					seen++
				}
			case ast.NodeTypeAccess:
				read(n.StrOpNode)
			case ast.NodeTypeHas:
				read(n.StrOpNode)
			}
			return true
		})
	}
	u.whole = u.whole || seen != direct
}

// For returns the rules whose scope admits an action. They do not look at
// the action's scope again.
func (s *Set) For(action string) Rules { return s.byAction[action] }

// Rule returns the rule with an id, nil if there is none.
func (s *Set) Rule(id string) *Rule { return s.byID[id] }

// Load reads the policy files among paths and every *.cedar in the
// directories among them. The error names file, line and column. No policy
// at all is an error too: it is more often a wrong path than a wish.
func Load(schema *Schema, paths ...string) (*Set, error) {
	files, err := expand(paths)
	if err != nil {
		return nil, err
	}
	s := &Set{byAction: map[string]Rules{}, byID: map[string]*Rule{}, context: usage{attributes: map[string]bool{}}}
	sum := sha256.New()
	var errs []error
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading a policy file: %w", err))
			continue
		}
		for _, part := range [][]byte{[]byte(filepath.Base(file)), data} {
			sum.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
			sum.Write(part)
		}
		errs = append(errs, s.add(schema, file, data)...)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if len(s.All) == 0 {
		return nil, fmt.Errorf("no policy in %s: nothing would be allowed; if that is meant, write forbid(principal, action, resource);", strings.Join(paths, ", "))
	}
	for _, r := range s.All {
		s.context.add((*ast.Policy)(r.Policy.AST()))
	}
	for _, r := range s.All {
		forAny := r.forAnyAction()
		for _, action := range schema.actions {
			if admits((*ast.Policy)(r.Policy.AST()), action) {
				s.byAction[action] = append(s.byAction[action], forAny)
			}
		}
	}
	s.Hash = hex.EncodeToString(sum.Sum(nil))
	return s, nil
}

// Parse is Load for the text of one file.
func Parse(schema *Schema, name string, data []byte) (Rules, error) {
	s := &Set{byID: map[string]*Rule{}}
	if errs := s.add(schema, name, data); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return s.All, nil
}

func expand(paths []string) ([]string, error) {
	var files []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("looking for policy files: %w", err)
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		entries, err := os.ReadDir(path) // sorted by name
		if err != nil {
			return nil, fmt.Errorf("looking for policy files: %w", err)
		}
		for _, e := range entries {
			// Names with a dot in front are the half-written files of editors.
			if strings.HasSuffix(e.Name(), ".cedar") && !strings.HasPrefix(e.Name(), ".") {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
	}
	return files, nil
}

func (s *Set) add(schema *Schema, file string, data []byte) []error {
	if len(data) > MaxBytes {
		return []error{fmt.Errorf("%s: a policy file may have %d bytes; split it", file, MaxBytes)}
	}
	base := filepath.Base(file)
	parsed, err := cedar.NewPolicyListFromBytes(base, data)
	if err != nil {
		// Cedar calls every file "<input>" in its text.
		return []error{errors.New(strings.Replace(strings.TrimPrefix(err.Error(), "parser error: "), "<input>", file, 1))}
	}
	var errs []error
	for i, p := range parsed {
		at := fmt.Sprintf("%s:%d:%d", file, p.Position().Line, p.Position().Column)
		id, err := idOf(p, base, i+1)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", at, err))
			continue
		}
		if other := s.byID[id]; other != nil {
			errs = append(errs, fmt.Errorf("%s: the policy id %q is already used at %s:%d", at, id, other.File, other.Line))
			continue
		}
		if err := schema.check((*ast.Policy)(p.AST())); err != nil {
			errs = append(errs, fmt.Errorf("%s: policy %q: %w", at, id, err))
			continue
		}
		lane, err := laneOf(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: policy %q: %w", at, id, err))
			continue
		}
		r := &Rule{ID: id, File: base, Line: p.Position().Line, Forbid: p.Effect() == cedar.Forbid, Lane: lane, Policy: p}
		s.byID[id] = r
		s.All = append(s.All, r)
	}
	return errs
}

// idOf returns the id by which decisions name a policy: its annotation
// @id("..."), else its file and place, "payments.cedar#2".
func idOf(p *cedar.Policy, base string, n int) (string, error) {
	id, ok := p.Annotations()["id"]
	if !ok {
		return fmt.Sprintf("%s#%d", base, n), nil
	}
	if !text.Printable(string(id), maxID) {
		return "", fmt.Errorf("@id(%.64q) must be 1 to %d bytes of printable text", string(id), maxID)
	}
	return string(id), nil
}

// laneOf reads the annotation @lane("bulk"), which has what a policy permits
// wait behind everything else.
func laneOf(p *cedar.Policy) (keys.Lane, error) {
	lane, ok := p.Annotations()["lane"]
	switch {
	case !ok:
		return keys.LaneNormal, nil
	case p.Effect() == cedar.Forbid:
		return 0, errors.New("@lane is for what is permitted; a forbid has none")
	case lane == "bulk":
		return keys.LaneBulk, nil
	}
	return 0, fmt.Errorf("@lane(%.64q) is unknown; the one lane to name is @lane(\"bulk\")", string(lane))
}

func admits(p *ast.Policy, action string) bool {
	is := func(uid cedar.EntityUID) bool { return string(uid.ID) == action }
	switch scope := p.Action.(type) {
	case ast.ScopeTypeEq:
		return is(scope.Entity)
	case ast.ScopeTypeIn:
		return is(scope.Entity)
	case ast.ScopeTypeInSet:
		return slices.ContainsFunc(scope.Entities, is)
	}
	return true
}
