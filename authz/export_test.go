package authz

import "keyhole/authz/internal/ruleset"

// Remembered returns how many tokens are remembered.
func (a *Authenticator) Remembered() int { return a.tokens.Len() }

// ParseGroups is parseGroups and what follows it, for fuzzing.
func ParseGroups(data []byte) error {
	groups, err := parseGroups(data)
	if err != nil {
		return err
	}
	return members{}.add(groups)
}

// ParsePolicies reads the text of one file, for fuzzing.
func ParsePolicies(data []byte) (int, error) {
	schema, err := newSchema()
	if err != nil {
		return 0, err
	}
	rules, err := ruleset.Parse(schema, "fuzz.cedar", data)
	return len(rules), err
}

// Sources returns how many sources of failed logins are remembered.
func (l *Limiter) Sources() int { return l.sources.Len() }

// DecideAnew is Decide without a memory.
func (p *Policies) DecideAnew(r Request) Decision { return p.decide(p.current.Load(), r) }
