package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"keyhole/audit"
	"keyhole/client"
	"keyhole/integration/internal/proc"
)

// The ports of each gateway, on an address of its own.
const (
	apiPort = 8443
	opsPort = 9443
)

// gate is one gateway. It may run, end and run again.
type gate struct {
	s      *site
	name   string
	host   string // its loopback address
	dir    string // its audit log and configuration
	config string
	env    []string
	proc   *proc.Process

	settings map[string]string
}

// newGate writes a gateway's configuration.
func (s *site) newGate(name string, settings map[string]string) *gate {
	s.t.Helper()
	g := &gate{s: s, name: name, host: loopback(s.t), dir: filepath.Join(s.dir, name), settings: map[string]string{}}
	must(s.t, os.Mkdir(g.dir, 0o700))
	g.configure(settings)
	return g
}

// configure writes the configuration, with more settings.
func (g *gate) configure(more map[string]string) {
	g.s.t.Helper()
	maps.Copy(g.settings, more)
	in := func(name string) string { return quote(filepath.Join(made, name)) }
	set := map[string]string{
		"node": g.name, "development": "true",
		"listen": fmt.Sprintf("%s:%d", g.host, apiPort), "ops.listen": fmt.Sprintf("%s:%d", g.host, opsPort),
		"store":          g.store(g.s.db.TLSURL, 30*time.Second),
		"audit":          "{dir: audit, checkpoint_every: 1s}",
		"rotation":       "{min_period: 1s, min_destroy_delay: 1s, propagation: 5s, two_people: []}",
		"limits":         "{failed_logins_per_minute: 6000, failed_login_burst: 3000}",
		"shutdown_delay": "1s", "shutdown_grace": "30s", "log": "{format: text}",
		"tls":        fmt.Sprintf("{cert_file: %s, key_file: %s, client_auth: optional, client_ca_file: %s}", in("server.crt"), in("server.key"), in("ca.crt")),
		"module_env": "{SOFTHSM2_CONF: " + quote(g.s.token.Conf) + "}",
		"tokens":     fmt.Sprintf("[{name: cluster, module: %s, label: %s, pin_file: %s}]", quote(g.s.token.Module), quote(g.s.token.Label), quote(g.s.token.PINFile)),
		"auth": "{issuers: [{name: dev, issuer: \"https://keyhole-dev.invalid\", audience: [keyhole], algorithms: [ES256], jwks_file: " + in("jwks.json") +
			", max_lifetime: 24h}]}",
		"policies": "{files: [" + in("policies") + "]}",
	}
	maps.Copy(set, g.settings)
	set["ops"] = "{listen: " + quote(set["ops.listen"]) + "}"
	delete(set, "ops.listen")
	var text strings.Builder
	for k, v := range set {
		fmt.Fprintf(&text, "%s: %s\n", k, v)
	}
	g.config = write(g.s.t, g.dir, "keyhole.yaml", text.String())
}

// store is the store in a configuration. The server knows its connections by
// the gateway's name.
func (g *gate) store(url string, maxStaleness time.Duration) string {
	ca := ""
	if url == g.s.db.TLSURL {
		ca = ", ca_file: " + quote(g.s.pg.CAFile)
	}
	return fmt.Sprintf("{postgres: {url: %s, password_file: %s%s}, max_staleness: %s}",
		quote(url+"&application_name="+g.name), quote(g.s.db.PasswordFile), ca, maxStaleness)
}

// quote makes a word of YAML of s.
func quote(s string) string {
	b, _ := json.Marshal(s) // of a string: no error
	return string(b)
}

func (g *gate) api() string { return fmt.Sprintf("%s:%d", g.host, apiPort) }

// launch starts the process.
func (g *gate) launch() {
	g.s.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "keyholed"), "serve", "--config", g.config)
	cmd.Env = append(os.Environ(), g.env...)
	g.proc = proc.Start(g.s.t, cmd)
}

// start launches it and waits until it is ready.
func (g *gate) start() {
	g.s.t.Helper()
	g.launch()
	g.ready()
}

// ready waits until it says that it is.
func (g *gate) ready() {
	g.s.t.Helper()
	proc.Eventually(g.s.t, g.name+" is ready", func() bool {
		g.alive()
		status, _, err := g.get("/readyz")
		return err == nil && status == http.StatusOK
	})
}

// back waits until it is ready after a kill and a launch, and launches it again
// if it ends, as a supervisor would.
func (g *gate) back() {
	g.s.t.Helper()
	proc.Eventually(g.s.t, g.name+" is back", func() bool {
		if !g.proc.Running() {
			g.launch()
		}
		status, _, err := g.get("/readyz")
		return err == nil && status == http.StatusOK
	})
}

// alive fails the test if it has ended.
func (g *gate) alive() {
	g.s.t.Helper()
	if !g.proc.Running() {
		g.s.t.Fatalf("%s ended with status %d:\n%s", g.name, g.proc.Wait(), g.proc.Stderr)
	}
}

// stop ends it in order.
func (g *gate) stop() {
	g.s.t.Helper()
	g.proc.Signal(syscall.SIGTERM)
	if status := g.proc.Wait(); status != 0 {
		g.s.t.Fatalf("%s: status %d after SIGTERM:\n%s", g.name, status, g.proc.Stderr)
	}
}

// kill ends it in the middle of whatever it does.
func (g *gate) kill() {
	g.s.t.Helper()
	g.proc.Signal(syscall.SIGKILL)
	g.proc.Wait()
}

// pause makes it stand still until resume, or the end of the test.
func (g *gate) pause() { g.s.t.Helper(); g.proc.Signal(syscall.SIGSTOP) }

func (g *gate) resume() { g.s.t.Helper(); g.proc.Signal(syscall.SIGCONT) }

// as is a client of this gateway alone, that does not retry.
func (g *gate) as(who string) *client.Client {
	g.s.t.Helper()
	return g.s.client(g.api(), who, -1)
}

func (g *gate) admin() *client.Client { g.s.t.Helper(); return g.as("admin") }

// ops is a client of the operations listeners.
var ops = &http.Client{Timeout: 10 * time.Second}

// get reads a page of the operations listener.
func (g *gate) get(path string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(g.s.t.Context(), http.MethodGet, fmt.Sprintf("http://%s:%d%s", g.host, opsPort, path), nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := ops.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// records returns its audit log.
func (g *gate) records() []audit.Record {
	g.s.t.Helper()
	var all []audit.Record
	for r, err := range audit.Read(filepath.Join(g.dir, "audit")) {
		must(g.s.t, err)
		all = append(all, r)
	}
	return all
}

// verified fails the test unless its audit log verifies.
func (g *gate) verified() {
	g.s.t.Helper()
	p := proc.Start(g.s.t, exec.Command(filepath.Join(bin, "keyhole"), "audit", "verify", filepath.Join(g.dir, "audit"), "--key", filepath.Join(g.dir, "audit-keys.pem")))
	if status := p.Wait(); status != 0 {
		g.s.t.Errorf("the audit log of %s: status %d\n%s%s", g.name, status, p.Stdout, p.Stderr)
	}
}
