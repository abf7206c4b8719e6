package integration

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyhole/audit"
	"keyhole/gateway/api"
)

// Whoever policy does not let in learns nothing: what may not be seen is
// answered, word for word, like what is not there. What may be seen and not
// be used is forbidden. Each refusal is recorded with what was asked for.
func TestWhatPolicyDenies(t *testing.T) {
	g := stopped(t)
	g.put("policies/agent.cedar", `
		@id("agents-sign") permit (principal in Group::"agents", action in [Action::"sign", Action::"read"], resource)
		when { resource.hasTag("team") && resource.getTag("team") == "billing" };`)
	g.start()
	g.keyhole(admin, "key", "create", "payments", "--algorithm", "ES256", "--tag", "team=billing")
	g.keyhole(admin, "key", "create", "salaries", "--algorithm", "ES256", "--tag", "team=hr")

	g.post(agent, "/v1/keys/payments/sign", `{"payload":""}`).want(http.StatusOK)
	g.post(agent, "/v1/keys/payments/verify", `{"payload":"","signature":"","version":1}`).refused(http.StatusForbidden, "forbidden")
	for _, ask := range []struct{ method, path, body string }{
		{"POST", "/v1/keys/%s/sign", `{"payload":""}`},
		{"POST", "/v1/keys/%s/verify", `{"payload":"","signature":"","version":1}`},
		{"POST", "/v1/keys/%s/decrypt", `{"ciphertext":"kh1:x.v1:AAAA"}`},
		{"POST", "/v1/keys/%s/sign/batch", `{"items":[{"payload":""}]}`},
		{"GET", "/v1/keys/%s", ""},
		{"GET", "/v1/keys/%s/jwks.json", ""},
	} {
		said := map[string]string{}
		for _, key := range []string{"salaries", "nosuchkey"} {
			a := g.call(g.http, g.line("agent.jwt"), ask.method, fmt.Sprintf(ask.path, key), ask.body)
			p := a.refused(http.StatusNotFound, "key_not_found")
			said[strings.NewReplacer(p.RequestID, "", key, "").Replace(string(a.body))] = key
			n := len(g.audited(func(r audit.Record) bool {
				return r.RequestID == p.RequestID && r.Key == key && r.Principal == "jwt:dev:agent" && r.Outcome != audit.OutcomeOK
			}))
			if n != 1 {
				t.Errorf("%s: recorded %d times", a.what, n)
			}
		}
		if len(said) != 1 {
			t.Errorf("%s tells a key that is hidden from one that is not there: %v", ask.path, said)
		}
	}
	var list api.KeyList
	g.read(agent, "/v1/keys").want(http.StatusOK).into(&list)
	if len(list.Keys) != 1 || list.Keys[0].Name != "payments" {
		t.Errorf("the agent's list: %+v", list)
	}
	if all := string(g.read(agent, "/v1/jwks.json").body); strings.Contains(all, "salaries") {
		t.Errorf("the JWKS shows %s", all)
	}
	for _, act := range []string{"payments/rotate", "payments/versions/1/revoke", "payments/versions/1/suspend"} {
		g.post(agent, "/v1/admin/keys/"+act, `{}`).refused(http.StatusForbidden, "forbidden")
		g.post(agent, "/v1/admin/keys/"+strings.Replace(act, "payments", "salaries", 1), `{}`).refused(http.StatusNotFound, "key_not_found")
	}
	g.post(agent, "/v1/admin/keys", `{"name":"mine","algorithm":"ES256"}`).refused(http.StatusForbidden, "forbidden")
	if s := g.cli(agent, "rotate", "payments"); s.code != 4 || s.out != "" {
		t.Errorf("the command line: status %d, want 4: %s%s", s.code, s.out, s.errOut)
	}
	if s := g.cli(agent, "sign", "salaries", g.path("ca.crt")); s.code != 5 {
		t.Errorf("the command line: status %d, want 5: %s%s", s.code, s.out, s.errOut)
	}
	g.stop()
}

// certificate makes a client certificate by openssl, from the development CA.
func (g *gateway) certificate(t *testing.T, name, uri string) (crt string, pair tls.Certificate) {
	t.Helper()
	dir := t.TempDir()
	at := func(suffix string) string { return filepath.Join(dir, name+suffix) }
	ext := write(t, at(".ext"), "subjectAltName = URI:"+uri+"\nextendedKeyUsage = clientAuth\nkeyUsage = digitalSignature\n")
	for _, args := range [][]string{
		{"req", "-new", "-newkey", "ed25519", "-nodes", "-keyout", at(".key"), "-out", at(".csr"), "-subj", "/CN=" + name},
		{"x509", "-req", "-in", at(".csr"), "-CA", g.path("ca.crt"), "-CAkey", g.path("ca.key"), "-CAserial", at(".srl"), "-CAcreateserial", "-days", "1", "-extfile", ext, "-out", at(".crt")},
	} {
		if ok, out := tool(t, "openssl", args...); !ok {
			t.Fatalf("openssl %s: %s", args[0], out)
		}
	}
	pair, err := tls.LoadX509KeyPair(at(".crt"), at(".key"))
	must(t, err)
	return at(".crt"), pair
}

