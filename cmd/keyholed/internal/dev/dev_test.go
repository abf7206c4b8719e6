package dev

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyhole/authz"
	"keyhole/cmd/keyholed/internal/strictyaml"
)

func prepare(t *testing.T, o Options) *Dir {
	t.Helper()
	d, err := Prepare(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func done(t *testing.T, d *Dir) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// contents reads every file under a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir+"/")] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPrepareIsIdempotent(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	done(t, prepare(t, Options{Dir: dir}))
	before := contents(t, dir)
	for _, want := range []string{"keyhole.yaml", "ca.crt", "admin.jwt", "approver.jwt", "agent.jwt", "admin.crt", "admin.key", "agent.crt", "agent.key", "softhsm2.conf"} {
		if before[want] == "" {
			t.Errorf("%s is missing", want)
		}
	}
	done(t, prepare(t, Options{Dir: dir}))
	after := contents(t, dir)
	for name, text := range before {
		if after[name] != text {
			t.Errorf("%s has changed", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files have become %d", len(before), len(after))
	}
}

// What a crash left out is made; the rest is kept.
func TestPrepareCompletes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	done(t, prepare(t, Options{Dir: dir}))
	before := contents(t, dir)
	for name := range before {
		if name == marker || strings.HasPrefix(name, "tokens/") || name == "user.pin" || name == "so.pin" || name == "softhsm2.conf" {
			continue // package softhsm's own, tested there
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		done(t, prepare(t, Options{Dir: dir}))
		if after := contents(t, dir); after[name] == "" {
			t.Errorf("%s was not made again", name)
		} else if strings.HasSuffix(name, ".cedar") && after[name] != before[name] {
			t.Errorf("%s has changed", name)
		}
	}
	// All of it fits together still.
	d := prepare(t, Options{Dir: dir})
	defer done(t, d)
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")); err != nil {
		t.Error(err)
	}
	if got := who(t, d, AdminToken); got.ID != "jwt:dev:admin" {
		t.Errorf("the admin is %+v", got)
	}
}

// who authenticates with a token of the directory, as the gateway would.
func who(t *testing.T, d *Dir, token string) authz.Principal {
	t.Helper()
	i := d.Config.Auth.Issuers[0]
	a, err := authz.NewAuthenticator(t.Context(), authz.Config{Issuers: []authz.Issuer{{
		Name: i.Name, Issuer: i.Issuer, Audience: i.Audience, Algorithms: i.Algorithms, JWKSFile: i.JWKSFile, MaxLifetime: i.MaxLifetime,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(d.Path, token))
	if err != nil {
		t.Fatal(err)
	}
	p, err := a.Authenticate(t.Context(), authz.Credentials{Token: strings.TrimSpace(string(text))})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestModes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	done(t, prepare(t, Options{Dir: dir}))
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	done(t, prepare(t, Options{Dir: dir}))
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s has the mode %04o, want %04o", path, info.Mode().Perm(), want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestForeignDirectories(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Prepare(Options{Dir: dir}); !errors.Is(err, ErrForeign) {
		t.Errorf("error is %v, want ErrForeign", err)
	}
	if all := contents(t, dir); len(all) != 1 {
		t.Errorf("it wrote into the directory: %v", all)
	}
	if _, err := Prepare(Options{Dir: filepath.Join(dir, "thesis.tex")}); err == nil {
		t.Error("a file is taken for a directory")
	}
	done(t, prepare(t, Options{Dir: t.TempDir()})) // empty: fine
}

func TestInUse(t *testing.T) {
	t.Parallel()
	d := prepare(t, Options{Dir: t.TempDir()})
	if _, err := Prepare(Options{Dir: d.Path}); !errors.Is(err, ErrInUse) {
		t.Errorf("error is %v, want ErrInUse", err)
	}
	done(t, d)
	done(t, prepare(t, Options{Dir: d.Path}))
}

// Tokens are made anew when less than half of their life is left.
func TestTokensAreRenewed(t *testing.T) {
	t.Parallel()
	dir, now := filepath.Join(t.TempDir(), "kh"), time.Now()
	at := func(d time.Duration) Options {
		return Options{Dir: dir, Now: func() time.Time { return now.Add(d) }}
	}
	done(t, prepare(t, at(0)))
	first := contents(t, dir)[AdminToken]
	done(t, prepare(t, at(11*time.Hour)))
	if contents(t, dir)[AdminToken] != first {
		t.Error("renewed with 13 hours left")
	}
	d := prepare(t, at(13*time.Hour))
	done(t, d)
	if contents(t, dir)[AdminToken] == first {
		t.Error("not renewed with 11 hours left")
	}
	if want := now.Add(37 * time.Hour).Truncate(time.Second); !d.Expires.Equal(want) {
		t.Errorf("Expires = %v, want %v", d.Expires, want)
	}
	if err := os.WriteFile(filepath.Join(dir, AgentToken), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	done(t, prepare(t, at(13*time.Hour)))
	if contents(t, dir)[AgentToken] == "garbage" {
		t.Error("garbage is kept for a token")
	}
}

func TestCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	dir, now := filepath.Join(t.TempDir(), "kh"), time.Now()
	at := func(d time.Duration) Options {
		return Options{Dir: dir, Now: func() time.Time { return now.Add(d) }}
	}
	done(t, prepare(t, at(0)))
	before := contents(t, dir)
	done(t, prepare(t, at(certLifetime-certLeft-time.Hour)))
	if contents(t, dir)["server.crt"] != before["server.crt"] {
		t.Error("the server's certificate was renewed too early")
	}
	done(t, prepare(t, at(certLifetime-certLeft+time.Hour)))
	after := contents(t, dir)
	for _, name := range []string{"server.crt", "admin.crt", "agent.crt"} {
		if after[name] == before[name] {
			t.Errorf("%s was not renewed", name)
		}
	}
	if after["ca.crt"] != before["ca.crt"] {
		t.Error("the CA was renewed")
	}
	done(t, prepare(t, at(caLifetime)))
	if contents(t, dir)["ca.crt"] == before["ca.crt"] {
		t.Error("the CA was not renewed")
	}
	p, err := tls.LoadX509KeyPair(filepath.Join(dir, "agent.crt"), filepath.Join(dir, "agent.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(contents(t, dir)["ca.crt"]))
	if _, err := p.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now.Add(caLifetime), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("the new CA did not issue the client certificates: %v", err)
	}
}

// The server's certificate names whatever the gateway listens on.
func TestListenNames(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	names := func(listen string) *x509.Certificate {
		done(t, prepare(t, Options{Dir: dir, Listen: listen}))
		p, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"))
		if err != nil {
			t.Fatal(err)
		}
		return p.Leaf
	}
	for listen, host := range map[string]string{
		"127.0.0.1:8443": "localhost", "[::1]:8443": "::1", "192.0.2.7:8443": "192.0.2.7", "gateway.example:8443": "gateway.example",
	} {
		if err := names(listen).VerifyHostname(host); err != nil {
			t.Errorf("listening on %s: %v", listen, err)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if err := names(":8443").VerifyHostname(host); err != nil {
		t.Errorf("listening everywhere: %v", err)
	}
}

// The configuration is the user's after it was written; flags go before it.
func TestConfigurationIsKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	done(t, prepare(t, Options{Dir: dir, Listen: "127.0.0.1:1001", OpsListen: "127.0.0.1:1002"}))
	d := prepare(t, Options{Dir: dir})
	if d.Config.Listen != "127.0.0.1:1001" || d.Config.Ops.Listen != "127.0.0.1:1002" {
		t.Errorf("listens on %s and %s", d.Config.Listen, d.Config.Ops.Listen)
	}
	done(t, d)
	file := filepath.Join(dir, ConfigFile)
	edited := contents(t, dir)[ConfigFile] + "\nshutdown_grace: 3s\n"
	if err := os.WriteFile(file, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	d = prepare(t, Options{Dir: dir, Listen: "127.0.0.1:1003"})
	if d.Config.Listen != "127.0.0.1:1003" || d.Config.ShutdownGrace != 3*time.Second {
		t.Errorf("listens on %s, grace %s", d.Config.Listen, d.Config.ShutdownGrace)
	}
	done(t, d)
	if contents(t, dir)[ConfigFile] != edited {
		t.Error("the edited configuration was written over")
	}
	if err := os.WriteFile(file, []byte("node: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Prepare(Options{Dir: dir})
	if _, ok := errors.AsType[strictyaml.Errors](err); !ok {
		t.Errorf("error is %v, want strictyaml.Errors", err)
	}
}

// The policies do what they say.
func TestPolicies(t *testing.T) {
	t.Parallel()
	d := prepare(t, Options{Dir: t.TempDir()})
	defer done(t, d)
	policies, err := authz.LoadPolicies(d.Config.Policies.Files...)
	if err != nil {
		t.Fatal(err)
	}
	may := func(p authz.Principal, action string) bool {
		resource := authz.Resource{Type: authz.TypeKey, Name: "payments", Purpose: "sign"}
		switch action {
		case authz.ActionTrigger:
			resource = authz.Resource{Type: authz.TypeTrigger, Name: "deployed"}
		case authz.ActionRandom, authz.ActionListAgents, authz.ActionBlockAgent, authz.ActionListApprovals, authz.ActionReconcile,
			authz.ActionListWebhooks, authz.ActionRetryWebhook, authz.ActionReadAudit:
			resource = authz.Resource{Type: authz.TypeGateway, Name: "keyhole"}
		}
		return policies.Decide(authz.Request{Principal: p, Action: action, Resource: resource, Context: authz.Context{Method: p.Method}}).Allowed
	}
	admin, approver, agent := who(t, d, AdminToken), who(t, d, ApproverToken), who(t, d, AgentToken)
	agentActions := map[string]bool{
		authz.ActionSign: true, authz.ActionVerify: true, authz.ActionEncrypt: true, authz.ActionDecrypt: true, authz.ActionRewrap: true,
		authz.ActionDataKey: true, authz.ActionRandom: true, authz.ActionRead: true, authz.ActionJWKS: true, authz.ActionSubscribe: true,
	}
	for _, action := range authz.Actions() {
		for _, p := range []authz.Principal{admin, approver, {ID: "mtls:admin", Method: authz.MethodMTLS}} {
			if !may(p, action) {
				t.Errorf("%s may not %s", p.ID, action)
			}
		}
		for _, p := range []authz.Principal{agent, {ID: "mtls:agent", Method: authz.MethodMTLS}} {
			if may(p, action) != agentActions[action] {
				t.Errorf("%s: %s is %t", p.ID, action, !agentActions[action])
			}
		}
		for _, p := range []authz.Principal{authz.Anonymous(), {ID: "mtls:other", Method: authz.MethodMTLS}} {
			if may(p, action) {
				t.Errorf("%s may %s", p.ID, action)
			}
		}
	}
}

func TestServing(t *testing.T) {
	t.Parallel()
	d := prepare(t, Options{Dir: t.TempDir()})
	if err := d.Serving("https://127.0.0.1:1", "http://127.0.0.1:2"); err != nil {
		t.Fatal(err)
	}
	all := contents(t, d.Path)
	if all[AddressFile] != "https://127.0.0.1:1\n" || all[OpsFile] != "http://127.0.0.1:2\n" {
		t.Errorf("%q, %q", all[AddressFile], all[OpsFile])
	}
	done(t, d)
	if all := contents(t, d.Path); all[AddressFile] != "" || all[OpsFile] != "" {
		t.Error("the notes are left behind")
	}
}
