package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that mean something here.
const (
	readOnly = "25006"

	// AlreadyThere and Duplicate are what a table is answered with that
	// another process has just made.
	AlreadyThere = "42P07"
	Duplicate    = "23505"
)

// errEncoding means that a database keeps texts in another way than UTF-8.
var errEncoding = errors.New("the encoding is not UTF8")

// State returns the SQLSTATE of an error, "" if the server sent none.
func State(err error) string {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return ""
	}
	return e.Code
}

// Collided reports that the server took a transaction back because of others
// that ran at the same time: to run it again is right, also when it was the
// commit that failed.
func Collided(err error) bool {
	state := State(err)
	return state == "40001" || state == "40P01"
}

// Lost reports that a connection broke that had been good. What was not
// committed on it never will be.
func Lost(err error) bool {
	var connecting *pgconn.ConnectError
	if err == nil || errors.As(err, &connecting) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return false
	}
	switch state := State(err); {
	case state == "57P01", state == "57P02", strings.HasPrefix(state, "08"), state == readOnly: // readOnly: another server is the first now
		return true
	case state != "":
		return false
	}
	var broken *net.OpError
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.Is(err, net.ErrClosed) || errors.As(err, &broken) || pgconn.SafeToRetry(err)
}

// Constraint reports that a constraint of the schema forbids what was to be
// written.
func Constraint(err error) bool { return strings.HasPrefix(State(err), "23") }

// Explain says what an error means and what helps, for the operator; "" if it
// is none that it knows.
func (c *Connector) Explain(err error) string {
	user, database := c.User(), c.Database()
	switch state := State(err); {
	case state == "28P01":
		return fmt.Sprintf("the password of the user %q is wrong: see password_file", user)
	case strings.HasPrefix(state, "28"):
		return fmt.Sprintf("the server does not let the user %q in from here: see its pg_hba.conf, and whether there is such a user", user)
	case state == "3D000":
		return fmt.Sprintf("there is no database %q: make it with CREATE DATABASE %s OWNER %s ENCODING 'UTF8' TEMPLATE template0", database, name(database), name(user))
	case state == "42501":
		return fmt.Sprintf("the user %q may not do that: make it the owner of the database and of what is in it (ALTER DATABASE %s OWNER TO %s)", user, name(database), name(user))
	case state == "3F000":
		return fmt.Sprintf("there is no schema for its tables: see the search_path of the user %q", user)
	case state == readOnly, errors.Is(err, pgconn.ErrReadOnlyConnection):
		return "this server takes no writes, it is a standby: name the primary, or all hosts, in the URL"
	case strings.HasPrefix(state, "53"):
		return map[string]string{"53100": "the disk of the server is full", "53200": "the server has no memory left", "53300": "the server has no connection left: raise its max_connections"}[state]
	case state == "57P03":
		return "the server is starting, stopping or recovering: it will take connections in a moment"
	case state == "57P01", state == "57P02":
		return "the server was shut down"
	case state == "57014":
		return "it took too long, and the server gave up"
	case Constraint(err):
		return "a constraint forbids it"
	case errors.Is(err, errEncoding):
		return fmt.Sprintf("the encoding of the database %q is not UTF8: make one with CREATE DATABASE %s OWNER %s ENCODING 'UTF8' TEMPLATE template0", database, name(database), name(user))
	case state != "":
		return ""
	}
	return explainNetwork(err)
}

func explainNetwork(err error) string {
	var unknown x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var invalid x509.CertificateInvalidError
	var alert tls.AlertError
	var dns *net.DNSError
	switch {
	case errors.As(err, &unknown):
		return "the certificate of the server is by nobody who is trusted: see ca_file"
	case errors.As(err, &wrongName):
		return "the certificate of the server is for another name than the URL says"
	case errors.As(err, &invalid):
		return "the certificate of the server is not valid: see its dates"
	case errors.As(err, &alert):
		return "the server refuses the TLS connection: see cert_file"
	case errors.As(err, &dns):
		return fmt.Sprintf("its host %q is not known", dns.Name)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return "nobody listens there: is the server running?"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no way to its host"
	case errors.Is(err, context.DeadlineExceeded), pgconn.Timeout(err), errors.Is(err, syscall.ETIMEDOUT):
		return "the server does not answer"
	case Lost(err):
		return "the connection to the server broke"
	}
	return ""
}

// name writes the name of a user or database as SQL has it.
func name(s string) string { return pgx.Identifier{s}.Sanitize() }
