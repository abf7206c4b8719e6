package main

import (
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/gateway/api"
	"keyhole/store/postgrestest"
)

// lived makes a dev directory with SQLite in which something has happened,
// and what was encrypted there.
func lived(t *testing.T) (dir, sealed string) {
	t.Helper()
	dir = prepared(t)
	p := gateway(t, dir)
	admin := p.caller(dir, "admin.jwt")
	createKey(t, admin, "payments", "ES256")
	createKey(t, admin, "vault", "A256GCM")
	if _, err := admin.Rotate(t.Context(), "vault", api.RotateRequest{}); err != nil {
		t.Fatal(err)
	}
	e, err := p.caller(dir, "agent.jwt").Encrypt(t.Context(), "vault", api.EncryptRequest{Plaintext: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	p.stop()
	return dir, e.Ciphertext
}

// target is the command line that copies a dev directory's database.
func target(dir string, db *postgrestest.Database, more ...string) []string {
	return append([]string{"migrate", "--config", filepath.Join(dir, "keyhole.yaml"), "--to", db.TLSURL, "--password-file", db.PasswordFile, "--ca-file", db.Server.CAFile}, more...)
}

// A gateway's database is copied as its operator is told to, the lines that
// are shown are put into keyhole.yaml, and the gateway goes on.
func TestMigrate(t *testing.T) {
	t.Parallel()
	dir, sealed := lived(t)
	db := postgrestest.Shared(t).Database(t)

	running := gateway(t, dir)
	if status, _, errs := toTheEnd(t, target(dir, db)...); status != exit.Audit && status != exit.Store || !strings.Contains(errs, "hint: stop the gateway first") {
		t.Errorf("beside a gateway: status %d\n%s", status, errs)
	}
	running.signal(syscall.SIGKILL) // what it was counts as running in the database
	running.wait()

	status, out, errs := toTheEnd(t, target(dir, db, "--dry-run")...)
	if status != exit.OK || !strings.Contains(out, "3 keys with 4 versions would be copied") || strings.Contains(out+errs, db.Password) {
		t.Errorf("--dry-run: status %d\n%s%s", status, out, errs)
	}
	for range 2 { // the second time it is there already
		status, out, errs = toTheEnd(t, target(dir, db)...)
		if status != exit.OK || !strings.Contains(out, "3 keys, ") || strings.Contains(out+errs, db.Password) {
			t.Fatalf("status %d\n%s%s", status, out, errs)
		}
	}
	if n := audited(t, dir, `"action":"migrate"`, `"outcome":"ok"`); n != 2 {
		t.Errorf("it is recorded %d times", n)
	}
	lines := regexp.MustCompile(`(?s)\nstore:\n  postgres:\n(    [a-z_]+: "[^"\n]+"\n)+`).FindString(out)
	configure(t, dir, "store:\n  sqlite: keyhole.db\n", strings.TrimPrefix(lines, "\n"))
	p := gateway(t, dir)
	if err := canSign(t.Context(), p.caller(dir, "agent.jwt"), "payments"); err != nil {
		t.Error(err)
	}
	if d, err := p.caller(dir, "agent.jwt").Decrypt(t.Context(), "vault", api.DecryptRequest{Ciphertext: sealed}); err != nil || string(d.Plaintext) != "secret" {
		t.Errorf("what was encrypted before: %q, %v", d.Plaintext, err)
	}
	createKey(t, p.caller(dir, "admin.jwt"), "new", "ES256")
	p.stop()
	status, _, errs = toTheEnd(t, "migrate", "--config", filepath.Join(dir, "keyhole.yaml"), "--from", filepath.Join(dir, "keyhole.db"))
	if status != exit.Store || !strings.Contains(errs, "not empty") {
		t.Errorf("into a database in use: status %d\n%s", status, errs)
	}
}

// What cannot be copied is refused with what to do, and leaves the target as
// it was.
func TestMigrateRefuses(t *testing.T) {
	t.Parallel()
	dir, _ := lived(t)
	db := postgrestest.Shared(t).Database(t)
	file := filepath.Join(dir, "keyhole.yaml")
	secret := strings.Replace(db.TLSURL, "@", ":s3cr3t@", 1)
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"nowhere", []string{"migrate", "--config", file}, exit.Config, "say with --to where to copy it"},
		{"from what", []string{"migrate", "--config", file, "--to", db.TLSURL, "--from", "x.db"}, exit.Config, "leave out --from"},
		{"a password", []string{"migrate", "--config", file, "--to", secret}, exit.Config, "holds a password"},
		{"no password", []string{"migrate", "--config", file, "--to", db.TLSURL, "--ca-file", db.Server.CAFile}, exit.Store, "password"},
		{"no CA", []string{"migrate", "--config", file, "--to", db.TLSURL, "--password-file", db.PasswordFile}, exit.Store, "ca_file"},
		{"no database", target(dir, db, "--to", strings.Replace(db.TLSURL, db.Name, "nothing", 1)), exit.Store, "there is no database"},
	} {
		for _, dry := range []bool{false, true} {
			args := tt.args
			if dry {
				args = append(args[:len(args):len(args)], "--dry-run")
			}
			if status, out, errs := toTheEnd(t, args...); status != tt.status || !strings.Contains(errs, tt.says) || strings.Contains(out+errs, "s3cr3t") || strings.Contains(errs, db.Password) {
				t.Errorf("%s, dry run %v: status %d, want %d\n%s%s", tt.name, dry, status, tt.status, out, errs)
			}
		}
	}

	// Somebody has altered a key.
	alterSQLite(t, dir, "UPDATE keys SET description = 'mine' WHERE name = 'payments'")
	for _, dry := range []bool{true, false} {
		args := target(dir, db)
		if dry {
			args = append(args, "--dry-run")
		}
		if status, _, errs := toTheEnd(t, args...); status != exit.Store || !strings.Contains(errs, "payments") || !strings.Contains(errs, "adopt") {
			t.Errorf("an altered key, dry run %v: status %d\n%s", dry, status, errs)
		}
	}
	if status, out, errs := toTheEnd(t, target(dir, db, "--leave-out-altered")...); status != exit.OK || !strings.Contains(out, `Left out, because it was altered: key "payments"`) {
		t.Errorf("left out: status %d\n%s%s", status, out, errs)
	}
	onPostgres(t, dir, db)
	if status, out, errs := toTheEnd(t, "adopt", "--config", file); status != exit.OK || !strings.Contains(out, "payments.v1") {
		t.Errorf("adopt after it: status %d\n%s%s", status, out, errs)
	}
	p := gateway(t, dir)
	if err := canSign(t.Context(), p.caller(dir, "agent.jwt"), "payments"); err != nil {
		t.Error(err)
	}
	p.stop()
}

