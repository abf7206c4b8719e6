package main

import (
	"database/sql"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // to put a newer schema into a store

	"keyhole/cmd/keyholed/internal/dev"
	"keyhole/cmd/keyholed/internal/exit"
)

// prepared makes a dev directory without starting anything in it.
func prepared(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "kh")
	d, err := dev.Prepare(dev.Options{Dir: dir, Listen: "127.0.0.1:0", OpsListen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Each kind of failure ends the start with its own status, says what is
// wrong and what to do, and shows no secret.
func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		spoil  func(t *testing.T, dir string)
		status int
		want   []string // parts of standard error
	}{
		{"wrong PIN", func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "user.pin"), "wrong-pin-5711\n")
		}, exit.PIN, []string{"PIN", "hint: the PIN was tried once and is not tried again"}},
		{"empty PIN file", func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "user.pin"), "\n")
		}, exit.Config, []string{"keyhole.yaml:24: tokens[0].pin_file: the PIN file is empty"}},
		{"no such module", func(t *testing.T, dir string) {
			module(t, dir, filepath.Join(dir, "nowhere.so"))
		}, exit.Config, []string{"keyhole.yaml:22: tokens[0].module", "nowhere.so does not exist"}},
		{"module that is no library", func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "text.so"), "not a library")
			module(t, dir, filepath.Join(dir, "text.so"))
		}, exit.HSM, []string{"text.so", "hint: check tokens[].module"}},
		{"no such token", func(t *testing.T, dir string) {
			configure(t, dir, `    label: "keyhole-dev"`, `    label: elsewhere`)
		}, exit.HSM, []string{"elsewhere", "hint: "}},
		{"token not initialised", func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "tokens")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, exit.HSM, []string{"initialise one", "hint: "}},
		{"newer schema", func(t *testing.T, dir string) {
			p := serve(t, dir)
			p.stop()
			db, err := sql.Open("sqlite", filepath.Join(dir, "keyhole.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.ExecContext(t.Context(), "INSERT INTO schema_version (version, name) VALUES (9999, 'later')"); err != nil {
				t.Fatal(err)
			}
		}, exit.Store, []string{"schema version 9999"}},
		{"store that is no database", func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "keyhole.db"), strings.Repeat("not a database. ", 100))
		}, exit.Store, []string{"keyhole.db"}},
		{"audit log that is no directory", func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "audit"), "")
		}, exit.Audit, []string{"audit", "hint: "}},
		{"audit log in use", func(t *testing.T, dir string) {
			if p := serve(t, dir); p.api == "" {
				t.Fatal("the first does not serve")
			}
		}, exit.Audit, []string{"hint: another keyholed runs on this audit directory"}},
		{"port in use", func(t *testing.T, dir string) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			configure(t, dir, `listen: "127.0.0.1:0"`, "listen: "+l.Addr().String())
		}, exit.Listen, []string{"is in use by another process", "hint: "}},
		{"policy that does not parse", func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "policies", "agent.cedar"), "permit (principal action resource);")
		}, exit.Config, []string{"keyhole.yaml:41: policies", "agent.cedar:1"}},
		{"certificate of another key", func(t *testing.T, dir string) {
			configure(t, dir, "key_file: server.key", "key_file: agent.key")
		}, exit.Config, []string{"keyhole.yaml:8: tls", "server.crt", "agent.key"}},
		{"several mistakes", func(t *testing.T, dir string) {
			configure(t, dir, "max_lifetime: 24h", "max_lifetime: 24")
			configure(t, dir, "node: dev", "nod: dev")
		}, exit.Config, []string{"keyhole.yaml:5: nod:", "keyhole.yaml:39: auth.issuers[0].max_lifetime", "hint: nothing was started"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := prepared(t)
			pin := strings.TrimSpace(read(t, dir, "user.pin")["user.pin"])
			tt.spoil(t, dir)
			p := serve(t, dir)
			if p.api != "" {
				t.Fatalf("it serves %s", p.api)
			}
			if status := p.wait(); status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			log := p.log.String()
			for _, want := range tt.want {
				if !strings.Contains(log, want) {
					t.Errorf("standard error does not say %q", want)
				}
			}
			for _, secret := range []string{pin, "wrong-pin-5711"} {
				if strings.Contains(log, secret) {
					t.Errorf("standard error shows the secret %q", secret)
				}
			}
			if t.Failed() {
				t.Logf("standard error:\n%s", log)
			}
		})
	}
}

// A second `keyholed dev` in a directory is told so.
func TestDevInUse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	p := devGateway(t, dir)
	second := start(t, "dev", "--dir", dir, "--listen", "127.0.0.1:0")
	if status := second.wait(); status != exit.Config || !strings.Contains(second.log.String(), "another keyholed dev uses the directory") {
		t.Errorf("status %d:\n%s", status, second.log)
	}
	if err := canSign(t.Context(), p.caller(dir, "agent.jwt"), "nothing"); err == nil {
		t.Error("there is no key, yet it signs")
	}
	p.stop()
}

func configure(t *testing.T, dir, old, new string) {
	t.Helper()
	replace(t, filepath.Join(dir, "keyhole.yaml"), old, new)
}

// module names another PKCS#11 library.
func module(t *testing.T, dir, path string) {
	t.Helper()
	file := filepath.Join(dir, "keyhole.yaml")
	lines := strings.Split(read(t, dir, "keyhole.yaml")["keyhole.yaml"], "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "    module: ") {
			lines[i] = "    module: " + path
		}
	}
	put(t, file, strings.Join(lines, "\n"))
}
