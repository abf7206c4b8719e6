// Package postgres is what the store needs of PostgreSQL beside its SQL:
// connections that are safe, and notice soon that nobody answers; a driver
// that takes the SQL and the texts that SQLite takes; what an error means;
// and the listener for notifications.
package postgres

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"keyhole/keys"
)

// Config says where the database is and who asks for it. Password and the
// files are read for each connection: what is renewed is used from then on.
type Config struct {
	URL      string                 // postgres://user@host:port/database, without a password
	Password func() ([]byte, error) // nil: there is none
	CAFile   string                 // who signs the server's certificate; "": whom the system trusts
	CertFile string                 // with KeyFile: the client's certificate
	KeyFile  string
	Timeout  time.Duration // the longest that the server works on a statement, or waits for the next one of a transaction
}

// source is a Config that was checked.
type source struct {
	Config
	base  *pgx.ConnConfig
	tls   bool   // verify-full; else none
	where string // for people
}

func refuse(format string, args ...any) error {
	return keys.Errorf(keys.ErrStore, "the URL of the store "+format, args...)
}

// allowed are the parameters of a URL that have a meaning here.
var allowed = []string{"application_name", "channel_binding", "host", "port", "require_auth", "sslmode"}

const passwordInURL = "holds a password: write it to a file of mode 600, and name that as password_file"

// parse checks a Config. No error shows the URL: there might be a password in
// it.
func (c Config) parse() (*source, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Opaque != "" || u.Fragment != "" || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, refuse("cannot be read: it is like postgres://user@host:5432/database")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, refuse("cannot be read behind the question mark")
	}
	if _, has := u.User.Password(); has || query.Has("password") {
		return nil, refuse(passwordInURL)
	}
	for name, values := range query {
		switch {
		case name == "sslrootcert" || name == "sslcert" || name == "sslkey":
			return nil, refuse("names a file as %s: name it as ca_file, cert_file or key_file beside the URL", name)
		case !slices.Contains(allowed, name) || len(values) != 1:
			return nil, refuse("has a parameter that is not known, or twice: there are %s", strings.Join(allowed, ", "))
		}
	}
	if u.User.Username() == "" || strings.Trim(u.Path, "/") == "" || u.Host == "" && query.Get("host") == "" {
		return nil, refuse("names no user, no host or no database: it is like postgres://user@host:5432/database")
	}
	s := &source{Config: c}
	mode := query.Get("sslmode")
	// What the environment says of TLS does not count.
	for name, value := range map[string]string{"sslmode": "disable", "sslrootcert": "", "sslcert": "", "sslkey": "", "target_session_attrs": "any"} {
		query.Set(name, value)
	}
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	if s.base, err = pgx.ParseConfig(u.String()); err != nil {
		return nil, refuse("cannot be read: it is like postgres://user@host:5432/database")
	}
	if err := s.chooseTLS(mode); err != nil {
		return nil, err
	}
	if _, err := s.password(); err != nil {
		return nil, err
	}
	s.settle(query.Get("application_name"))
	return s, nil
}

// host is one of several that are tried in turn.
type host struct {
	name string
	port uint16
}

func (s *source) hosts() []host {
	all := []host{{s.base.Host, s.base.Port}}
	for _, f := range s.base.Fallbacks {
		all = append(all, host{f.Host, f.Port})
	}
	return all
}

// local reports whether nothing leaves this machine on the way to a host.
func (h host) local() bool {
	if network, _ := pgconn.NetworkAddress(h.name, h.port); network == "unix" {
		return true
	}
	return h.name == "localhost" || net.ParseIP(h.name).IsLoopback()
}

// chooseTLS takes verify-full, or no TLS within this machine.
func (s *source) chooseTLS(mode string) error {
	remote := slices.ContainsFunc(s.hosts(), func(h host) bool { return !h.local() })
	switch {
	case mode == "verify-full", mode == "" && (remote || s.CAFile != "" || s.CertFile != ""):
		s.tls = true
	case mode != "" && mode != "disable":
		return refuse("has an sslmode that does not see whom it talks to: use verify-full")
	case remote:
		return refuse("goes without TLS to another machine, where everybody on the way could read and alter it: use sslmode=verify-full, and ca_file")
	case s.CAFile != "" || s.CertFile != "":
		return refuse("has sslmode=disable and there is a ca_file or cert_file: use sslmode=verify-full, or leave the files out")
	}
	if (s.CertFile == "") != (s.KeyFile == "") {
		return keys.Errorf(keys.ErrStore, "the client certificate of the store needs both cert_file and key_file")
	}
	_, err := s.tlsConfig(s.base.Host)
	return err
}

// tlsConfig reads the files, and returns nil for a connection without TLS.
func (s *source) tlsConfig(name string) (*tls.Config, error) {
	if network, _ := pgconn.NetworkAddress(name, s.base.Port); !s.tls || network == "unix" {
		return nil, nil
	}
	c := &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, keys.Errorf(keys.ErrStore, "the ca_file %s of the store cannot be read", s.CAFile)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, keys.Errorf(keys.ErrStore, "there is no certificate in the ca_file %s of the store", s.CAFile)
		}
	}
	if s.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		if err != nil {
			return nil, keys.Errorf(keys.ErrStore, "cert_file %s and key_file %s of the store cannot be read, or do not belong together", s.CertFile, s.KeyFile)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// settle sets what the URL does not say.
func (s *source) settle(application string) {
	if application == "" {
		application = "keyhole"
	}
	at := make([]string, 0, 1)
	for _, h := range s.hosts() {
		at = append(at, net.JoinHostPort(h.name, fmt.Sprint(h.port)))
	}
	s.where = fmt.Sprintf("postgres://%s@%s/%s", s.base.User, strings.Join(at, ","), s.base.Database)
	s.base.Password, s.base.SSLNegotiation = "", ""
	s.base.RuntimeParams = map[string]string{"application_name": application}
	s.base.ConnectTimeout = connectTimeout
	s.base.DialFunc = dialer().DialContext
	// Of several hosts, the one that takes writes; and not a server that was one until now.
	s.base.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
}
