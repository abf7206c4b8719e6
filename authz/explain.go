package authz

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/ast"

	"keyhole/authz/internal/ruleset"
)

// Outcomes of one policy in an Explanation.
const (
	OutcomeApplies   = "applies"
	OutcomePrincipal = "principal does not match"
	OutcomeAction    = "action does not match"
	OutcomeResource  = "resource does not match"
	OutcomeCondition = "conditions are not met"
	OutcomeError     = "could not be evaluated"
)

// Explanation is a Decision and how it came about.
type Explanation struct {
	Decision
	Question string    // in words
	Rules    []Account // every policy, in the order of the files
}

// Account is what became of one policy.
type Account struct {
	ID      string
	File    string
	Line    int
	Effect  string // "permit" or "forbid"
	Outcome string // one of the Outcome constants
	Detail  string // of an error
}

// Explain decides a request and says what each policy had to do with it.
func Explain(p *Policies, r Request) Explanation {
	set := p.current.Load()
	x := Explanation{Decision: p.decide(set, r), Question: inWords(r)}
	for _, rule := range set.All {
		a := Account{ID: rule.ID, File: rule.File, Line: rule.Line, Effect: "permit"}
		if rule.Forbid {
			a.Effect = "forbid"
		}
		a.Outcome, a.Detail = p.account(set, rule, r)
		x.Rules = append(x.Rules, a)
	}
	return x
}

// account finds out why a policy applies or not: it widens the policy's
// scope until it does.
func (p *Policies) account(set *ruleset.Set, rule *ruleset.Rule, r Request) (outcome, detail string) {
	applies := func(policy *cedar.Policy) (bool, string) {
		q := p.terms.question(set, r)
		one := ruleset.Rules{{ID: rule.ID, Policy: policy}}
		_, found := cedar.Authorize(one, &q.entities, q.request)
		if len(found.Errors) > 0 {
			return false, found.Errors[0].Message
		}
		return len(found.Reasons) > 0, ""
	}
	switch ok, failure := applies(rule.Policy); {
	case failure != "":
		return OutcomeError, failure
	case ok:
		return OutcomeApplies, ""
	}
	// The parts of the scope, each alone.
	scope := *rule.Policy.AST()
	for _, part := range []struct {
		outcome string
		keep    func(widest *ast.Policy)
	}{
		{OutcomeAction, func(w *ast.Policy) { w.Action = scope.Action }},
		{OutcomePrincipal, func(w *ast.Policy) { w.Principal = scope.Principal }},
		{OutcomeResource, func(w *ast.Policy) { w.Resource = scope.Resource }},
	} {
		widest := ast.Permit()
		part.keep(widest)
		if ok, _ := applies(cedar.NewPolicyFromAST(widest)); !ok {
			return part.outcome, ""
		}
	}
	return OutcomeCondition, ""
}

func inWords(r Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", r.Principal.ID, r.Action)
	switch r.Resource.Type {
	case TypeKey:
		fmt.Fprintf(&b, " with key %s", r.Resource.Name)
	case TypeTrigger:
		fmt.Fprintf(&b, " %s", r.Resource.Name)
	}
	if len(r.Principal.Groups) > 0 {
		fmt.Fprintf(&b, " (in %s)", strings.Join(r.Principal.Groups, ", "))
	}
	return b.String()
}

// String returns the explanation as a person would give it.
func (x Explanation) String() string {
	var b strings.Builder
	verdict := "DENIED"
	if x.Allowed {
		verdict = "ALLOWED"
	}
	fmt.Fprintf(&b, "%s: %s\n", verdict, x.Question)
	for _, a := range x.Rules {
		if slices.Contains(x.Policies, a.ID) {
			fmt.Fprintf(&b, "  by %s %q (%s:%d)\n", a.Effect, a.ID, a.File, a.Line)
		}
	}
	if len(x.Policies) == 0 {
		b.WriteString("  because no policy permits it\n")
	}
	for _, a := range x.Rules {
		if !slices.Contains(x.Policies, a.ID) && a.Outcome != OutcomeAction {
			fmt.Fprintf(&b, "  not by %s %q (%s:%d): %s", a.Effect, a.ID, a.File, a.Line, a.Outcome)
			if a.Detail != "" {
				fmt.Fprintf(&b, ": %s", a.Detail)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}
