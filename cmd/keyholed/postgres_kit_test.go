package main

import (
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyhole/store/postgrestest"
)

// onPostgres lets the gateway of a dev directory have its store in a
// database.
func onPostgres(t *testing.T, dir string, db *postgrestest.Database, more ...string) {
	t.Helper()
	lines := []string{
		"store:", "  postgres:", "    url: " + db.TLSURL, "    ca_file: " + db.Server.CAFile, "    password_file: " + db.PasswordFile,
	}
	configure(t, dir, "store:\n  sqlite: keyhole.db\n", strings.Join(append(lines, more...), "\n")+"\n")
}

// sibling returns a directory of a further gateway with the same token, store,
// callers and certificates.
func sibling(t *testing.T, dir, name string) string {
	t.Helper()
	other := filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"tokens", "audit", "audit-keys.pem"} {
		if err := os.RemoveAll(filepath.Join(other, gone)); err != nil {
			t.Fatal(err)
		}
	}
	secret := []string{"user.pin", "server.key"}
	for _, f := range secret { // CopyFS gives them the umask's mode
		if err := os.Chmod(filepath.Join(other, f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(other, 0o700); err != nil {
		t.Fatal(err)
	}
	configure(t, other, "node: dev\n", "node: "+name+"\n")
	return other
}

// gateway is serve for a gateway that must come up.
func gateway(t *testing.T, dir string) *process {
	t.Helper()
	return serving(t, "serve", "--config", filepath.Join(dir, "keyhole.yaml"))
}

// change changes a key as the admin of a dev directory, and returns the
// answer.
func (p *process) change(dir, key string) (status int, retryAfter, body string) {
	p.t.Helper()
	token := strings.TrimSpace(read(p.t, dir, "admin.jwt")["admin.jwt"])
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPatch, p.api+"/v1/admin/keys/"+key, strings.NewReader(`{"description": "changed"}`))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.web(dir).Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Retry-After"), string(b)
}

// web is an HTTP client that trusts the CA of a dev directory.
func (p *process) web(dir string) *http.Client {
	p.t.Helper()
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		p.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}
	p.t.Cleanup(c.CloseIdleConnections)
	return c
}

// logged counts the lines of the log that hold a text.
func (p *process) logged(text string) (n int) {
	for line := range strings.Lines(p.log.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// metric waits until the metrics have a line.
func (p *process) metric(line string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("the metrics have %q", line), func() bool {
		_, body := p.get("/metrics")
		return strings.Contains(body, "\n"+line+"\n")
	})
}

// alterSQLite runs SQL on the database of a dev directory whose gateway has
// ended.
func alterSQLite(t *testing.T, dir, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "keyhole.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}
