package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyhole/cmd/keyholed/internal/strictyaml"
)

// onPostgres is base with another store.
func onPostgres(lines string) string {
	return strings.Replace(base, "  sqlite: keyhole.db\n", lines, 1)
}

const goodURL = "    url: postgres://keyhole@db.example:5432/keyhole?sslmode=verify-full\n"

func TestPostgres(t *testing.T) {
	t.Parallel()
	dir := workspace(t)
	for _, f := range []string{"password", "client.crt", "client.key"} {
		write(t, filepath.Join(dir, f), "s3cr3t")
	}
	c, err := parse(filepath.Join(dir, "keyhole.yaml"), []byte(onPostgres("  postgres:\n"+goodURL+"    password_file: password\n    ca_file: ca.crt\n    cert_file: client.crt\n    key_file: client.key\n")))
	if err != nil {
		t.Fatal(err)
	}
	p := c.Store.Postgres
	if !c.Store.Shared() || p.PasswordFile != filepath.Join(dir, "password") || p.CAFile != filepath.Join(dir, "ca.crt") || p.CertFile != filepath.Join(dir, "client.crt") || p.KeyFile != filepath.Join(dir, "client.key") {
		t.Errorf("%+v", c.Store)
	}
	if c.Store.StartWait != time.Minute || c.ShutdownDelay != 5*time.Second {
		t.Errorf("defaults: %s, %s", c.Store.StartWait, c.ShutdownDelay)
	}
}

func TestStoreMistakes(t *testing.T) {
	t.Parallel()
	withURL := func(url string) string { return "  postgres:\n    url: \"" + url + "\"\n" }
	for _, tt := range []struct{ name, store, path, text string }{
		{"none", "  poll: 1s\n", "store", "either sqlite"},
		{"both", "  sqlite: keyhole.db\n  postgres:\n" + goodURL, "store", "either sqlite"},
		{"empty SQLite", "  sqlite: \"\"\n", "store.sqlite", "is missing"},
		{"no URL", "  postgres: {ca_file: ca.crt}\n", "store.postgres.url", "is missing"},
		{"password in the URL", withURL("postgres://keyhole:s3cr3t@db.example/keyhole"), "store.postgres.url", "password_file"},
		{"empty password in the URL", withURL("postgres://keyhole:@db.example/keyhole"), "store.postgres.url", "password_file"},
		{"password behind", withURL("postgres://keyhole@db.example/keyhole?password=s3cr3t"), "store.postgres.url", "password_file"},
		{"password spelled otherwise", withURL("postgres://keyhole@db.example/keyhole?pass%77ord=s3cr3t"), "store.postgres.url", "password_file"},
		{"password file in the URL", withURL("postgres://keyhole@db.example/keyhole?passfile=/s3cr3t"), "store.postgres.url", "password_file"},
		{"CA in the URL", withURL("postgres://keyhole@db.example/keyhole?sslrootcert=ca.crt"), "store.postgres.url", "ca_file"},
		{"password with @ and /", withURL("postgres://keyhole:s3cr3t@x@db.example/keyhole"), "store.postgres.url", "password_file"},
		{"words in place of a URL", withURL("host=db.example password=s3cr3t"), "store.postgres.url", "is no URL"},
		{"another URL", withURL("mysql://keyhole@db.example/s3cr3t"), "store.postgres.url", "is no URL"},
		{"no user", withURL("postgres://db.example/keyhole?sslmode=verify-full"), "store.postgres.url", "names no user"},
		{"no database", withURL("postgres://keyhole@db.example?sslmode=verify-full"), "store.postgres.url", "names no database"},
		{"semicolon", withURL("postgres://keyhole@db.example/keyhole?a;b"), "store.postgres.url", "behind '?'"},
		{"password in the file", "  postgres:\n" + goodURL + "    password: s3cr3t\n", "store.postgres.password", "password_file"},
		{"missing password file", "  postgres:\n" + goodURL + "    password_file: nowhere\n", "store.postgres.password_file", "does not exist"},
		{"certificate without a key", "  postgres:\n" + goodURL + "    cert_file: ca.crt\n", "store.postgres.cert_file", "goes with key_file"},
		{"patience", "  sqlite: keyhole.db\n  start_wait: 2h\n", "store.start_wait", "between"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := workspace(t)
			_, err := parse(filepath.Join(dir, "keyhole.yaml"), []byte(onPostgres(tt.store)))
			all, ok := errors.AsType[strictyaml.Errors](err)
			if !ok || len(all) != 1 || all[0].Path != tt.path || !strings.Contains(all[0].Text, tt.text) {
				t.Errorf("error is %v; want one about %s that says %q", err, tt.path, tt.text)
			}
			if err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestModesOfPostgresFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"password_file", "key_file"} {
		dir := workspace(t)
		write(t, filepath.Join(dir, "secret"), "s3cr3t")
		if err := os.Chmod(filepath.Join(dir, "secret"), 0o604); err != nil {
			t.Fatal(err)
		}
		_, err := parse(filepath.Join(dir, "keyhole.yaml"), []byte(onPostgres("  postgres:\n"+goodURL+"    cert_file: ca.crt\n    key_file: secret\n    password_file: secret\n")))
		if err == nil || !strings.Contains(err.Error(), "store.postgres."+name) || !strings.Contains(err.Error(), "chmod 0600") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A development gateway stops at once, unless it is told otherwise.
func TestShutdownDelayOfDevelopment(t *testing.T) {
	t.Parallel()
	dir := workspace(t)
	for text, want := range map[string]time.Duration{
		"development: true\n": 0, "development: true\nshutdown_delay: 2s\n": 2 * time.Second, "shutdown_delay: 0s\n": 0, "": 5 * time.Second,
	} {
		if c, err := parse(filepath.Join(dir, "keyhole.yaml"), []byte(base+text)); err != nil || c.ShutdownDelay != want {
			t.Errorf("%q: %v, %v; want %s", text, c.ShutdownDelay, err, want)
		}
	}
}
