package postgrestest

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// answers asks a server for an answer, through its owner's connection.
func answers(tb testing.TB, ctx context.Context, d *Database, url string) error {
	tb.Helper()
	c, err := pgx.ParseConfig(url)
	if err != nil {
		tb.Fatal(err)
	}
	c.Password = d.Password
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var n int
	return conn.QueryRow(ctx, "SELECT 1").Scan(&n)
}

func TestShared(t *testing.T) {
	t.Parallel()
	s := Shared(t)
	if s != Shared(t) {
		t.Error("two servers are shared")
	}
	one, two := s.Database(t), s.Database(t)
	if one.Name == two.Name || one.User == two.User {
		t.Errorf("one database for two: %+v, %+v", one, two)
	}
	for _, url := range []string{one.URL, one.SocketURL, one.TLSURL + "&sslrootcert=" + s.CAFile} {
		if err := answers(t, t.Context(), one, url); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	var owner string
	if err := one.Admin(t).QueryRowContext(t.Context(), "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()").Scan(&owner); err != nil || owner != one.User {
		t.Errorf("the owner is %s, %v", owner, err)
	}
	if info, err := os.Stat(one.PasswordFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestOutages(t *testing.T) {
	t.Parallel()
	var dir string
	t.Run("server", func(t *testing.T) {
		s := Start(t, Options{})
		d := s.Database(t)
		dir = s.dir
		for what, end := range map[string]func(testing.TB){"stopped": s.Stop, "crashed": s.Crash} {
			end(t)
			if err := answers(t, t.Context(), d, d.URL); err == nil {
				t.Errorf("%s, and it answers", what)
			}
			s.Start(t)
			if err := answers(t, t.Context(), d, d.URL); err != nil {
				t.Errorf("%s and started: %v", what, err)
			}
		}
		s.Pause(t)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := answers(t, ctx, d, d.URL); err == nil {
			t.Error("paused, and it answers")
		}
		s.Resume(t)
		if err := answers(t, t.Context(), d, d.URL); err != nil {
			t.Errorf("resumed: %v", err)
		}
		s.Pause(t) // and so it is when the test ends
	})
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the server's directory is left: %v", err)
	}
}
