package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// memory shows what a process can write of its memory, region by region.
func memory(t *testing.T, pid int, look func(region string, content []byte)) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	must(t, err)
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		page := make([]byte, 1<<20)
		var kept []byte // the end of the page before
		for at := from; at < to; at += int64(len(page)) {
			n, _ := mem.ReadAt(page[:min(int64(len(page)), to-at)], at) // what cannot be read is not there
			look(strings.TrimSpace(line), append(kept, page[:n]...))
			kept = bytes.Clone(page[max(0, n-64):n])
		}
	}
}

// After the login the PIN is nowhere in the process's memory, given that the
// C library overwrites what it frees, as it does by the unit's setting. Only
// root can look there: a process of the same user cannot.
func TestPINIsNotInMemory(t *testing.T) {
	g := stopped(t)
	pin := []byte(g.line("user.pin"))
	cmd := exec.Command(filepath.Join(bin, "keyholed"), "serve", "--config", g.path("keyhole.yaml"))
	cmd.Env = append(os.Environ(), "MALLOC_PERTURB_=165")
	p := g.serve(cmd)
	g.create("payments", "ES256", 0)
	g.post(agent, "/v1/keys/payments/sign", `{"payload":"eA=="}`).want(http.StatusOK)
	seen, looked := false, 0
	memory(t, p.cmd.Process.Pid, func(region string, content []byte) {
		looked += len(content)
		seen = seen || bytes.Contains(content, []byte("keyhole-dev.invalid")) // of the configuration: the search finds something
		if i := bytes.Index(content, pin); i >= 0 {
			t.Errorf("the PIN is in %s, behind %q", region, content[max(0, i-32):i])
		}
	})
	if !seen {
		t.Errorf("%d bytes were looked at, and the configuration was not among them", looked)
	}
	g.stop()
}

// A crash leaves no core, and nobody but root sees into the process: not its
// memory, not its environment, not its files.
func TestNoCoreDump(t *testing.T) {
	g := stopped(t)
	cmd := exec.Command(filepath.Join(bin, "keyholed"), "serve", "--config", g.path("keyhole.yaml"))
	cmd.Dir = t.TempDir()
	if os.Geteuid() == 0 { // as an unprivileged service
		give(t, g.dir, sandboxUser)
		passable(t, g.dir, bin)
		cmd.SysProcAttr = asUser(sandboxUser)
		must(t, os.Chown(cmd.Dir, sandboxUser, sandboxUser))
	}
	p := g.serve(cmd)
	pid := p.cmd.Process.Pid
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	must(t, err)
	for line := range strings.Lines(string(limits)) {
		if strings.HasPrefix(line, "Max core file size") && !slices.Equal(strings.Fields(line)[4:6], []string{"0", "0"}) {
			t.Errorf("core dumps are on: %s", line)
		}
	}
	for _, file := range []string{"mem", "environ", "maps", "auxv"} {
		info, err := os.Stat(fmt.Sprintf("/proc/%d/%s", pid, file))
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Stat(fmt.Sprintf("/proc/%d/%s", pid, file), &st))
		if st.Uid != 0 {
			t.Errorf("%s is user %d's, with the mode %s", file, st.Uid, info.Mode())
		}
	}
	if os.Geteuid() == 0 {
		look := exec.CommandContext(t.Context(), "/bin/cat", fmt.Sprintf("/proc/%d/environ", pid), fmt.Sprintf("/proc/%d/maps", pid))
		look.SysProcAttr = asUser(sandboxUser)
		if out, err := look.Output(); err == nil || len(out) > 0 {
			t.Errorf("a process of the same user reads %q, %v", out, err)
		}
	}
	p.signal(unix.SIGABRT)
	p.wait()
	left, err := filepath.Glob(filepath.Join(cmd.Dir, "*"))
	must(t, err)
	if len(left) > 0 || p.cmd.ProcessState.Sys().(interface{ CoreDump() bool }).CoreDump() {
		t.Errorf("a core was dumped: %v", left)
	}
}

