package authz

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

const (
	maxCasesFile = 1 << 20
	gatewayName  = "keyhole"
)

// Case is one expectation of a policy test file:
//
//	# who may sign
//	- allow: jwt:corp:billing
//	  groups: [signers]
//	  action: sign
//	  key: payments
//	  tags: {team: pay}
//	- deny: jwt:corp:mallory
//	  action: sign
//	  key: payments
//	- allow: anonymous
//	  action: jwks
//	- allow: jwt:corp:siem
//	  action: trigger
//	  trigger: leak
//
// A case names one principal, after allow or deny, and an action. Without a
// key or a trigger it is about the gateway. by, if given, lists the ids of exactly the
// policies that must decide.
type Case struct {
	Name    string            `yaml:"name"`
	Allow   string            `yaml:"allow"`
	Deny    string            `yaml:"deny"`
	Groups  []string          `yaml:"groups"`
	Action  string            `yaml:"action"`
	Key     string            `yaml:"key"`
	Trigger string            `yaml:"trigger"`
	Purpose string            `yaml:"purpose"` // default: that of the action
	Tags    map[string]string `yaml:"tags"`
	Context CaseContext       `yaml:"context"`
	By      []string          `yaml:"by"`

	line int
}

// CaseContext is the context of a Case.
type CaseContext struct {
	Method       string `yaml:"method"`    // default "jwt"
	SourceIP     string `yaml:"source_ip"` // default 127.0.0.1
	VersionState string `yaml:"version_state"`
	PayloadSize  int64  `yaml:"payload_size"`
}

// Result is what became of a Case.
type Result struct {
	Case        Case
	Line        int // of the case in its file; 0: unknown
	OK          bool
	Problem     string // what was expected and what came, if not OK
	Explanation Explanation
}

// ParseCases reads a policy test file. Unknown words in it are errors, which
// name the line.
func ParseCases(data []byte) ([]Case, error) {
	if len(data) > maxCasesFile {
		return nil, fmt.Errorf("policy tests: the file has more than %d bytes", maxCasesFile)
	}
	var cases []Case
	if err := yaml.Load(data, &cases, yaml.WithKnownFields()); err != nil {
		return nil, fmt.Errorf("policy tests: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Load(data, &doc); err != nil {
		return nil, fmt.Errorf("policy tests: %w", err)
	}
	list := &doc
	if list.Kind == yaml.DocumentNode && len(list.Content) == 1 {
		list = list.Content[0]
	}
	if len(cases) == 0 {
		return nil, errors.New("policy tests: the file holds no case")
	}
	for i := range cases {
		if list.Kind == yaml.SequenceNode && i < len(list.Content) {
			cases[i].line = list.Content[i].Line
		}
		if _, err := cases[i].request(); err != nil {
			return nil, fmt.Errorf("policy tests: line %d: %w", cases[i].line, err)
		}
	}
	return cases, nil
}

// request returns the question of a case.
func (c Case) request() (Request, error) {
	if (c.Allow == "") == (c.Deny == "") {
		return Request{}, errors.New("a case has a principal after allow: or after deny:, not after both")
	}
	if !slices.Contains(Actions(), c.Action) {
		return Request{}, fmt.Errorf("unknown action %q", c.Action)
	}
	r := Request{
		Principal: Principal{ID: c.Allow + c.Deny, Groups: c.Groups, Method: c.Context.Method},
		Action:    c.Action,
		Resource:  Resource{Type: TypeGateway, Name: gatewayName},
		Context: Context{
			Method: c.Context.Method, VersionState: c.Context.VersionState, PayloadSize: c.Context.PayloadSize,
			SourceIP: netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		},
	}
	if r.Context.Method == "" {
		r.Context.Method, r.Principal.Method = MethodJWT, MethodJWT
	}
	if c.Context.SourceIP != "" {
		var err error
		if r.Context.SourceIP, err = netip.ParseAddr(c.Context.SourceIP); err != nil {
			return Request{}, fmt.Errorf("source_ip %q is no IP address", c.Context.SourceIP)
		}
	}
	switch {
	case c.Key != "" && c.Trigger != "":
		return Request{}, errors.New("a case is about a key or a trigger, not about both")
	case c.Trigger != "":
		r.Resource = Resource{Type: TypeTrigger, Name: c.Trigger}
	case c.Key != "":
		r.Resource = Resource{Type: TypeKey, Name: c.Key, Purpose: c.Purpose, Tags: c.Tags}
		if c.Purpose == "" {
			r.Resource.Purpose = purposeOf(c.Action)
		}
	}
	if !slices.Contains(resourcesOf(c.Action), r.Resource.Type) {
		return Request{}, aboutAnother(c.Action, r.Resource.Type)
	}
	return r, nil
}

// aboutAnother says what a case with a resource of the wrong type lacks.
func aboutAnother(action, got string) error {
	want := resourcesOf(action)[0]
	switch {
	case got == TypeGateway:
		return fmt.Errorf("the action %q is about a %s, and the case has none", action, strings.ToLower(want))
	case want == TypeGateway:
		return fmt.Errorf("the action %q is not about a %s; leave %s: out", action, strings.ToLower(got), strings.ToLower(got))
	}
	return fmt.Errorf("the action %q is about a %s, not about a %s", action, strings.ToLower(want), strings.ToLower(got))
}

func purposeOf(action string) string {
	switch action {
	case ActionEncrypt, ActionDecrypt, ActionRewrap, ActionDataKey:
		return "encrypt"
	}
	return "sign"
}

// RunCases holds policies against expectations.
func RunCases(p *Policies, cases []Case) []Result {
	results := make([]Result, len(cases))
	for i, c := range cases {
		res := Result{Case: c, Line: c.line}
		r, err := c.request()
		if err != nil {
			res.Problem = err.Error()
			results[i] = res
			continue
		}
		x := Explain(p, r)
		res.Explanation = x
		switch by := slices.Sorted(slices.Values(c.By)); {
		case x.Allowed != (c.Allow != ""):
			res.Problem = map[bool]string{true: "expected to be denied, but it is allowed", false: "expected to be allowed, but it is denied"}[x.Allowed]
		case c.By != nil && !slices.Equal(by, slices.Sorted(slices.Values(x.Policies))):
			res.Problem = fmt.Sprintf("expected to be decided by %q, but it is by %q", c.By, x.Policies)
		default:
			res.OK = true
		}
		results[i] = res
	}
	return results
}
