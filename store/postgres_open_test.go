package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/postgrestest"
	"keyhole/store/storetest"
)

// TestURLs: what is not safe, or cannot be, is refused before anything is
// sent, with words that help, and without showing a password.
func TestURLs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const secret = "hunter2hunter2"
	for _, tt := range []struct {
		c     store.PostgresConfig
		words string
	}{
		{store.PostgresConfig{URL: ""}, "postgres://"},
		{store.PostgresConfig{URL: "mysql://u@h/db"}, "postgres://"},
		{store.PostgresConfig{URL: "host=h user=u dbname=db password=" + secret}, "postgres://"},
		{store.PostgresConfig{URL: "postgres://u:" + secret + "@h/db"}, "password_file"},
		{store.PostgresConfig{URL: "postgres://u:@h/db"}, "password_file"},
		{store.PostgresConfig{URL: "postgres://u@h/db?password=" + secret}, "password_file"},
		{store.PostgresConfig{URL: "postgres://u@h:" + secret + "/db"}, "postgres://"},
		{store.PostgresConfig{URL: "postgres://u@h/db?sslpassword=" + secret}, "parameter"},
		{store.PostgresConfig{URL: "postgres://u@h/db?passfile=/etc/passwd"}, "parameter"},
		{store.PostgresConfig{URL: "postgres://u@h/db?options=-c%20fsync=off"}, "parameter"},
		{store.PostgresConfig{URL: "postgres://u@h/db?sslmode=disable&sslmode=verify-full"}, "twice"},
		{store.PostgresConfig{URL: "postgres://u@h/db?sslrootcert=/ca"}, "ca_file"},
		{store.PostgresConfig{URL: "postgres://h/db"}, "user"},
		{store.PostgresConfig{URL: "postgres://u@/db"}, "host"},
		{store.PostgresConfig{URL: "postgres://u@h/"}, "database"},
		{store.PostgresConfig{URL: "postgres://u@h/db?sslmode=disable"}, "verify-full"},
		{store.PostgresConfig{URL: "postgres://u@127.0.0.1,10.0.0.1/db?sslmode=disable"}, "verify-full"},
		{store.PostgresConfig{URL: "postgres://u@localhost.example.com/db?sslmode=disable"}, "verify-full"},
		{store.PostgresConfig{URL: "postgres://u@h/db?sslmode=require"}, "verify-full"},
		{store.PostgresConfig{URL: "postgres://u@h/db?sslmode=verify-ca"}, "verify-full"},
		{store.PostgresConfig{URL: "postgres://u@127.0.0.1/db?sslmode=prefer"}, "verify-full"},
		{store.PostgresConfig{URL: "postgres://u@127.0.0.1/db?sslmode=disable", CAFile: empty}, "ca_file"},
		{store.PostgresConfig{URL: "postgres://u@h/db", CAFile: empty}, empty},
		{store.PostgresConfig{URL: "postgres://u@h/db", CAFile: dir + "/none"}, dir + "/none"},
		{store.PostgresConfig{URL: "postgres://u@h/db", CertFile: empty}, "key_file"},
		{store.PostgresConfig{URL: "postgres://u@h/db", CertFile: empty, KeyFile: empty}, empty},
		{store.PostgresConfig{URL: "postgres://u@h/db", Password: func() ([]byte, error) { return nil, fs.ErrNotExist }}, "password_file"},
	} {
		_, err := store.OpenPostgres(t.Context(), tt.c, seal)
		operator(t, tt.c.URL, err, tt.words)
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the password is shown: %v", err)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	d := postgrestest.Shared(t).Database(t)
	c := config(d)
	c.URL, c.CAFile = d.TLSURL, d.Server.CAFile
	s := postgresAt(t, c)
	closeAtEnd(t, s)
	var inTLS bool
	err := d.Admin(t).QueryRowContext(t.Context(), "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = $1", d.User).Scan(&inTLS)
	if err != nil || !inTLS {
		t.Errorf("that all connections have TLS is %v, %v", inTLS, err)
	}
	c.URL = strings.TrimSuffix(d.TLSURL, "?sslmode=verify-full") // is what a ca_file means
	closeAtEnd(t, postgresAt(t, c))

	c.CAFile = ""
	closeAtEnd(t, postgresAt(t, c)) // without a word of TLS, on a loopback address
	c.URL = d.TLSURL
	_, err = store.OpenPostgres(t.Context(), c, seal)
	operator(t, "a CA of nobody", err, "ca_file")
	// Whoever sits between has another name than the server's certificate.
	c.CAFile, c.URL = d.Server.CAFile, strings.Replace(d.TLSURL, d.Server.Addr, newCutter(t, d.Server.Addr).Addr().String(), 1)
	_, err = store.OpenPostgres(t.Context(), c, seal)
	operator(t, "another name", err, "another name")
}

