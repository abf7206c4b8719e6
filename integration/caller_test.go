package integration

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
)

// Who calls: the names of the tokens and certificates of `keyholed dev`.
const (
	admin = "admin"
	agent = "agent"
)

// newHTTP returns a client that trusts the gateway and shows cert, if any.
func (g *gateway) newHTTP(cert *tls.Certificate) *http.Client {
	g.t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(g.line("ca.crt"))) {
		g.t.Fatal("ca.crt holds no certificate")
	}
	config := &tls.Config{RootCAs: roots}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: 32}, Timeout: patience}
	g.t.Cleanup(c.CloseIdleConnections)
	return c
}

// as returns a Go client with a token of the directory. It does not retry.
func (g *gateway) as(who string) *client.Client {
	g.t.Helper()
	c, err := client.New(client.Config{
		Address: g.api, CACertFile: g.path("ca.crt"), Token: client.TokenFile(g.path(who + ".jwt")), Retries: -1, Timeout: patience,
	})
	must(g.t, err)
	g.t.Cleanup(c.Close)
	return c
}

// create makes a key as the administrator.
func (g *gateway) create(name, algorithm string, bits int) api.Key {
	g.t.Helper()
	k, err := g.as(admin).CreateKey(g.t.Context(), api.CreateKeyRequest{Name: name, Algorithm: algorithm, Bits: bits})
	if err != nil {
		g.t.Fatalf("creating %s: %v", name, err)
	}
	return k
}

// rotate makes the next version as the administrator.
func (g *gateway) rotate(name string) api.Rotation {
	g.t.Helper()
	r, err := g.as(admin).Rotate(g.t.Context(), name, api.RotateRequest{})
	if err != nil {
		g.t.Fatalf("rotating %s: %v", name, err)
	}
	return r
}

// answer is what a plain HTTP request brought.
type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
}

// call sends a request with a bearer token ("": none). Headers come in pairs.
func (g *gateway) call(c *http.Client, token, method, path, body string, headers ...string) answer {
	g.t.Helper()
	a, err := g.tryCall(c, token, method, path, body, headers...)
	must(g.t, err)
	return a
}

func (g *gateway) tryCall(c *http.Client, token, method, path, body string, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.api+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{t: g.t, what: method + " " + path, status: resp.StatusCode, header: resp.Header, body: b}, err
}

// post is call of a POST as one of the directory's tokens.
func (g *gateway) post(who, path, body string, headers ...string) answer {
	g.t.Helper()
	return g.call(g.http, g.line(who+".jwt"), http.MethodPost, path, body, headers...)
}

// read is call of a GET as one of the directory's tokens.
func (g *gateway) read(who, path string) answer {
	g.t.Helper()
	return g.call(g.http, g.line(who+".jwt"), http.MethodGet, path, "")
}

// want fails unless the status is as given.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: %d, want %d: %s", a.what, a.status, status, a.body)
	}
	return a
}

// refused fails unless it is a problem with that status and code.
func (a answer) refused(status int, code string) api.Problem {
	a.t.Helper()
	var p api.Problem
	if err := json.Unmarshal(a.body, &p); err != nil || a.status != status || p.Status != status || p.Code != code ||
		a.header.Get("Content-Type") != "application/problem+json" || p.RequestID == "" || p.RequestID != a.requestID() {
		a.t.Errorf("%s: %d %s (%v), want %d %s: %s", a.what, a.status, p.Code, err, status, code, a.body)
	}
	return p
}

func (a answer) requestID() string { return a.header.Get("X-Request-Id") }

func (a answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
}

// said is what a program wrote and how it ended.
type said struct {
	code        int
	out, errOut string
}

// exec runs a program with an input.
func execute(t *testing.T, dir string, env []string, input, name string, args ...string) said {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), env...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errOut
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("running %s (`make deps` installs what the tests need): %v", name, err)
	}
	return said{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// tool runs a program and returns whether it exits with 0, and its output.
func tool(t *testing.T, name string, args ...string) (bool, string) {
	t.Helper()
	s := execute(t, t.TempDir(), nil, "", name, args...)
	return s.code == 0, s.out + s.errOut
}

// cli runs the command line as one of the directory's tokens.
func (g *gateway) cli(who string, args ...string) said {
	g.t.Helper()
	env := []string{"KEYHOLE_ADDR=" + g.api, "KEYHOLE_CACERT=" + g.path("ca.crt"), "KEYHOLE_TOKEN_FILE=" + g.path(who+".jwt")}
	return execute(g.t, filepath.Dir(g.dir), env, "", filepath.Join(bin, "keyhole"), args...)
}

// keyhole is cli of a command that must succeed. It returns standard output.
func (g *gateway) keyhole(who string, args ...string) string {
	g.t.Helper()
	s := g.cli(who, args...)
	if s.code != 0 {
		g.t.Fatalf("keyhole %s: status %d\n%s%s", strings.Join(args, " "), s.code, s.out, s.errOut)
	}
	return s.out
}

// only returns the object with that one member of the answer.
func (a answer) only(member string) []byte {
	a.t.Helper()
	var all map[string]json.RawMessage
	a.into(&all)
	one, err := json.Marshal(map[string]json.RawMessage{member: all[member]})
	must(a.t, err)
	return one
}
