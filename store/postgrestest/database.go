package postgrestest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// Database is an empty database and the role that owns it.
type Database struct {
	Server       *Server
	Name, User   string
	Password     string
	PasswordFile string // holds the password, mode 0600
	URL          string // over TCP, without TLS
	TLSURL       string // over TCP, with sslmode=verify-full: give Server.CAFile too
	SocketURL    string // over the unix socket
}

// Database makes a database for one test, and drops it at its end.
func (s *Server) Database(tb testing.TB) *Database {
	tb.Helper()
	n := s.databases.Add(1)
	d := &Database{Server: s, Name: fmt.Sprint("keyhole_", n), User: fmt.Sprint("gateway_", n), Password: rand.Text()}
	d.PasswordFile = filepath.Join(tb.TempDir(), "password")
	if err := os.WriteFile(d.PasswordFile, []byte(d.Password+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	tcp := url.URL{Scheme: "postgres", User: url.User(d.User), Host: s.Addr, Path: d.Name}
	d.URL, d.TLSURL = tcp.String()+"?sslmode=disable", tcp.String()+"?sslmode=verify-full"
	d.SocketURL = fmt.Sprintf("postgres://%s@/%s?host=%s&port=%d", d.User, d.Name, url.QueryEscape(s.SocketDir), port)
	s.admin(tb, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", d.User, d.Password),
		fmt.Sprintf("CREATE DATABASE %s OWNER %s ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0", d.Name, d.User))
	tb.Cleanup(func() {
		if s.shared { // another server goes with its databases
			s.admin(tb, "DROP DATABASE IF EXISTS "+d.Name+" WITH (FORCE)", "DROP ROLE IF EXISTS "+d.User)
		}
	})
	return d
}

// config is how the administrator comes to a database: by the socket, as
// superuser.
func (s *Server) config(tb testing.TB, database string) *pgx.ConnConfig {
	tb.Helper()
	c, err := pgx.ParseConfig(fmt.Sprintf("postgres://postgres@/%s?host=%s&port=%d&sslmode=disable", database, url.QueryEscape(s.SocketDir), port))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// admin runs statements as superuser.
func (s *Server) admin(tb testing.TB, statements ...string) {
	tb.Helper()
	ctx := context.WithoutCancel(tb.Context()) // also when the test has ended
	conn, err := pgx.ConnectConfig(ctx, s.config(tb, "postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			tb.Fatalf("%s: %v", statement, err)
		}
	}
}

// Admin returns a connection of the superuser to the database: for what its
// administrator can do behind Keyhole's back. It is closed with the test.
func (d *Database) Admin(tb testing.TB) *sql.DB {
	tb.Helper()
	db := stdlib.OpenDB(*d.Server.config(tb, d.Name))
	db.SetMaxOpenConns(1)
	tb.Cleanup(func() { db.Close() })
	return db
}

// Terminate ends all connections of the database's owner.
func (d *Database) Terminate(tb testing.TB) {
	tb.Helper()
	d.Server.admin(tb, fmt.Sprintf("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '%s'", d.User))
}
