package integration

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"keyhole/gateway/api"
	"keyhole/softhsm"
)

// metrics reads /metrics: series, with its labels, to value.
func (g *gateway) metrics() map[string]float64 {
	g.t.Helper()
	_, text := g.page("/metrics")
	all := map[string]float64{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z_]+(?:\{[^\n]*\})?) (\S+)$`).FindAllStringSubmatch(text, -1) {
		v, err := strconv.ParseFloat(m[2], 64)
		must(g.t, err)
		all[m[1]] = v
	}
	return all
}

// The metrics count what was done, neither more nor less, and every metric
// that docs/operations.md promises is there.
func TestMetricsCount(t *testing.T) {
	g := stopped(t)
	g.edit("keyhole.yaml", "audit:\n  dir: audit\n", "audit:\n  dir: audit\n  exports:\n    - {name: siem, type: syslog, address: \"127.0.0.1:1\"}\n")
	g.edit("keyhole.yaml", "development: true\n", "development: true\nwebhooks:\n  - {name: siem, url: \"https://127.0.0.1:1/\", keys: [payments], signing_key: payments}\n")
	g.start()
	g.create("payments", "ES256", 0)
	g.create("vault", "A256GCM", 0)
	g.rotate("payments")
	eventually(t, "an event is not taken", func() bool {
		return g.metrics()[`keyhole_webhook_deliveries_total{result="failed",webhook="siem"}`] > 0
	})
	before := g.metrics()
	for range 7 {
		g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`).want(http.StatusOK)
	}
	for range 3 {
		g.post(agent, "/v1/keys/vault/encrypt", `{"plaintext":"aGVsbG8="}`).want(http.StatusOK)
	}
	for range 2 {
		g.post(agent, "/v1/keys/nosuchkey/sign", `{"payload":""}`).want(http.StatusNotFound)
	}
	g.call(g.http, "a.b.c", http.MethodPost, "/v1/keys/payments/sign", `{"payload":""}`).want(http.StatusUnauthorized)
	after := g.metrics()
	const hsm = `token="keyhole-dev"`
	for series, want := range map[string]float64{
		`keyhole_http_requests_total{code="200",method="POST",route="/v1/keys/{key}/sign"}`:    7,
		`keyhole_http_requests_total{code="200",method="POST",route="/v1/keys/{key}/encrypt"}`: 3,
		`keyhole_http_requests_total{code="404",method="POST",route="/v1/keys/{key}/sign"}`:    2,
		`keyhole_http_requests_total{code="401",method="POST",route="/v1/keys/{key}/sign"}`:    1,
		`keyhole_http_request_duration_seconds_count{route="/v1/keys/{key}/sign"}`:             10,
		`keyhole_hsm_calls_total{function="Sign",result="ok",` + hsm + `}`:                     7,
		`keyhole_audit_records_total`:                           13,
		`keyhole_auth_failures_total{reason="malformed-token"}`: 1,
		`keyhole_audit_commit_failures_total`:                   0,
	} {
		if got := after[series] - before[series]; got != want {
			t.Errorf("%s rose by %v, want %v", series, got, want)
		}
	}
	for series, want := range map[string]float64{
		`keyhole_keys`:                              3, // the audit key among them
		`keyhole_key_versions{state="active"}`:      3,
		`keyhole_key_versions{state="deactivated"}`: 1,
		`keyhole_key_versions{state="compromised"}`: 0,
		`keyhole_hsm_ready{` + hsm + `}`:            1,
		`keyhole_hsm_sessions_max{` + hsm + `}`:     8,
		`keyhole_hsm_sessions_stuck{` + hsm + `}`:   0,
		`keyhole_reload_failed{what="policies"}`:    0,
	} {
		if got, ok := after[series]; !ok || got != want {
			t.Errorf("%s is %v (there: %v), want %v", series, got, ok, want)
		}
	}
	if s := after[`keyhole_snapshot_age_seconds`]; s < 0 || s > 30 {
		t.Errorf("the snapshot is %v s old", s)
	}

	doc, err := os.ReadFile("../docs/operations.md")
	must(t, err)
	promised := regexp.MustCompile(`keyhole_[a-z_]+`).FindAllString(string(doc), -1)
	if len(promised) < 15 {
		t.Errorf("docs/operations.md promises only %v", promised)
	}
	_, text := g.page("/metrics")
	for _, name := range promised {
		if !strings.Contains(text, "\n# TYPE "+name+" ") {
			t.Errorf("docs/operations.md promises %s, which is not there", name)
		}
	}
	g.stop()
}

