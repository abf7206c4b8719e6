package authz_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"keyhole/authz"
	"keyhole/authz/authztest"
	"keyhole/keys"
)

const policyText = `
// Security staff may do everything.
@id("admins")
permit(principal in Group::"admins", action, resource);

// The payment team's agents sign with the team's keys.
@id("payments-sign")
permit(
  principal in Group::"signers",
  action in [Action::"sign", Action::"verify", Action::"read"],
  resource is Key
) when {
  resource.purpose == "sign" && resource.hasTag("team") && resource.getTag("team") == "pay"
};

@id("billing-decrypts")
permit(principal == Agent::"mtls:spiffe://example.org/billing", action == Action::"decrypt", resource == Key::"invoices")
unless { context.payload_size > 65536 };

@id("everybody")
permit(principal, action in [Action::"jwks", Action::"random"], resource);

// Production keys are used from the inside, and never by a bare token.
@id("inside-only")
forbid(principal, action, resource is Key)
when { resource.hasTag("env") && resource.getTag("env") == "prod" }
unless { context.source_ip.isInRange(ip("10.0.0.0/8")) && context.method like "*mtls" };

@id("siem")
permit(principal == Agent::"jwt:corp:siem", action == Action::"trigger", resource == Trigger::"leak");

@id("no-archived")
forbid(principal, action == Action::"recover", resource) when { context.version_state == "compromised" };
`

// bench is a policy test that reads as policy.
type table struct {
	testing.TB
	p *authz.Policies
}

func load(tb testing.TB, text string) table {
	tb.Helper()
	dir := tb.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.cedar"), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	p, err := authz.LoadPolicies(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return table{tb, p}
}

type change func(*authz.Request)

func key(name string) change {
	return func(r *authz.Request) { r.Resource.Type, r.Resource.Name = authz.TypeKey, name }
}
func in(groups ...string) change { return func(r *authz.Request) { r.Principal.Groups = groups } }
func tag(k, v string) change {
	return func(r *authz.Request) {
		if r.Resource.Tags == nil {
			r.Resource.Tags = map[string]string{}
		}
		r.Resource.Tags[k] = v
	}
}
func purpose(p string) change { return func(r *authz.Request) { r.Resource.Purpose = p } }
func from(ip string) change {
	return func(r *authz.Request) { r.Context.SourceIP = netip.MustParseAddr(ip) }
}
func by(method string) change  { return func(r *authz.Request) { r.Context.Method = method } }
func state(s string) change    { return func(r *authz.Request) { r.Context.VersionState = s } }
func bytesOf(n int64) change   { return func(r *authz.Request) { r.Context.PayloadSize = n } }
func onGateway(*authz.Request) {}

func request(who, action string, changes []change) authz.Request {
	r := authz.Request{
		Principal: authz.Principal{ID: who, Method: authz.MethodJWT}, Action: action,
		Resource: authz.Resource{Type: authz.TypeGateway, Name: "keyhole", Purpose: "sign"},
		Context:  authz.Context{Method: authz.MethodJWT, SourceIP: netip.MustParseAddr("192.0.2.1"), VersionState: "active"},
	}
	for _, c := range changes {
		c(&r)
	}
	return r
}

// allow and deny check the decision and the policies it rests on.
func (t table) allow(policies, who, action string, changes ...change) {
	t.Helper()
	t.decide(true, policies, who, action, changes)
}

func (t table) deny(policies, who, action string, changes ...change) {
	t.Helper()
	t.decide(false, policies, who, action, changes)
}

