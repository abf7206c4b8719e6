package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"keyhole/client"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/gateway/api"
)

func createKey(t *testing.T, c *client.Client, name, algorithm string) {
	t.Helper()
	if _, err := c.CreateKey(t.Context(), api.CreateKeyRequest{Name: name, Algorithm: algorithm}); err != nil {
		t.Fatal(err)
	}
}

func canSign(ctx context.Context, c *client.Client, key string) error {
	_, err := c.Sign(ctx, key, api.SignRequest{Payload: []byte("hello")})
	return err
}

// A development gateway comes up, works, stops, and comes up again with its
// keys and files, by `dev` and by `serve`.
func TestDevLife(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	p := devGateway(t, dir)
	for _, want := range []string{"export KEYHOLE_ADDR=" + p.api, "export KEYHOLE_CACERT=" + dir + "/ca.crt", "export KEYHOLE_TOKEN_FILE=" + dir + "/admin.jwt", "curl --cacert"} {
		p.out.waitFor(t, p, func(out string) bool { return strings.Contains(out, want) })
	}
	if addr, err := os.ReadFile(filepath.Join(dir, "keyhole.addr")); err != nil || strings.TrimSpace(string(addr)) != p.api {
		t.Errorf("keyhole.addr holds %q, %v; want %s", addr, err, p.api)
	}
	admin, agent := p.caller(dir, "admin.jwt"), p.caller(dir, "agent.jwt")
	createKey(t, admin, "payments", "ES256")
	createKey(t, admin, "vault", "A256GCM")
	if err := canSign(t.Context(), agent, "payments"); err != nil {
		t.Error(err)
	}
	if err := canSign(t.Context(), p.holder(dir, "agent"), "payments"); err != nil {
		t.Errorf("with a client certificate: %v", err)
	}
	if _, err := agent.CreateKey(t.Context(), api.CreateKeyRequest{Name: "mine", Algorithm: "ES256"}); err == nil {
		t.Error("the agent may create keys")
	}
	sealed, err := agent.Encrypt(t.Context(), "vault", api.EncryptRequest{Plaintext: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, dir, "ca.crt", "server.crt", "admin.jwt", "agent.jwt", "admin.crt", "agent.key", "keyhole.yaml", "user.pin", "jwks.json")
	p.stop()
	if _, err := os.Stat(filepath.Join(dir, "keyhole.addr")); err == nil {
		t.Error("keyhole.addr is left behind")
	}

	p = devGateway(t, dir)
	for name, text := range read(t, dir, "ca.crt", "server.crt", "admin.jwt", "agent.jwt", "admin.crt", "agent.key", "keyhole.yaml", "user.pin", "jwks.json") {
		if text != before[name] {
			t.Errorf("%s was made anew", name)
		}
	}
	opened, err := p.caller(dir, "agent.jwt").Decrypt(t.Context(), "vault", api.DecryptRequest{Ciphertext: sealed.Ciphertext})
	if err != nil || string(opened.Plaintext) != "secret" {
		t.Errorf("after a restart: %q, %v", opened.Plaintext, err)
	}
	p.stop()

	p = serve(t, dir)
	if p.api == "" {
		t.Fatalf("serve ended with status %d:\n%s", p.wait(), p.log)
	}
	if err := canSign(t.Context(), p.caller(dir, "agent.jwt"), "payments"); err != nil {
		t.Errorf("by serve: %v", err)
	}
	p.stop()
	if n := audited(t, dir, `"action":"start"`); n != 3 {
		t.Errorf("%d starts are recorded, want 3", n)
	}
	if n := audited(t, dir, `"action":"stop"`); n != 3 {
		t.Errorf("%d stops are recorded, want 3", n)
	}
}

func read(t *testing.T, dir string, names ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(text)
	}
	return all
}