// TestUnusableDatabases: the operator is told what is wrong.
func TestUnusableDatabases(t *testing.T) {
	t.Parallel()
	server := postgrestest.Shared(t)
	d := server.Database(t)
	open := func(change func(c *store.PostgresConfig)) error {
		c := config(d)
		change(&c)
		s, err := store.OpenPostgres(t.Context(), c, seal)
		if err == nil {
			closeAtEnd(t, s)
		}
		return err
	}
	parts, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(u *url.URL)) func(c *store.PostgresConfig) {
		u := *parts
		change(&u)
		return func(c *store.PostgresConfig) { c.URL = u.String() }
	}
	admin := d.Admin(t)
	exec := func(query string) {
		t.Helper()
		if _, err := admin.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	operator(t, "a wrong password", open(func(c *store.PostgresConfig) { c.Password = func() ([]byte, error) { return []byte("wrong"), nil } }), "password", d.User)
	operator(t, "no password", open(func(c *store.PostgresConfig) { c.Password = nil }), "password")
	operator(t, "no database", open(with(func(u *url.URL) { u.Path = "nowhere" })), `"nowhere"`, "CREATE DATABASE", "UTF8")
	operator(t, "no user", open(with(func(u *url.URL) { u.User = url.User("nobody_here") })), "nobody_here")
	operator(t, "no host", open(with(func(u *url.URL) { u.Host, u.RawQuery = "keyhole.invalid:5432", "sslmode=verify-full" })), "keyhole.invalid")
	operator(t, "no server", open(with(func(u *url.URL) { u.Host = strings.Replace(u.Host, ":5432", ":1", 1) })), "nobody listens")
	operator(t, "no socket", open(with(func(u *url.URL) { u.Host, u.RawQuery = "", "host="+url.QueryEscape(t.TempDir()) })), "nobody listens")

	exec(fmt.Sprintf("CREATE DATABASE %s_latin OWNER %s ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0", d.Name, d.User))
	t.Cleanup(func() {
		if _, err := admin.ExecContext(context.WithoutCancel(t.Context()), fmt.Sprintf("DROP DATABASE %s_latin WITH (FORCE)", d.Name)); err != nil {
			t.Error(err)
		}
	})
	operator(t, "another encoding", open(with(func(u *url.URL) { u.Path += "_latin" })), "UTF8")

	exec("CREATE TABLE keys (id INTEGER)")
	operator(t, "another program's table", open(func(*store.PostgresConfig) {}), "another program", d.Name)
	exec("ALTER TABLE keys RENAME TO schema_version")
	operator(t, "another program's versions", open(func(*store.PostgresConfig) {}), "another program", d.Name)
	exec("DROP TABLE schema_version")
	exec("REVOKE CREATE ON SCHEMA public FROM pg_database_owner")
	operator(t, "no right to make tables", open(func(*store.PostgresConfig) {}), "owner")
	exec("GRANT CREATE ON SCHEMA public TO pg_database_owner")
	exec("ALTER ROLE " + d.User + " SET search_path = nowhere")
	operator(t, "no schema", open(func(*store.PostgresConfig) {}), "search_path")
	exec("ALTER ROLE " + d.User + " RESET search_path")
	exec("ALTER ROLE " + d.User + " SET default_transaction_read_only = on")
	operator(t, "no writes", open(func(*store.PostgresConfig) {}), "standby")
	exec("ALTER ROLE " + d.User + " RESET default_transaction_read_only")
	exec("CREATE EXTENSION pg_stat_statements") // a view of an extension is no table of a program
	if err := open(func(*store.PostgresConfig) {}); err != nil {
		t.Errorf("when all was mended: %v", err)
	}
	exec("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM " + d.User)
	exec("ALTER TABLE schema_version OWNER TO postgres")
	operator(t, "no right to read", open(func(*store.PostgresConfig) {}), "may not")
	_, err = store.OpenPostgres(t.Context(), config(d), []byte("short"))
	if !errors.Is(err, keys.ErrInternal) {
		t.Errorf("a short key: %v", err)
	}
}