// Ctrl-C while it waits for the target leaves it empty, and it works after.
func TestMigrateStopped(t *testing.T) {
	t.Parallel()
	dir, _ := lived(t)
	server := postgrestest.Start(t, postgrestest.Options{})
	db := server.Database(t)
	if status, out, errs := toTheEnd(t, target(dir, db, "--dry-run")...); status != exit.OK { // makes the tables
		t.Fatalf("status %d\n%s%s", status, out, errs)
	}
	admin := db.Admin(t)
	tx, err := admin.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(t.Context(), "LOCK TABLE events IN ACCESS EXCLUSIVE MODE"); err != nil { // copied last
		t.Fatal(err)
	}
	p := launch(t, target(dir, db)...)
	eventually(t, "it waits for a lock", func() bool {
		var n int
		err := tx.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted").Scan(&n)
		return err == nil && n > 0
	})
	p.signal(syscall.SIGINT)
	if status := p.wait(); status != exit.Failure || !strings.Contains(p.log.String(), "nothing was copied") {
		t.Errorf("status %d, want %d\n%s", status, exit.Failure, p.log)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := admin.QueryRowContext(t.Context(), "SELECT count(*) FROM keys").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d keys are there, %v", n, err)
	}
	if status, out, errs := toTheEnd(t, target(dir, db)...); status != exit.OK {
		t.Errorf("after it: status %d\n%s%s", status, out, errs)
	}
}