func (t table) decide(want bool, policies, who, action string, changes []change) {
	t.Helper()
	d := t.p.Decide(request(who, action, changes))
	if d.Allowed != want || strings.Join(d.Policies, " ") != policies || len(d.Errors) > 0 {
		t.Errorf("%s %s: allowed=%v by %q (errors %q), want %v by %q", who, action, d.Allowed, d.Policies, d.Errors, want, policies)
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	p := load(t, policyText)
	pay := []change{key("payments"), tag("team", "pay")}
	with := func(more ...change) []change { return append(slices.Clone(pay), more...) }

	p.allow("admins", "jwt:corp:root", "sign", with(in("admins"))...)
	p.allow("admins", "jwt:corp:root", "create-key", key("new"), in("admins"))
	p.allow("admins payments-sign", "jwt:corp:root", "sign", with(in("signers", "admins"))...)

	p.allow("payments-sign", "jwt:corp:alice", "sign", with(in("signers"))...)
	p.allow("payments-sign", "jwt:corp:alice", "read", with(in("x", "signers"))...)
	p.deny("", "jwt:corp:alice", "rotate", with(in("signers"))...)
	p.deny("", "jwt:corp:alice", "sign", with()...)
	p.deny("", "jwt:corp:alice", "sign", with(in("Signers"))...)
	p.deny("", "jwt:corp:alice", "sign", with(in("signers"), purpose("encrypt"))...)
	p.deny("", "jwt:corp:alice", "sign", key("payments"), in("signers"))
	p.deny("", "jwt:corp:alice", "sign", key("payments"), in("signers"), tag("team", "hr"))
	p.deny("", "signers", "sign", with()...) // an agent is not a group

	billing := "mtls:spiffe://example.org/billing"
	p.allow("billing-decrypts", billing, "decrypt", key("invoices"), purpose("encrypt"), bytesOf(65536))
	p.deny("", billing, "decrypt", key("invoices"), purpose("encrypt"), bytesOf(65537))
	p.deny("", billing, "decrypt", key("invoices2"), purpose("encrypt"))
	p.deny("", billing, "encrypt", key("invoices"), purpose("encrypt"))
	p.deny("", billing+"2", "decrypt", key("invoices"), purpose("encrypt"))
	p.deny("", "jwt:corp:"+billing, "decrypt", key("invoices"), purpose("encrypt"))

	p.allow("everybody", "anonymous", "jwks", onGateway)
	p.allow("everybody", "anonymous", "jwks", key("payments"))
	p.allow("everybody", "anonymous", "random")
	p.deny("", "anonymous", "read", key("payments"))

	prod := with(in("signers", "admins"), tag("env", "prod"))
	p.deny("inside-only", "jwt:corp:alice", "sign", prod...)
	p.deny("inside-only", "jwt:corp:alice", "sign", append(prod, from("10.1.2.3"))...)
	p.deny("inside-only", "jwt:corp:alice", "sign", append(prod, by("jwt+mtls"))...)
	p.allow("admins payments-sign", "jwt:corp:alice", "sign", append(prod, from("10.1.2.3"), by("jwt+mtls"))...)
	p.allow("admins payments-sign", "jwt:corp:alice", "sign", append(prod, from("::ffff:10.1.2.3"), by("mtls"))...)
	p.deny("inside-only", "jwt:corp:alice", "sign", append(prod, from("fe80::1%eth0"), by("mtls"))...)
	p.deny("inside-only", "jwt:corp:alice", "sign", append(prod, func(r *authz.Request) { r.Context.SourceIP = netip.Addr{} }, by("mtls"))...)

	p.allow("admins", "jwt:corp:root", "recover", with(in("admins"), state("archived"))...)
	p.deny("no-archived", "jwt:corp:root", "recover", with(in("admins"), state("compromised"))...)

	leak := func(r *authz.Request) { r.Resource = authz.Resource{Type: authz.TypeTrigger, Name: "leak"} }
	p.allow("siem", "jwt:corp:siem", "trigger", leak)
	p.deny("", "jwt:corp:siem", "trigger", func(r *authz.Request) { r.Resource = authz.Resource{Type: authz.TypeTrigger, Name: "deploy"} })
	p.deny("", "jwt:corp:siem", "trigger", key("leak"))
	p.deny("", "jwt:corp:siem", "rotate", key("leak"))
	p.allow("admins", "jwt:corp:root", "trigger", leak, in("admins"))
	p.allow("admins", "jwt:corp:root", "block-agent", onGateway, in("admins"))
	p.deny("", "jwt:corp:siem", "block-agent", onGateway)

	p.deny("", "jwt:corp:root", "no-such-action", with(in("admins"))...)
	p.deny("", "jwt:corp:root", "", with(in("admins"))...)
}

// TestLane: the bulk lane is for what a policy that decided puts there.
func TestLane(t *testing.T) {
	t.Parallel()
	p := load(t, `
@id("all") permit(principal, action, resource);
@lane("bulk") permit(principal in Group::"batch", action in [Action::"sign", Action::"encrypt"], resource);
forbid(principal in Group::"gone", action, resource);`)
	for _, tt := range []struct {
		action string
		groups change
		want   keys.Lane
	}{
		{"sign", in(), keys.LaneNormal}, {"sign", in("batch"), keys.LaneBulk}, {"encrypt", in("x", "batch"), keys.LaneBulk},
		{"decrypt", in("batch"), keys.LaneNormal}, {"sign", in("batch", "gone"), keys.LaneNormal},
	} {
		for range 2 { // the second answer is remembered
			if d := p.p.Decide(request("jwt:corp:a", tt.action, []change{key("a"), tt.groups})); d.Lane != tt.want {
				t.Errorf("%s: lane %d, want %d (%+v)", tt.action, d.Lane, tt.want, d)
			}
		}
	}
}

// TestChangedGroups: the same principal with other groups is judged by
// those.
func TestChangedGroups(t *testing.T) {
	t.Parallel()
	p := load(t, policyText)
	for range 3 {
		p.allow("admins", "jwt:corp:x", "rotate", key("a"), in("admins"))
		p.deny("", "jwt:corp:x", "rotate", key("a"))
		p.deny("", "jwt:corp:x", "rotate", key("a"), in("admin", "s"))
		p.allow("admins", "jwt:corp:x", "rotate", key("a"), in("z", "admins"))
	}
}

// TestRememberedDecisions: whatever was asked before, the answer is the one
// that evaluating the policies gives.
func TestRememberedDecisions(t *testing.T) {
	t.Parallel()
	p := load(t, policyText)
	requests := []authz.Request{{Context: authz.Context{VersionState: "active"}}}
	vary := func(changes ...change) {
		var next []authz.Request
		for _, r := range requests {
			for _, c := range changes {
				r := r
				r.Resource.Tags = maps.Clone(r.Resource.Tags)
				c(&r)
				next = append(next, r)
			}
		}
		requests = next
	}
	who := func(id string) change { return func(r *authz.Request) { r.Principal.ID = id } }
	do := func(action string) change { return func(r *authz.Request) { r.Action = action } }
	vary(who("mtls:spiffe://example.org/billing"), who("x"))
	vary(in(), in("signers"), in("admins", "signers"))
	vary(do("sign"), do("decrypt"), do("recover"))
	vary(key("invoices"), key("payments"))
	vary(purpose("sign"), purpose("encrypt"))
	vary(tag("team", "pay"), tag("team", "x"), tag("env", "prod"))
	vary(from("10.0.0.1"), from("192.0.2.1"))
	vary(by(authz.MethodJWT), by(authz.MethodMTLS))
	vary(state("active"), state("compromised"))
	vary(bytesOf(1), bytesOf(1<<20))
	rand.Shuffle(len(requests), func(i, j int) { requests[i], requests[j] = requests[j], requests[i] })
	seen := map[bool]int{}
	for range 2 {
		for _, r := range requests {
			got, want := p.p.Decide(r), p.p.DecideAnew(r)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%+v: decided %+v, want %+v", r, got, want)
			}
			seen[got.Allowed]++
		}
	}
	if seen[true] < 100 || seen[false] < 100 {
		t.Errorf("the requests are too much alike: %v", seen)
	}
}

