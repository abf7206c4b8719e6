package postgres

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sys/unix"

	"keyhole/keys"
)

const (
	connectTimeout = 5 * time.Second // for each of several hosts
	unacknowledged = 5 * time.Second // then the other side is gone
)

// dialer finds a peer that went away without a word in about ten seconds,
// when nothing is sent, and in five when something is.
func dialer() *net.Dialer {
	return &net.Dialer{
		Timeout:         connectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 4 * time.Second, Interval: 2 * time.Second, Count: 3},
		Control: func(network, _ string, c syscall.RawConn) (err error) {
			if network == "unix" {
				return nil
			}
			cerr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
			})
			return errors.Join(err, cerr)
		},
	}
}

// Connector makes the connections of a store.
type Connector struct {
	source *source
	inner  driver.Connector
}

var _ driver.Connector = (*Connector)(nil)

// New checks a Config. What it refuses is a *keys.Error of kind keys.ErrStore
// that tells the operator what to do.
func New(c Config) (*Connector, error) {
	s, err := c.parse()
	if err != nil {
		return nil, err
	}
	return &Connector{
		source: s,
		inner:  stdlib.GetConnector(*s.base, stdlib.OptionBeforeConnect(s.before), stdlib.OptionAfterConnect(s.after)),
	}, nil
}

// Where names the database for people.
func (c *Connector) Where() string { return c.source.where }

// User and Database are those that the connections are for.
func (c *Connector) User() string { return c.source.base.User }

// Database is the name of the database.
func (c *Connector) Database() string { return c.source.base.Database }

// Connect implements driver.Connector.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	inner, err := c.inner.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: inner.(*stdlib.Conn)}, nil
}

// Driver implements driver.Connector.
func (c *Connector) Driver() driver.Driver { return c.inner.Driver() }

// before gives a connection its password and its TLS settings. What is wrong
// with the files now was right at the start: the text is for the log.
func (s *source) before(_ context.Context, c *pgx.ConnConfig) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %v", keys.ErrStore, err) //nolint:errorlint // no *keys.Error to be shown
		}
	}()
	if c.Password, err = s.password(); err != nil {
		return err
	}
	if c.TLSConfig, err = s.tlsConfig(c.Host); err != nil {
		return err
	}
	fallbacks := make([]*pgconn.FallbackConfig, len(c.Fallbacks))
	for i, f := range c.Fallbacks {
		next := *f
		if next.TLSConfig, err = s.tlsConfig(f.Host); err != nil {
			return err
		}
		fallbacks[i] = &next
	}
	c.Fallbacks = fallbacks
	return nil
}

// after settles a session. The server's own limits see to what this process
// cannot, when it stands still or is cut off within a transaction: others wait
// for its locks. A commit that was acknowledged is on the disk, whatever the
// server's default is.
func (s *source) after(ctx context.Context, c *pgx.Conn) error {
	ms := s.Timeout.Milliseconds()
	err := c.PgConn().Exec(ctx, fmt.Sprintf("SET statement_timeout = %d; SET idle_in_transaction_session_timeout = %d; SET client_min_messages = warning; "+
		"SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'", ms, ms)).Close()
	if err == nil && c.PgConn().ParameterStatus("server_encoding") != "UTF8" {
		err = errEncoding
	}
	if err != nil {
		return errors.Join(err, c.Close(ctx))
	}
	return nil
}

func (s *source) password() (string, error) {
	if s.Password == nil {
		return "", nil
	}
	password, err := s.Password()
	if err != nil {
		return "", keys.Errorf(keys.ErrStore, "the password of the store cannot be read: see password_file")
	}
	defer clear(password)
	return string(bytes.TrimRight(password, "\r\n")), nil
}

// open makes a connection beside the pool.
func (s *source) open(ctx context.Context) (*pgx.Conn, error) {
	c := s.base.Copy()
	if err := s.before(ctx, c); err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, c)
}