// ready reads /readyz: part to whether it is well.
func (g *gateway) ready() (status int, parts map[string]bool) {
	g.t.Helper()
	status, body := g.page("/readyz")
	var r struct {
		Ready  bool
		Checks []struct {
			Name string
			OK   bool
		}
	}
	if err := json.Unmarshal([]byte(body), &r); err != nil || r.Ready != (status == http.StatusOK) {
		g.t.Fatalf("readyz: %d %s (%v)", status, body, err)
	}
	parts = map[string]bool{}
	for _, c := range r.Checks {
		parts[c.Name] = c.OK
	}
	return status, parts
}

// server is p11-kit's, with the token behind it: an HSM on the network, in a
// process of its own, that can die.
type server struct {
	cmd *exec.Cmd
}

func (g *gateway) startServer(t *testing.T, socket string) *server {
	t.Helper()
	install, err := softhsm.Find()
	must(t, err)
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	s := &server{exec.Command("p11-kit", "server", "--foreground", "--name", socket, "--provider", install.Module, "pkcs11:token=keyhole-dev")}
	s.cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+g.path("softhsm2.conf"))
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has a child for each connection
	must(t, s.cmd.Start())
	t.Cleanup(s.kill)
	eventually(t, "the HSM's server listens", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
	return s
}

func (s *server) kill() {
	if s.cmd.ProcessState == nil {
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		_ = s.cmd.Wait()
	}
}

// When the HSM dies readiness says so and names it, health does not, and
// requests are told to come again. What needs no secret key goes on. When the
// HSM is back, so is the gateway: without a restart and with every key.
func TestHSMDiesAndComesBack(t *testing.T) {
	g := stopped(t)
	socket := filepath.Join(t.TempDir(), "hsm.sock")
	// p11-kit's client is another module to each caller in one process; behind
	// the spy it is one.
	g.spiedModule(t, library(t, "p11-kit-client.so"))
	g.edit("keyhole.yaml", "module_env:", "module_env:\n  P11_KIT_SERVER_ADDRESS: unix:path="+socket)
	g.edit("keyhole.yaml", "    pin_file: user.pin", "    pin_file: user.pin\n    canary_interval: 1s")
	hsm := g.startServer(t, socket)
	g.start()
	g.create("payments", "ES256", 0)
	var s api.SignResponse
	g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`).want(http.StatusOK).into(&s)

	hsm.kill()
	eventually(t, "the gateway is not ready", func() bool {
		status, parts := g.ready()
		return status != http.StatusOK && !parts["hsm:keyhole-dev"] && parts["store"] && parts["audit"] && parts["snapshot"]
	})
	if status, body := g.page("/healthz"); status != http.StatusOK {
		t.Errorf("healthz: %d %s", status, body)
	}
	if v := g.metrics()[`keyhole_hsm_ready{token="keyhole-dev"}`]; v != 0 {
		t.Errorf("keyhole_hsm_ready is %v", v)
	}
	a := g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`)
	a.refused(http.StatusServiceUnavailable, "hsm_unavailable")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if a := g.post(admin, "/v1/admin/keys/payments/rotate", `{}`); a.status != http.StatusServiceUnavailable {
		t.Errorf("rotating without an HSM: %d %s", a.status, a.body)
	}
	verify, err := json.Marshal(api.VerifyRequest{Payload: []byte("hello"), Signature: s.Signature, Version: 1})
	must(t, err)
	g.post(agent, "/v1/keys/payments/verify", string(verify)).want(http.StatusOK)

	g.startServer(t, socket)
	eventually(t, "the gateway is ready again", func() bool {
		status, _ := g.ready()
		return status == http.StatusOK
	})
	var again api.SignResponse
	g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`).want(http.StatusOK).into(&again)
	if again.KeyID != "payments.v1" {
		t.Errorf("signed by %s", again.KeyID)
	}
	eventually(t, "rotating works again", func() bool {
		return g.post(admin, "/v1/admin/keys/payments/rotate", `{}`).status == http.StatusAccepted
	})
	g.stop()
}