// revoker is openssl as the development CA, with what it has revoked so far.
type revoker struct {
	g      *gateway
	config string
}

func newRevoker(t *testing.T, g *gateway) *revoker {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "index"), "")
	write(t, filepath.Join(dir, "number"), "01\n")
	return &revoker{g, write(t, filepath.Join(dir, "ca.conf"), "[ca]\ndefault_ca = dev\n[dev]\ndatabase = "+dir+"/index\ncrlnumber = "+dir+"/number\n"+
		"default_md = sha256\ndefault_crl_days = 1\ncertificate = "+g.path("ca.crt")+"\nprivate_key = "+g.path("ca.key")+"\n")}
}

// publish revokes certificates and puts the list where the gateway reads it.
func (r *revoker) publish(t *testing.T, crts ...string) {
	t.Helper()
	for _, crt := range crts {
		if ok, out := tool(t, "openssl", "ca", "-config", r.config, "-revoke", crt); !ok {
			t.Fatal(out)
		}
	}
	list := filepath.Join(t.TempDir(), "clients.crl")
	if ok, out := tool(t, "openssl", "ca", "-config", r.config, "-gencrl", "-out", list); !ok {
		t.Fatal(out)
	}
	text, err := os.ReadFile(list)
	must(t, err)
	r.g.put("clients.crl", string(text))
}

// A certificate made by openssl names its holder by SPIFFE ID. What policy
// says of that name comes into force while the gateway runs; a file that does
// not parse keeps the old policy, loudly; and once the certificate is on a
// revocation list it is refused, also on a connection that it opened before.
func TestCertificatesPoliciesAndRevocation(t *testing.T) {
	g := stopped(t)
	crl := newRevoker(t, g)
	crl.publish(t)
	g.edit("keyhole.yaml", "  client_ca_file: ca.crt", "  client_ca_file: ca.crt\n  crl_files: [clients.crl]")
	g.edit("keyhole.yaml", "log:", "reload_interval: 1s\nlog:")
	g.start()
	g.create("payments", "ES256", 0)
	billing, billingPair := g.certificate(t, "billing", "spiffe://corp.example/billing")
	_, otherPair := g.certificate(t, "other", "spiffe://corp.example/other")
	first, other := g.newHTTP(&billingPair), g.newHTTP(&otherPair)
	sign := func(c *http.Client) answer {
		return g.call(c, "", http.MethodPost, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`)
	}
	var who api.WhoAmI
	g.call(first, "", http.MethodGet, "/v1/whoami", "").want(http.StatusOK).into(&who)
	if who.Principal != "mtls:spiffe://corp.example/billing" || who.Method != "mtls" {
		t.Errorf("whoami: %+v", who)
	}
	sign(first).refused(http.StatusNotFound, "key_not_found")

	const both = `permit (principal, action == Action::"sign", resource)
		when { principal in [Agent::"mtls:spiffe://corp.example/billing", Agent::"mtls:spiffe://corp.example/other"] };`
	g.put("policies/corp.cedar", both)
	eventually(t, "the new policy is in force", func() bool { return sign(first).status == http.StatusOK })
	sign(other).want(http.StatusOK)

	g.put("policies/corp.cedar", strings.TrimSuffix(both, "};"))
	eventually(t, "the broken policy is noticed", func() bool {
		_, metrics := g.page("/metrics")
		return strings.Contains(metrics, `keyhole_reload_failed{what="policies"} 1`)
	})
	sign(first).want(http.StatusOK)
	if said := g.proc.stderr.String(); !strings.Contains(said, "RELOAD FAILED") || !strings.Contains(said, "corp.cedar") {
		t.Errorf("the log does not say loudly what is wrong:\n%s", said)
	}
	g.put("policies/corp.cedar", both+"\n"+`@id("freeze") forbid (principal, action == Action::"sign", resource);`)
	eventually(t, "the denial is in force", func() bool { return sign(first).status != http.StatusOK })
	g.post(agent, "/v1/keys/payments/sign", `{"payload":""}`).refused(http.StatusForbidden, "forbidden")
	g.put("policies/corp.cedar", both)
	eventually(t, "the denial is lifted", func() bool { return sign(first).status == http.StatusOK })

	crl.publish(t, billing)
	eventually(t, "the revoked certificate is refused", func() bool { return sign(first).status == http.StatusUnauthorized })
	if a, err := g.tryCall(g.newHTTP(&billingPair), "", http.MethodGet, "/v1/whoami", ""); err == nil && a.status != http.StatusUnauthorized {
		t.Errorf("on a new connection: %d %s", a.status, a.body)
	}
	sign(other).want(http.StatusOK)
	g.stop()
	reloads := map[string]int{}
	for _, r := range g.records() {
		if r.Action == "reload" {
			reloads[r.Details["what"]+" "+r.Outcome]++
		}
	}
	for _, want := range []string{"policies ok", "policies error", "auth ok"} {
		if reloads[want] == 0 {
			t.Errorf("no record of a reload %q: %v", want, reloads)
		}
	}
}
