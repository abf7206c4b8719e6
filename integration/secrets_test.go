package integration

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// spellings are the forms in which a secret could come to light.
func spellings(secret string) map[string]string {
	b := []byte(secret)
	return map[string]string{
		"as it is": secret, "base64": base64.RawStdEncoding.EncodeToString(b), "base64url": base64.RawURLEncoding.EncodeToString(b),
		"hexadecimal": hex.EncodeToString(b), "quoted": strings.Trim(fmt.Sprintf("%q", secret), `"`),
		"bytes of Go": strings.Trim(fmt.Sprint(b), "[]"), "escaped": url.QueryEscape(secret),
	}
}

// The PIN, tokens, payloads, plaintexts, aad and data keys are nowhere but
// where they belong: not in the log at its most talkative, not in metrics,
// the audit log or the database, not on the command line of the process, and
// not in what refusals say.
func TestSecretsStaySecret(t *testing.T) {
	g := stopped(t)
	pin := g.line("user.pin")
	must(t, os.Remove(g.path("user.pin")))
	g.edit("keyhole.yaml", "pin_file: user.pin", "pin_env: KEYHOLE_TEST_PIN")
	g.edit("keyhole.yaml", "log:", "log:\n  level: debug\n  access: true")
	p := run(t, []string{"KEYHOLE_TEST_PIN=" + pin}, "serve", "--config", g.path("keyhole.yaml"))
	g.proc = p
	eventually(t, "keyholed serves", func() bool {
		g.alive()
		return strings.Contains(p.stdout.String(), "\n")
	})
	_, err := fmt.Sscanf(p.stdout.String(), "keyholed serves %s (operations: %s", &g.api, &g.ops)
	must(t, err)
	g.ops = strings.TrimSuffix(g.ops, ")")

	const payload, plaintext, aad = "payload-4N7QXW2ZJ", "plaintext-8K3MVT5RB", "aad-6Y9HCP1FD"
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	var answers strings.Builder // of refusals
	refused := func(a answer) {
		if a.status < 400 {
			t.Errorf("%s: %d, should be refused", a.what, a.status)
		}
		fmt.Fprintln(&answers, a.header, string(a.body))
	}
	g.create("payments", "ES256", 0)
	g.create("vault", "A256GCM", 0)
	g.post(agent, "/v1/keys/payments/sign", `{"payload":"`+b64(payload)+`"}`).want(http.StatusOK)
	g.post(agent, "/v1/keys/payments/sign/batch", `{"items":[{"payload":"`+b64(payload)+`"},{"payload":"`+b64(payload)+`","hash":"x"}]}`).want(http.StatusOK)
	sealed := g.post(agent, "/v1/keys/vault/encrypt", `{"plaintext":"`+b64(plaintext)+`","aad":"`+b64(aad)+`"}`).want(http.StatusOK)
	g.post(agent, "/v1/keys/vault/decrypt", strings.Replace(string(sealed.only("ciphertext")), "}", `,"aad":"`+b64(aad)+`"}`, 1)).want(http.StatusOK)
	refused(g.post(agent, "/v1/keys/vault/decrypt", strings.Replace(string(sealed.only("ciphertext")), "}", `,"aad":"`+b64(aad+"x")+`"}`, 1)))
	refused(g.post(agent, "/v1/keys/payments/sign", `{"payload":"`+b64(payload)+`","member":1}`+payload))
	refused(g.post(agent, "/v1/keys/payments/sign", `{"payload":"`+payload+`!"}`))
	refused(g.post(agent, "/v1/keys/vault/sign", `{"payload":"`+b64(payload)+`"}`))
	refused(g.post(agent, "/v1/keys/payments/encrypt", `{"plaintext":"`+b64(plaintext)+`"}`))
	var dk struct{ Plaintext []byte }
	g.post(agent, "/v1/keys/vault/datakey", `{}`).want(http.StatusOK).into(&dk)

	adminToken, agentToken := g.line("admin.jwt"), g.line("agent.jwt")
	bad := agentToken[:len(agentToken)-4] + "AAAA"
	refused(g.call(g.http, bad, http.MethodPost, "/v1/keys/payments/sign", `{"payload":"`+b64(payload)+`"}`))
	refused(g.call(g.http, agentToken+"x.y", http.MethodGet, "/v1/whoami", ""))
	refused(g.call(g.http, "", http.MethodGet, "/v1/whoami", "", "Authorization", "Basic "+b64("user:"+payload)))
	cli := g.cli(agent, "verify", "payments", "--jws", "a.b.c")
	_, metrics := g.page("/metrics")
	_, ready := g.page("/readyz")
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid))
	must(t, err)
	g.stop()

	places := map[string]string{
		"the log": p.stderr.String(), "standard output": p.stdout.String(), "the metrics": metrics, "readyz": ready,
		"the command line": string(cmdline), "a refusal": answers.String(), "the CLI's refusal": cli.out + cli.errOut,
	}
	for _, pattern := range []string{"audit/*", "keyhole.db*"} {
		files, err := filepath.Glob(g.path(pattern))
		must(t, err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			must(t, err)
			places[filepath.Base(f)] = string(b)
		}
	}
	if !strings.Contains(places["the log"], "level=DEBUG") && !strings.Contains(places["the log"], "/v1/keys/{key}/sign") {
		t.Errorf("the log is not talkative:\n%s", places["the log"])
	}
	secrets := map[string]string{
		"the PIN": pin, "the SO PIN": g.line("so.pin"), "a payload": payload, "a plaintext": plaintext, "an aad": aad, "a data key": string(dk.Plaintext),
		"the admin's token": adminToken[strings.LastIndex(adminToken, ".")+1:], "the agent's token": agentToken[strings.LastIndex(agentToken, ".")+1 : len(agentToken)-4],
	}
	for place, said := range places {
		for what, s := range secrets {
			if len(s) < 8 {
				t.Fatalf("%s is too short to look for", what)
			}
			for how, form := range spellings(s) {
				if strings.Contains(said, form) {
					t.Errorf("%s is in %s, %s", what, place, how)
				}
			}
		}
	}
}
