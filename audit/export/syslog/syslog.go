// Package syslog sends audit records by syslog (RFC 5424) over TLS (RFC
// 5425), octet-counted.
//
// Syslog has no acknowledgements. Send waits until the other machine's TCP
// has confirmed every byte; what its collector had not read when it died is
// lost to it all the same, and so the last entries are sent again after a
// failure.
package syslog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"keyhole/audit"
	"keyhole/audit/export"
	"keyhole/audit/export/ocsf"
)

// Config says where to. Address and TLS are required.
type Config struct {
	Address  string // host:port; 6514 is the usual port
	TLS      *tls.Config
	Facility int  // 0 to 23; 13 is log audit, 10 security
	OCSF     bool // the message is an OCSF event, not the record
	Timeout  time.Duration
	Resend   uint64 // entries that are sent again after a failure
}

// Sink is one connection. It implements export.Sink.
type Sink struct {
	c    Config
	conn *tls.Conn
	raw  *net.TCPConn
}

// New returns a sink that connects when there is something to send.
func New(c Config) *Sink {
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	return &Sink{c: c}
}

// Rewind implements export.Sink.
func (s *Sink) Rewind() uint64 { return s.c.Resend }

// Send implements export.Sink.
func (s *Sink) Send(ctx context.Context, entries []export.Entry) error {
	var b []byte
	for i := range entries {
		msg, err := s.message(&entries[i])
		if err != nil {
			return err
		}
		b = strconv.AppendInt(b, int64(len(msg)), 10)
		b = append(append(b, ' '), msg...)
	}
	if s.conn == nil {
		if err := s.connect(ctx); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(s.c.Timeout)
	stop := context.AfterFunc(ctx, func() { _ = s.raw.Close() }) // ends the write, whatever it returns
	defer stop()
	err := s.conn.SetDeadline(deadline)
	if err == nil {
		_, err = s.conn.Write(b)
	}
	if err == nil {
		err = drained(ctx, s.raw, deadline)
	}
	if err != nil {
		err = fmt.Errorf("sending audit records to %s: %w", s.c.Address, err)
		return errors.Join(err, s.Close())
	}
	return nil
}

func (s *Sink) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.c.Timeout)
	defer cancel()
	raw, err := (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext(ctx, "tcp", s.c.Address)
	if err != nil {
		return fmt.Errorf("connecting to the syslog collector: %w", err)
	}
	conn := tls.Client(raw, s.c.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return errors.Join(fmt.Errorf("connecting to the syslog collector %s: %w", s.c.Address, err), raw.Close())
	}
	s.conn, s.raw = conn, raw.(*net.TCPConn)
	go s.watch(conn)
	return nil
}

// watch notices that the collector has closed its side: nothing else would,
// since it never answers.
func (s *Sink) watch(conn *tls.Conn) {
	var b [1]byte
	_, _ = conn.Read(b[:])
	conn.NetConn().Close()
}

// Close implements export.Sink.
func (s *Sink) Close() error {
	if s.conn == nil {
		return nil
	}
	s.conn.Close()
	s.conn, s.raw = nil, nil
	return nil
}

// severities by outcome (RFC 5424, table 2).
func severity(r *audit.Record) int {
	switch r.Outcome {
	case audit.OutcomeDenied:
		return 4 // warning
	case audit.OutcomeError:
		return 3 // error
	}
	return 6 // informational
}

// message is one syslog message. Its MSGID is the action, and the structured
// data name the record by node and seq.
func (s *Sink) message(e *export.Entry) ([]byte, error) {
	r := &e.Record
	b := make([]byte, 0, len(e.Line)+200)
	b = fmt.Appendf(b, "<%d>1 %s %s keyhole - %s [keyhole@32473 seq=\"%d\" outcome=\"%s\"] ", s.c.Facility*8+severity(r),
		r.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), word(r.Node, 255), word(r.Action, 32), r.Seq, word(r.Outcome, 32))
	if !s.c.OCSF {
		return append(b, e.Line...), nil
	}
	event, err := ocsf.Event(*r, e.Line)
	return append(b, event...), err
}

// word makes s a field of the header: printable ASCII without spaces.
func word(s string, most int) string {
	out := []byte(s)
	for i, c := range out {
		if c <= ' ' || c > '~' || c == '"' || c == '\\' || c == ']' {
			out[i] = '_'
		}
	}
	if len(out) == 0 {
		return "-"
	}
	return string(out[:min(len(out), most)])
}
