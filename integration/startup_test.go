package integration

import (
	"database/sql"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // to put a newer schema into a store

	"keyhole/softhsm"
)

// What makes a start impossible ends the program with the status of its kind
// and says what is wrong, where and what to do; nothing is lost by it, and no
// secret shown.
func TestStartsThatFail(t *testing.T) {
	g := newGateway(t)
	kept := g.create("payments", "ES256", 0)
	g.stop()
	config := g.line("keyhole.yaml") + "\n"
	replaced := func(old, new string) func(*testing.T) string {
		return func(t *testing.T) string {
			if !strings.Contains(config, old) {
				t.Fatalf("keyhole.yaml does not hold %q", old)
			}
			return strings.Replace(config, old, new, 1)
		}
	}
	install, err := softhsm.Find()
	must(t, err)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer busy.Close()
	write(t, g.path("wrong.pin"), "wrong-pin-5711\n")
	must(t, os.Mkdir(g.path("none"), 0o700))
	write(t, g.path("none.conf"), "directories.tokendir = "+g.path("none")+"\nobjectstore.backend = file\n")

	for _, tt := range []struct {
		name   string
		config func(t *testing.T) string
		status int
		says   []string
	}{
		{"no such module", replaced(`"`+install.Module+`"`, "/nonexistent/pkcs11.so"), 2, []string{"/nonexistent/pkcs11.so", "does not exist", "keyhole.yaml:"}},
		{"token not initialised", replaced(g.path("softhsm2.conf"), g.path("none.conf")), 3, []string{"initialise one", "softhsm2-util --init-token"}},
		{"wrong PIN", replaced("user.pin", "wrong.pin"), 4, []string{"PIN", "hint: the PIN was tried once and is not tried again"}},
		{"newer schema", func(t *testing.T) string {
			newer(t, g.path("keyhole.db"), g.path("newer.db"))
			return strings.Replace(config, "keyhole.db", "newer.db", 1)
		}, 5, []string{"schema version 9999"}},
		{"port in use", replaced("listen: \"127.0.0.1:0\"", "listen: "+busy.Addr().String()), 7, []string{busy.Addr().String(), "in use"}},
		{"unknown key in the file", replaced("pin_file", "pin_fiel"), 2, []string{"keyhole.yaml:", "pin_fiel", "pin_file"}},
		{"number without a unit", replaced("max_lifetime: 24h", "max_lifetime: 24"), 2, []string{"keyhole.yaml:", "max_lifetime", "unit"}},
		{"PIN in the file", replaced("pin_file: user.pin", "pin: 1234"), 2, []string{"keyhole.yaml:", "pin"}},
		{"no audit directory", replaced("  dir: audit", "  dir: "), 2, []string{"keyhole.yaml:", "audit.dir"}},
		{"symmetric token algorithm", replaced("[ES256]", "[HS256]"), 2, []string{"keyhole.yaml:", "HS256"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := run(t, nil, "serve", "--config", write(t, g.path("keyhole.yaml"), tt.config(t)))
			if status := p.wait(); status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			said := p.stderr.String()
			for _, part := range tt.says {
				if !strings.Contains(said, part) {
					t.Errorf("it does not say %q:\n%s", part, said)
				}
			}
			if strings.Contains(said+p.stdout.String(), "wrong-pin-5711") || strings.Contains(said, g.line("user.pin")) {
				t.Errorf("it shows a PIN:\n%s", said)
			}
			if strings.Contains(said, "goroutine ") {
				t.Errorf("it panics:\n%s", said)
			}
		})
	}

	for _, tt := range []struct {
		args string
		says string
	}{
		{"serve --pin 1234", "unknown flag: --pin"},
		{"dev --dri x", "did you mean --dir?"},
		{"serve", "--config"},
		{"serve --config /nonexistent/keyhole.yaml", "/nonexistent/keyhole.yaml"},
		{"frobnicate", "unknown command"},
	} {
		p := run(t, nil, strings.Fields(tt.args)...)
		if status := p.wait(); status != 2 || !strings.Contains(p.stderr.String(), tt.says) || p.stdout.String() != "" {
			t.Errorf("keyholed %s: status %d, want 2 and %q: %s%s", tt.args, status, tt.says, p.stdout, p.stderr)
		}
	}

	write(t, g.path("keyhole.yaml"), config)
	g.start()
	if k, err := g.as(agent).Key(t.Context(), "payments"); err != nil || k.Versions[0].PublicKey != kept.Versions[0].PublicKey {
		t.Errorf("after all that: %+v, %v", k, err)
	}
	g.stop()
}

// newer copies a database and lets the copy be one of a later release.
func newer(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	write(t, to, string(data))
	db, err := sql.Open("sqlite", to)
	must(t, err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), "INSERT INTO schema_version (version, name) VALUES (9999, 'later')")
	must(t, err)
}