// TestForbidThatFails: a policy that forbids and cannot be evaluated denies.
func TestForbidThatFails(t *testing.T) {
	t.Parallel()
	p := load(t, `
@id("all") permit(principal, action, resource);
@id("overflow") forbid(principal, action == Action::"sign", resource) when { context.payload_size * 9223372036854775807 > 5 };
@id("useless") permit(principal, action == Action::"verify", resource) when { context.payload_size * 9223372036854775807 > 5 };
`)
	d := p.p.Decide(request("x", "sign", []change{key("a"), bytesOf(2)}))
	if d.Allowed || !slices.Equal(d.Policies, []string{"overflow"}) || len(d.Errors) != 1 || !strings.HasPrefix(d.Errors[0], "overflow: ") {
		t.Errorf("decision %+v", d)
	}
	d = p.p.Decide(request("x", "verify", []change{key("a"), bytesOf(2)}))
	if !d.Allowed || !slices.Equal(d.Policies, []string{"all"}) || len(d.Errors) != 1 {
		t.Errorf("decision %+v", d)
	}
	p.deny("overflow", "x", "sign", key("a"), bytesOf(1))
	p.allow("all", "x", "sign", key("a"))
}

// TestRefusedPolicies: what would silently never apply is an error that
// names the place.
func TestRefusedPolicies(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, says string }{
		"a misspelt action":    {`permit(principal, action == Action::"sing", resource);`, `main.cedar:2:1: policy "main.cedar#1": unknown action "sing"; did you mean "sign"?`},
		"in a list":            {`permit(principal, action in [Action::"sign", Action::"decypt"], resource);`, `unknown action "decypt"; did you mean "decrypt"?`},
		"in a condition":       {`forbid(principal, action, resource) when { action == Action::"rotat" };`, `unknown action "rotat"; did you mean "rotate"?`},
		"in a capital":         {`permit(principal, action == Action::"Sign", resource);`, `did you mean "sign"?`},
		"an unknown action":    {`permit(principal, action == Action::"make-coffee", resource);`, `unknown action "make-coffee"; there are sign, verify,`},
		"a misspelt type":      {`permit(principal in Groups::"x", action, resource);`, `unknown entity type "Groups"; did you mean "Group"?`},
		"an unknown type":      {`permit(principal is User, action, resource);`, `unknown entity type "User"; there are Agent, Gateway, Group, Key`},
		"a type in is":         {`permit(principal, action, resource) when { resource is Keys };`, `did you mean "Key"?`},
		"a type in a value":    {`permit(principal, action, resource) when { principal in [Group::"a", Team::"b"] };`, `unknown entity type "Team"`},
		"a misspelt attribute": {`forbid(principal, action == Action::"sign", resource) unless { resource.purpos == "sign" };`, "attribute `purpos`"},
		"a misspelt context":   {`forbid(principal, action == Action::"sign", resource) unless { context.metod == "mtls" };`, "attribute `metod`"},
		"tags as attribute":    {`permit(principal, action == Action::"sign", resource) when { resource.tags.team == "a" };`, `resource.hasTag("team") && resource.getTag("team")`},
		"tags unguarded":       {`permit(principal, action == Action::"sign", resource) when { resource.getTag("team") == "a" };`, "tag"},
		"a number as text":     {`permit(principal, action == Action::"sign", resource) when { context.payload_size < "10" };`, "String"},
		"never to be asked":    {`permit(principal, action == Action::"random", resource == Key::"a");`, "applicable"},
		"a bad range":          {`permit(principal, action, resource) when { context.source_ip.isInRange(ip("10.0.0/8")) };`, "IP address"},
		"syntax":               {`permit(principal, action, resource)`, "main.cedar:2:36"},
		"syntax, further down": {"permit(principal, action, resource);\npermit(principal\naction, resource);", "main.cedar:4:7"},
		"a template":           {`permit(principal == ?principal, action, resource);`, "main.cedar:2:22"},
		"an id twice":          {`@id("a") permit(principal, action, resource); @id("a") forbid(principal, action, resource);`, `main.cedar:2:47: the policy id "a" is already used at main.cedar:2`},
		"an empty id":          {`@id("") permit(principal, action, resource);`, "@id"},
		"an id with a break":   {`@id("a\nb") permit(principal, action, resource);`, "@id"},
		"an unknown lane":      {`@lane("slow") permit(principal, action, resource);`, `@lane("slow") is unknown`},
		"a lane of nothing":    {`@lane("bulk") forbid(principal, action, resource);`, "a forbid has none"},
		"nothing":              {`// nothing`, "nothing would be allowed"},
		"too long":             {strings.Repeat(" ", 64<<10), "split it"},
		"too deep":             {`permit(principal, action, resource) when {` + strings.Repeat("(", 64<<10-60), "main.cedar"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "main.cedar")
			if err := os.WriteFile(file, []byte("\n"+tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := authz.LoadPolicies(file)
			if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), filepath.Dir(file)) {
				t.Errorf("got %v, want an error with %q", err, tt.says)
			}
		})
	}
	if _, err := authz.LoadPolicies(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a directory that does not exist is accepted")
	}
	if _, err := authz.LoadPolicies(t.TempDir()); err == nil {
		t.Error("a directory without policies is accepted")
	}
	if _, err := authz.LoadPolicies(); err == nil {
		t.Error("no path is accepted")
	}
}