// TestSettings are those that no other test would miss: what a session
// promises, whatever the defaults of the server are.
func TestSettings(t *testing.T) {
	t.Parallel()
	d := postgrestest.Shared(t).Database(t)
	admin := d.Admin(t)
	for _, set := range []string{"synchronous_commit = off", "default_transaction_isolation = 'read uncommitted'", "statement_timeout = 0"} {
		if _, err := admin.ExecContext(t.Context(), "ALTER ROLE "+d.User+" SET "+set); err != nil {
			t.Fatal(err)
		}
	}
	c := config(d)
	c.Timeout = 7 * time.Second
	s := postgresAt(t, c)
	closeAtEnd(t, s)
	for setting, want := range map[string]string{
		"synchronous_commit": "on", "statement_timeout": "7s", "idle_in_transaction_session_timeout": "7s", "application_name": "keyhole",
	} {
		if got := s.Ask(t, true, "SHOW "+setting); got != want {
			t.Errorf("%s is %s, want %s", setting, got, want)
		}
	}
}

// postgresMigrations are the program's own, with more behind them.
func postgresMigrations(t *testing.T, more ...string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	names, err := fs.Glob(store.Migrations, "migrations/postgres/*.sql")
	if err != nil || len(names) == 0 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(store.Migrations, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: text}
	}
	for i, text := range more {
		files[fmt.Sprintf("migrations/postgres/%04d_more.sql", schema+1+i)] = &fstest.MapFile{Data: []byte(text)}
	}
	return files
}

// schema is the version that the program knows.
const schema = 3

func TestPostgresMigrations(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, d := newPostgres(t)
	create(t, s, storetest.NewKey("payments", 2))
	for _, bad := range []string{"CREATE TABLE half (x INTEGER); CREATE TABLE keys (x INTEGER)", "CREATE TABLE half (x INTEGER); nonsense"} {
		if _, err := store.OpenPostgresWith(ctx, config(d), seal, postgresMigrations(t, "CREATE TABLE good (x INTEGER)", bad)); !errors.Is(err, keys.ErrStore) {
			t.Errorf("a bad migration: %v", err)
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := store.OpenPostgresWith(ctx, config(d), seal, postgresMigrations(t, "CREATE TABLE good (x INTEGER)", "CREATE TABLE half (x INTEGER)", "ALTER TABLE keys ADD COLUMN extra INTEGER"))
			if err == nil {
				err = s.Close()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, err := store.OpenPostgres(ctx, config(d), seal)
	operator(t, "an older program", err, "version 6", "up to 3")
	// Nor does a process go on when another one has migrated its store.
	operator(t, "committing", s.Commit(ctx, store.Change{Key: storetest.NewKey("other", 1)}), "version 6")
	_, _, err = s.Load(ctx)
	operator(t, "loading", err, "version 6")
	operator(t, "a heartbeat", s.Beat(ctx, keys.Node{Instance: "i", Name: "n"}, time.Hour), "version 6")
	operator(t, "readiness", s.Ping(ctx), "version 6")
	next, err := store.OpenPostgresWith(ctx, config(d), seal, postgresMigrations(t, "", "", ""))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, next)
	if k, err := next.Key(ctx, "payments"); err != nil || len(k.Versions) != 2 {
		t.Errorf("the key after the migrations: %+v, %v", k, err)
	}
}

// TestPostgresOpenAtOnce lets several processes begin a store at the same
// moment, and use it at once.
func TestPostgresOpenAtOnce(t *testing.T) {
	t.Parallel()
	const processes, rounds = 6, 3
	for range rounds {
		d := postgrestest.Shared(t).Database(t)
		var all []*exec.Cmd
		var start []io.WriteCloser
		for range processes {
			cmd := child(t, "open", d.URL)
			cmd.Env = append(cmd.Env, childPassword+"="+d.PasswordFile)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			all, start = append(all, cmd), append(start, in)
		}
		for _, in := range start {
			if _, err := io.WriteString(in, "go\n"); err != nil {
				t.Fatal(err)
			}
		}
		for _, cmd := range all {
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		}
		s := postgresAt(t, config(d))
		all2, revision, err := s.Load(t.Context())
		if err != nil || len(all2) != processes || revision != processes {
			t.Errorf("%d processes left %d keys at revision %d, %v", processes, len(all2), revision, err)
		}
		if blocked, err := s.Blocked(t.Context()); err != nil || len(blocked) != 0 {
			t.Errorf("blocked are %v, %v", blocked, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