// Secrets of the configuration and of requests, each recognisable, come to
// light nowhere: a webhook's URL, the headers of an exporter, the query of a
// JWKS URL, the PIN in the environment. The other sides fail in every way, so
// that errors about them are logged at the most talkative.
func TestPlantedSecrets(t *testing.T) {
	g := stopped(t)
	const (
		hookPath, hookQuery = "hook-path-7W2K9XQZ", "hook-query-4M8T2VBN"
		header, jwksQuery   = "otel-header-3R6Y1PLD", "jwks-query-5H9C8GSA"
		echoed              = "echo-of-the-other-side-2J4F"
		note, description   = "note-that-is-no-secret", "description-that-is-no-secret"
	)
	var asked atomic.Int64
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) % 3 {
		case 0:
			w.Header().Set("Location", "https://127.0.0.1:1/"+echoed)
			w.WriteHeader(http.StatusFound)
		case 1:
			http.Error(w, echoed+" "+r.URL.String()+fmt.Sprint(r.Header), http.StatusInternalServerError)
		default:
			panic(http.ErrAbortHandler)
		}
	}))
	defer other.Close()
	g.put("other.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate().Raw})))
	g.put("headers", "Authorization: Bearer "+header+"\n")
	pin := g.line("user.pin")
	must(t, os.Remove(g.path("user.pin")))
	g.edit("keyhole.yaml", "pin_file: user.pin", "pin_env: KEYHOLE_TEST_PIN")
	g.edit("keyhole.yaml", "  issuers:\n", "  issuers:\n    - name: corp\n      issuer: https://login.example.com\n      audience: [keyhole]\n"+
		"      algorithms: [ES256]\n      jwks_url: "+other.URL+"/jwks?key="+jwksQuery+"\n      ca_file: other.crt\n")
	g.edit("keyhole.yaml", "log:", "webhooks:\n  - name: siem\n    url: "+other.URL+"/"+hookPath+"?token="+hookQuery+"\n    signing_key: payments\n    ca_file: other.crt\nlog:\n  level: debug\n  access: true")
	text := g.line("keyhole.yaml")
	export := "  exports:\n    - name: otel\n      type: otlp\n      url: " + other.URL + "/v1/logs\n      ca_file: other.crt\n      headers_file: headers\n"
	before, after, ok := strings.Cut(text, "\naudit:\n")
	if !ok {
		t.Fatalf("no section audit:\n%s", text)
	}
	g.put("keyhole.yaml", before+"\naudit:\n"+export+after+"\n")
	cmd := exec.Command(filepath.Join(bin, "keyholed"), "serve", "--config", g.path("keyhole.yaml"))
	cmd.Env = append(os.Environ(), "KEYHOLE_TEST_PIN="+pin)
	p := g.serve(cmd)

	var answers bytes.Buffer
	keep := func(a answer) answer {
		fmt.Fprintln(&answers, a.header, string(a.body))
		return a
	}
	keep(g.post(admin, "/v1/admin/keys", `{"name":"payments","algorithm":"ES256","description":"`+description+`"}`)).want(http.StatusCreated)
	keep(g.post(admin, "/v1/admin/keys/payments/rotate", `{"note":"`+note+`"}`)).want(http.StatusAccepted)
	unknown := g.devIssuer()
	c := claims(nil)
	c["iss"] = "https://login.example.com"
	keep(g.call(g.http, unknown.signedBy(t, unknown.header(), payloadOf(t, c)), http.MethodGet, "/v1/whoami", "")).refused(http.StatusUnauthorized, "unauthenticated")
	eventually(t, "the other side is asked, and fails, in every way", func() bool { return asked.Load() >= 6 })
	for _, path := range []string{"/v1/admin/webhooks", "/v1/admin/audit", "/v1/admin/agents", "/v1/keys/payments", "/v1/admin/rotations", "/v1/admin/keys/payments/usage"} {
		keep(g.read(admin, path)).want(http.StatusOK)
	}
	_, metrics := g.page("/metrics")
	_, ready := g.page("/readyz")
	pid := p.cmd.Process.Pid
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	must(t, err)
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	must(t, err)
	if !bytes.Contains(environ, []byte("KEYHOLE_TEST_PIN=\x00")) {
		t.Errorf("the environment is not that of the process: %q", environ)
	}
	check := execute(t, g.dir, []string{"KEYHOLE_TEST_PIN=" + pin}, "", filepath.Join(bin, "keyholed"), "check-config", "--config", g.path("keyhole.yaml"))
	g.stop()

	places := map[string]string{
		"the log": p.stderr.String(), "standard output": p.stdout.String(), "the metrics": metrics, "readyz": ready, "an answer": answers.String(),
		"the command line": string(cmdline), "the environment": string(environ), "check-config": check.out + check.errOut,
	}
	mayHold := []string{"keyhole.yaml", "headers", "tokens", "so.pin"} // where the operator put them; the token is SoftHSM's
	must(t, filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		rel, rerr := filepath.Rel(g.dir, path)
		if err := errors.Join(err, rerr); err != nil {
			return err
		}
		if slices.Contains(mayHold, rel) && d.IsDir() {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() || slices.Contains(mayHold, rel) {
			return nil
		}
		b, err := os.ReadFile(path)
		places["the file "+rel] = string(b)
		return err
	}))
	adminToken, agentToken := g.line("admin.jwt"), g.line("agent.jwt")
	delete(places, "the file admin.jwt")
	delete(places, "the file agent.jwt")
	for what, secret := range map[string]string{
		"the PIN": pin, "a webhook's path": hookPath, "a webhook's query": hookQuery, "an exporter's header": header, "the query of a JWKS URL": jwksQuery,
		"the admin's token": adminToken[strings.LastIndex(adminToken, ".")+1:], "the agent's token": agentToken[strings.LastIndex(agentToken, ".")+1:],
		"what another side answered": echoed,
	} {
		for place, said := range places {
			for how, form := range spellings(secret) {
				if strings.Contains(said, form) {
					i := strings.Index(said, form)
					t.Errorf("%s is in %s, %s: %.200s", what, place, how, said[max(0, i-100):min(len(said), i+100)])
				}
			}
		}
	}
	// The search finds what is there.
	for place, want := range map[string]string{"an answer": description, "the file audit/00000001.jsonl": note, "the log": "level=DEBUG"} {
		if !strings.Contains(places[place], want) && !strings.Contains(places[place], base64.StdEncoding.EncodeToString([]byte(want))) {
			t.Errorf("%s does not hold %q: %.2000s", place, want, places[place])
		}
	}
}
