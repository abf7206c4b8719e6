package authz_test

import (
	"strings"
	"testing"

	"keyhole/authz"
)

const caseText = `
# the payment team
- name: agents of the team sign
  allow: jwt:corp:alice
  groups: [signers]
  action: sign
  key: payments
  tags: {team: pay}
  by: [payments-sign]
- deny: jwt:corp:alice
  groups: [signers]
  action: rotate
  key: payments
  tags: {team: pay}
- allow: anonymous
  action: jwks
- allow: mtls:spiffe://example.org/billing
  action: decrypt
  key: invoices
  context: {method: mtls, payload_size: 10, version_state: active, source_ip: 10.0.0.1}
- allow: jwt:corp:siem
  action: trigger
  trigger: leak
  by: [siem]
- deny: jwt:corp:siem
  action: trigger
  trigger: deploy
- allow: jwt:corp:root
  groups: [admins]
  action: block-agent
- deny: jwt:corp:root
  groups: [admins]
  action: sign
  key: payments
  tags: {env: prod}
  context: {source_ip: "2001:db8::1"}
  by: [inside-only]
`

func TestRunCases(t *testing.T) {
	t.Parallel()
	p := load(t, policyText)
	cases, err := authz.ParseCases([]byte(caseText))
	if err != nil {
		t.Fatal(err)
	}
	results := authz.RunCases(p.p, cases)
	if len(results) != 8 {
		t.Fatalf("%d results", len(results))
	}
	for i, line := range []int{3, 10, 15, 17, 21, 25, 28, 31} {
		if r := results[i]; !r.OK || r.Problem != "" || r.Line != line {
			t.Errorf("case %d (line %d, want %d): %s", i, r.Line, line, r.Problem)
		}
	}

	wrong, err := authz.ParseCases([]byte(strings.NewReplacer("allow:", "deny:", "deny:", "allow:").Replace(caseText)))
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range authz.RunCases(p.p, wrong) {
		if r.OK || !strings.HasPrefix(r.Problem, "expected to be ") {
			t.Errorf("case %d the wrong way round: ok=%v, %q", i, r.OK, r.Problem)
		}
	}
	other, err := authz.ParseCases([]byte("- {allow: anonymous, action: jwks, by: [admins]}"))
	if err != nil {
		t.Fatal(err)
	}
	if r := authz.RunCases(p.p, other)[0]; r.OK || !strings.Contains(r.Problem, `"everybody"`) {
		t.Errorf("decided by another policy: ok=%v, %q", r.OK, r.Problem)
	}
	if r := authz.RunCases(p.p, []authz.Case{{Action: "sign"}})[0]; r.OK || r.Problem == "" {
		t.Errorf("a case without a principal: %+v", r)
	}
}

func TestBadCases(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, says string }{
		"empty":            {"", ""},
		"no case":          {"[]", "no case"},
		"not a list":       {"allow: x", ""},
		"not YAML":         {"- [", ""},
		"an unknown word":  {"- alow: x\n  action: sign", "alow"},
		"a word twice":     {"- allow: x\n  allow: y\n  action: sign", "allow"},
		"both":             {"\n- allow: x\n  deny: y\n  action: sign\n  key: a", "line 2: a case has a principal after allow: or after deny:"},
		"neither":          {"- action: sign\n  key: a", "line 1: a case has a principal"},
		"unknown action":   {"- {allow: x, action: sign, key: a}\n- {allow: x, action: sing, key: a}", `line 2: unknown action "sing"`},
		"no key":           {"- {allow: x, action: sign}", "is about a key"},
		"no trigger":       {"- {allow: x, action: trigger}", "is about a trigger"},
		"key of a trigger": {"- {allow: x, action: trigger, key: a}", "is about a trigger, not about a key"},
		"trigger of a key": {"- {allow: x, action: sign, trigger: a}", "is about a key, not about a trigger"},
		"key and trigger":  {"- {allow: x, action: sign, key: a, trigger: a}", "not about both"},
		"a trigger":        {"- {allow: x, action: random, trigger: a}", "not about a trigger"},
		"a key":            {"- {allow: x, action: random, key: a}", "not about a key"},
		"no address":       {"- {allow: x, action: sign, key: a, context: {source_ip: here}}", `"here"`},
		"a number of text": {"- {allow: x, action: sign, key: a, context: {payload_size: big}}", ""},
		"too long":         {"- {allow: x, action: sign, key: a} #" + strings.Repeat("x", 1<<20), "bytes"},
	} {
		if _, err := authz.ParseCases([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want an error with %q", name, err, tt.says)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	p := load(t, policyText)
	x := authz.Explain(p.p, request("jwt:corp:alice", "sign", []change{key("payments"), in("signers"), tag("team", "pay"), tag("env", "prod")}))
	want := `DENIED: jwt:corp:alice sign with key payments (in signers)
  by forbid "inside-only" (main.cedar:24)
  not by permit "admins" (main.cedar:3): principal does not match
`
	got := x.String()
	for line := range strings.Lines(want) {
		if !strings.Contains(got, line) {
			t.Errorf("the explanation lacks %q:\n%s", line, got)
		}
	}
	outcomes := map[string]string{}
	for _, r := range x.Rules {
		outcomes[r.ID] = r.Outcome
	}
	for id, outcome := range map[string]string{
		"admins": authz.OutcomePrincipal, "payments-sign": authz.OutcomeApplies, "billing-decrypts": authz.OutcomeAction,
		"everybody": authz.OutcomeAction, "inside-only": authz.OutcomeApplies, "no-archived": authz.OutcomeAction,
	} {
		if outcomes[id] != outcome {
			t.Errorf("%s: %q, want %q", id, outcomes[id], outcome)
		}
	}

	for _, tt := range []struct {
		r       authz.Request
		id      string
		outcome string
	}{
		{request("mtls:spiffe://example.org/billing", "decrypt", []change{key("other")}), "billing-decrypts", authz.OutcomeResource},
		{request("mtls:spiffe://example.org/billing", "decrypt", []change{key("invoices"), bytesOf(1 << 20)}), "billing-decrypts", authz.OutcomeCondition},
		{request("mtls:x", "decrypt", []change{key("invoices")}), "billing-decrypts", authz.OutcomePrincipal},
	} {
		x := authz.Explain(p.p, tt.r)
		for _, r := range x.Rules {
			if r.ID == tt.id && r.Outcome != tt.outcome {
				t.Errorf("%s: %q, want %q", x.Question, r.Outcome, tt.outcome)
			}
		}
		if !strings.Contains(x.String(), "because no policy permits it") {
			t.Errorf("the explanation does not say why:\n%s", x)
		}
	}
	failing := load(t, `@id("x") permit(principal, action, resource) when { context.payload_size * 9223372036854775807 > 5 };`)
	x = authz.Explain(failing.p, request("a", "sign", []change{key("k"), bytesOf(2)}))
	if x.Rules[0].Outcome != authz.OutcomeError || !strings.Contains(x.String(), "overflow") {
		t.Errorf("an error is not explained:\n%s", x)
	}
	allowed := authz.Explain(p.p, request("anonymous", "random", nil))
	if !strings.HasPrefix(allowed.String(), "ALLOWED: anonymous random\n  by permit \"everybody\" (main.cedar:20)") {
		t.Errorf("explained as:\n%s", allowed)
	}
}