// A second gateway on the directory, the audit log or the database of a running
// one is refused, and the running one is not disturbed. (On one database each
// would take the other's rotations for interrupted ones, and undo them.)
func TestSecondGateway(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	otherAudit := write(t, g.path("second.yaml"), strings.Replace(g.line("keyhole.yaml"), "dir: audit", "dir: second-audit", 1)+"\n")
	for _, tt := range []struct {
		name   string
		args   []string
		status int
	}{
		{"directory", []string{"dev", "--dir", g.dir, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"}, 2},
		{"audit log", []string{"serve", "--config", g.path("keyhole.yaml")}, 6},
		{"database", []string{"serve", "--config", otherAudit}, 5},
	} {
		second := run(t, nil, tt.args...)
		eventually(t, "it ends or serves", func() bool {
			select {
			case <-second.done:
				return true
			default:
				return second.stdout.String() != ""
			}
		})
		if out := second.stdout.String(); out != "" {
			t.Errorf("same %s: %s", tt.name, out)
			continue
		}
		if status := second.wait(); status != tt.status || !strings.Contains(second.stderr.String(), "another keyholed") {
			t.Errorf("same %s: status %d, want %d: %s", tt.name, status, tt.status, second.stderr)
		}
	}
	g.post(agent, "/v1/keys/payments/sign", `{"payload":""}`).want(200)
	if g.line("keyhole.addr") != g.api {
		t.Errorf("keyhole.addr says %q while %s serves", g.line("keyhole.addr"), g.api)
	}
	g.kill() // leaves nothing that keeps the next one out
	g.start()
	g.stop()
}

// spied lets the gateway reach its token through OpenSC's pkcs11-spy, which
// writes every call down. It returns what counts the calls of a function so
// far.
func (g *gateway) spied(t *testing.T) func(function string) int {
	t.Helper()
	install, err := softhsm.Find()
	must(t, err)
	return g.spiedModule(t, install.Module)
}

func (g *gateway) spiedModule(t *testing.T, module string) func(function string) int {
	t.Helper()
	install, err := softhsm.Find()
	must(t, err)
	trace := filepath.Join(t.TempDir(), "spy.log")
	g.edit("keyhole.yaml", `"`+install.Module+`"`, library(t, "pkcs11-spy.so"))
	g.edit("keyhole.yaml", "module_env:", "module_env:\n  PKCS11SPY: "+module+"\n  PKCS11SPY_OUTPUT: "+trace)
	return func(function string) int {
		text, err := os.ReadFile(trace)
		must(t, err)
		return len(regexp.MustCompile(`(?m)^\d+: `+function+`$`).FindAll(text, -1))
	}
}

// library finds a PKCS#11 module where distributions put it.
func library(t *testing.T, name string) string {
	t.Helper()
	for _, place := range []string{"/usr/lib/*/pkcs11/", "/usr/lib/*/", "/usr/lib64/pkcs11/", "/usr/lib64/", "/usr/lib/pkcs11/", "/usr/lib/"} {
		found, err := filepath.Glob(place + name)
		must(t, err)
		if len(found) > 0 {
			return found[0]
		}
	}
	t.Fatalf("there is no %s; `make deps` installs what the tests need", name)
	return ""
}

// A wrong PIN is tried once. A token that counts would lock after a few.
func TestWrongPINIsTriedOnce(t *testing.T) {
	g := stopped(t)
	calls := g.spied(t)
	g.put("user.pin", "wrong-pin-5711\n")
	p := run(t, nil, "serve", "--config", g.path("keyhole.yaml"))
	if status := p.wait(); status != 4 {
		t.Errorf("status %d, want 4: %s", status, p.stderr)
	}
	if n := calls("C_Login"); n != 1 {
		t.Errorf("%d calls of C_Login, want 1", n)
	}
}

// Signing, encrypting and decrypting ask the token for nothing but that: no
// object is searched for, no attribute read, no session opened and nobody
// logged in per request.
func TestCallsPerRequest(t *testing.T) {
	g := stopped(t)
	calls := g.spied(t)
	g.start()
	g.create("payments", "ES256", 0)
	g.create("vault", "A256GCM", 0)
	work := func() {
		for range 30 {
			g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`).want(200)
			sealed := g.post(agent, "/v1/keys/vault/encrypt", `{"plaintext":"aGVsbG8="}`).want(200)
			g.post(agent, "/v1/keys/vault/decrypt", string(sealed.only("ciphertext"))).want(200)
		}
	}
	work() // sessions are opened as they are needed
	want := map[string]int{
		"C_SignInit": 30, "C_EncryptInit": 30, "C_DecryptInit": 30,
		"C_FindObjectsInit": 0, "C_GetAttributeValue": 0, "C_OpenSession": 0, "C_Login": 0,
	}
	// The canary works besides, and once an hour the token is compared with the
	// database: of a few rounds one must be without either.
	var wrong []string
	for range 5 {
		before := map[string]int{}
		for f := range want {
			before[f] = calls(f)
		}
		work()
		wrong = nil
		for f, want := range want {
			if n := calls(f) - before[f]; n < want || n > want && want == 0 || n > want+5 {
				wrong = append(wrong, fmt.Sprintf("30 requests of each kind called %s %d times, want %d", f, n, want))
			}
		}
		if wrong == nil {
			break
		}
	}
	for _, w := range wrong {
		t.Error(w)
	}
	g.stop()
}