func TestFilesAndIDs(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(dir, "b.cedar"):      `permit(principal == Agent::"b", action, resource); permit(principal == Agent::"b2", action, resource);`,
		filepath.Join(dir, "a.cedar"):      `permit(principal == Agent::"a", action, resource);`,
		filepath.Join(dir, ".b.cedar"):     `half written`,
		filepath.Join(dir, "b.cedar~"):     `half written`,
		filepath.Join(dir, "notes.txt"):    `not a policy`,
		filepath.Join(other, "single.txt"): `permit(principal == Agent::"s", action, resource);`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := authz.LoadPolicies(dir, filepath.Join(other, "single.txt"))
	if err != nil {
		t.Fatal(err)
	}
	b := table{t, p}
	b.allow("a.cedar#1", "a", "sign", key("k"))
	b.allow("b.cedar#1", "b", "sign", key("k"))
	b.allow("b.cedar#2", "b2", "sign", key("k"))
	b.allow("single.txt#1", "s", "sign", key("k"))
}

func TestReloadOfPolicies(t *testing.T) {
	t.Parallel()
	file := authztest.WriteFile(t, "main.cedar", []byte(`permit(principal == Agent::"old", action, resource);`))
	p, err := authz.LoadPolicies(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	b := table{t, p}
	first := p.Hash()
	reload := func(text string, wantChanged bool, wantErr string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		changed, hash, err := p.Reload()
		if changed != wantChanged || hash != p.Hash() || (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("changed=%v hash=%s err=%v, want changed=%v, an error with %q", changed, hash, err, wantChanged, wantErr)
		}
	}
	if len(first) != 64 {
		t.Errorf("hash %q", first)
	}
	reload(`permit(principal == Agent::"old", action, resource);`, false, "")
	reload("permit(principal == Agent::\"new\",\n  action == Action::\"sing\", resource);", false, `main.cedar:1:1: policy "main.cedar#1": unknown action "sing"`)
	b.allow("main.cedar#1", "old", "sign", key("k"))
	if p.Hash() != first {
		t.Error("a broken file changed the hash")
	}
	reload("", false, "nothing would be allowed")
	b.allow("main.cedar#1", "old", "sign", key("k"))
	reload(`permit(principal == Agent::"new", action, resource);`, true, "")
	b.deny("", "old", "sign", key("k"))
	b.allow("main.cedar#1", "new", "sign", key("k"))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Reload(); err == nil {
		t.Error("no error about no file")
	}
	b.allow("main.cedar#1", "new", "sign", key("k"))
}

// TestReloadUnderLoad: every decision is by one whole set.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	even := `@id("even") permit(principal, action, resource); @id("even-no") forbid(principal, action == Action::"rotate", resource);`
	odd := `@id("odd") permit(principal, action, resource); @id("odd-no") forbid(principal, action == Action::"rotate", resource);`
	file := authztest.WriteFile(t, "main.cedar", []byte(even))
	p, err := authz.LoadPolicies(file)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				who := fmt.Sprint("agent-", i)
				if d := p.Decide(request(who, "sign", []change{key("k")})); !d.Allowed || len(d.Policies) != 1 {
					t.Errorf("decision %+v", d)
				}
				if d := p.Decide(request(who, "rotate", []change{key("k")})); d.Allowed || len(d.Policies) != 1 || !strings.HasSuffix(d.Policies[0], "-no") {
					t.Errorf("decision %+v", d)
				}
			}
		})
	}
	for i := range 50 {
		text := even
		if i%2 == 0 {
			text = odd
		}
		// Written aside and renamed, as one should.
		next := file + ".next"
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, file); err != nil {
			t.Fatal(err)
		}
		if changed, _, err := p.Reload(); !changed || err != nil {
			t.Errorf("changed=%v, %v", changed, err)
		}
	}
	close(stop)
	wg.Wait()
}

// TestEveryAction: each action can be permitted, and asked about with the
// resources that the gateway asks with.
func TestEveryAction(t *testing.T) {
	t.Parallel()
	for _, action := range authz.Actions() {
		p := load(t, fmt.Sprintf("@id(\"it\") permit(principal, action == Action::%q, resource);", action))
		resource := key("k")
		if action == authz.ActionRandom {
			resource = onGateway
		}
		p.allow("it", "x", action, resource)
		for _, other := range authz.Actions() {
			if other != action {
				p.deny("", "x", other, resource)
			}
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	p := load(b, policyText)
	for name, r := range map[string]authz.Request{
		"allowed": request("jwt:corp:alice", "sign", []change{key("payments"), tag("team", "pay"), tag("owner", "x"), in("signers", "dev")}),
		"denied":  request("jwt:corp:alice", "rotate", []change{key("payments"), tag("team", "pay"), in("signers", "dev")}),
		"simple":  request("anonymous", "random", nil),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.p.Decide(r)
			}
		})
	}
}