// Health, readiness and metrics tell what happens.
func TestOperations(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	p := devGateway(t, dir)
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	if err := canSign(t.Context(), p.caller(dir, "agent.jwt"), "payments"); err != nil {
		t.Fatal(err)
	}
	nobody, err := client.New(client.Config{Address: p.api, CACertFile: filepath.Join(dir, "ca.crt"), Retries: -1, Token: client.TokenString("a.b.c")})
	if err != nil {
		t.Fatal(err)
	}
	if err := canSign(t.Context(), nobody, "payments"); err == nil {
		t.Error("a token that is none is taken")
	}

	if status, body := p.get("/healthz"); status != http.StatusOK {
		t.Errorf("healthz: %d %s", status, body)
	}
	status, body := p.get("/readyz")
	var ready struct {
		Ready  bool
		Checks []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(body), &ready); err != nil || status != http.StatusOK || !ready.Ready {
		t.Errorf("readyz: %d %s (%v)", status, body, err)
	}
	var parts []string
	for _, c := range ready.Checks {
		parts = append(parts, c.Name)
	}
	if got := strings.Join(parts, " "); got != "hsm:keyhole-dev store audit snapshot" {
		t.Errorf("readyz names %s", got)
	}
	_, body = p.get("/metrics")
	for _, want := range []string{
		`keyhole_http_requests_total{code="200",method="POST",route="/v1/keys/{key}/sign"} 1`,
		`keyhole_http_requests_total{code="401",method="POST",route="/v1/keys/{key}/sign"} 1`,
		`keyhole_http_request_duration_seconds_count{route="/v1/keys/{key}/sign"} 2`,
		`keyhole_auth_failures_total{reason="malformed-token"} 1`,
		`keyhole_hsm_calls_total{function="Sign",result="ok",token="keyhole-dev"} `,
		`keyhole_hsm_call_duration_seconds_bucket{function="Sign",token="keyhole-dev",le="+Inf"} `,
		`keyhole_hsm_sessions_max{token="keyhole-dev"} 8`,
		`keyhole_hsm_sessions_in_use{token="keyhole-dev"} `,
		`keyhole_hsm_ready{token="keyhole-dev"} 1`,
		`keyhole_key_versions{state="active"} 2`, // and the audit key
		`keyhole_key_versions{state="compromised"} 0`,
		`keyhole_audit_commit_seconds_count `,
		`keyhole_audit_records_total `,
		`keyhole_snapshot_age_seconds `,
		`keyhole_build_info{`,
		`keyhole_tls_certificate_expiry_timestamp_seconds `,
		`go_goroutines `,
		`process_resident_memory_bytes `,
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("the metrics do not have %s", want)
		}
	}
	p.stop()
}

// halfSent is a request whose body is on its way: the gateway has read its
// headers and asked for the rest.
type halfSent struct {
	conn *tls.Conn
	in   *bufio.Reader
	rest string
}

func sendHalf(t *testing.T, p *process, dir, path, body string) *halfSent {
	t.Helper()
	token := strings.TrimSpace(read(t, dir, "agent.jwt")["agent.jwt"])
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.api, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", path, token, len(body))
	h := &halfSent{conn: conn, in: bufio.NewReader(conn), rest: body}
	line, err := h.in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("the gateway did not ask for the body: %q, %v", line, err)
	}
	if _, err := h.in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *halfSent) finish() (int, string, error) {
	if _, err := io.WriteString(h.conn, h.rest); err != nil {
		return 0, "", err
	}
	resp, err := http.ReadResponse(h.in, nil)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// SIGTERM lets a request under way end, and takes no new ones.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	p := devGateway(t, dir)
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	half := sendHalf(t, p, dir, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`)
	p.signal(syscall.SIGTERM)
	eventually(t, "the listener is closed", func() bool {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(p.api, "https://"), &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if status, body := p.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "stopping") {
		t.Errorf("readyz while stopping: %d %s", status, body)
	}
	status, body, err := half.finish()
	if err != nil || status != http.StatusOK || !strings.Contains(body, `"signature"`) {
		t.Errorf("the request under way: %d %s, %v", status, body, err)
	}
	if status := p.wait(); status != exit.OK {
		t.Errorf("status %d, want 0", status)
	}
	if n := audited(t, dir, `"action":"sign"`, `"outcome":"ok"`); n != 1 {
		t.Errorf("%d signatures recorded, want 1", n)
	}
}

// A second signal does not wait for anything.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	p := devGateway(t, dir)
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	sendHalf(t, p, dir, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`)
	p.signal(syscall.SIGINT)
	p.log.waitFor(t, p, func(log string) bool { return strings.Contains(log, "stopping: no new requests") })
	p.signal(syscall.SIGINT)
	if status := p.wait(); status != exit.Failure {
		t.Errorf("status %d, want %d", status, exit.Failure)
	}
	if !strings.Contains(p.log.String(), "second signal") {
		t.Error("it does not say why it ended")
	}
}

// A development gateway that others can reach says so, loudly.
func TestDevOpenToTheNetwork(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	p := serving(t, "dev", "--dir", dir, "--listen", "0.0.0.0:0", "--ops-listen", "127.0.0.1:0")
	if !strings.Contains(p.log.String(), "WARNING: 0.0.0.0:0 is open to the network") {
		t.Error("no warning")
	}
	p.stop()
}
