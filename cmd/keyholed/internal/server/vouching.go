package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"keyhole/audit"
	"keyhole/audit/export"
	"keyhole/audit/export/otlp"
	"keyhole/audit/export/syslog"
	"keyhole/audit/lookup"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/core"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/cmd/keyholed/internal/metrics"
	"keyhole/cmd/keyholed/internal/vouch"
	"keyhole/keys"
)

// voucher signs checkpoints of log with the audit key in k.
func voucher(c *config.Config, log *audit.Log, k *core.Core, m *metrics.Set, out *slog.Logger) *vouch.Voucher {
	return vouch.New(vouch.Config{
		Log: log, Sign: k.Token.Sign, KeysFile: c.Audit.KeysFile, Interval: c.Audit.CheckpointEvery, Now: time.Now, Slog: out, Observe: m.Checkpoint,
		Key: func() (*keys.Key, error) {
			snap, err := k.Cache.Snapshot()
			if err != nil {
				return nil, err
			}
			key, ok := snap.Key(keys.AuditKeyName)
			if !ok || key.Damaged {
				return nil, keys.Errorf(keys.ErrKeyNotFound, "the audit key %s is missing or was altered in the database; `keyholed adopt` makes its rows anew from the token", keys.AuditKeyName)
			}
			return key, nil
		},
	})
}

// shown is the audit log for those who may read it.
func shown(c *config.Config, log *audit.Log, v *vouch.Voucher) *lookup.Log {
	return lookup.New(lookup.Config{
		Dir: c.Audit.Dir, Log: log, Keys: v.Keys,
		Vouch: func(ctx context.Context) ([]byte, error) {
			signed, _, err := v.Checkpoint(ctx)
			return signed, err
		},
	})
}

// exporters prepares what sends the audit log elsewhere.
func exporters(ctx context.Context, c *config.Config, log *audit.Log, m *metrics.Set, version string, out *slog.Logger) ([]*export.Exporter, error) {
	var all []*export.Exporter
	for i := range c.Audit.Exports {
		x := &c.Audit.Exports[i]
		sink, err := sinkOf(ctx, c.Node, version, x)
		if err == nil {
			var e *export.Exporter
			e, err = export.New(export.Config{Dir: c.Audit.Dir, Name: x.Name, Sink: sink, Size: log.Size, Log: out, Observe: m.Exported(x.Name)})
			all = append(all, e)
		}
		if err != nil {
			return nil, exit.With(exit.Config, "", fmt.Errorf("audit.exports[%d]: %w", i, err))
		}
	}
	return all, nil
}

func sinkOf(ctx context.Context, node, version string, x *config.Export) (export.Sink, error) {
	t, err := exportTLS(x)
	if err != nil {
		return nil, err
	}
	ocsf := x.Format == config.FormatOCSF
	if x.Type == config.ExportSyslog {
		host, _, err := net.SplitHostPort(x.Address)
		if err != nil {
			return nil, err
		}
		t.ServerName = host
		return syslog.New(syslog.Config{Address: x.Address, TLS: t, Facility: x.Facility, OCSF: ocsf, Timeout: x.Timeout, Resend: uint64(x.Resend)}), nil
	}
	headers, err := readHeaders(x.HeadersFile)
	if err != nil {
		return nil, err
	}
	if u, err := url.Parse(x.URL); err == nil {
		t.ServerName = u.Hostname()
	}
	return otlp.New(ctx, otlp.Config{URL: x.URL, TLS: t, Headers: headers, Node: node, Version: version, OCSF: ocsf, Timeout: x.Timeout})
}

func exportTLS(x *config.Export) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if x.CAFile != "" {
		b, err := os.ReadFile(x.CAFile)
		if err != nil {
			return nil, err
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s holds no certificate", x.CAFile)
		}
	}
	if x.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(x.CertFile, x.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("the client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// readHeaders reads lines of "Name: value". No error of it shows a value.
func readHeaders(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	headers := map[string]string{}
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, fmt.Errorf("%s:%d: write \"Name: value\"", path, n)
		}
		headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return headers, errors.Join(sc.Err())
}

func exportStats(all []*export.Exporter) func() []metrics.ExportStats {
	return func() []metrics.ExportStats {
		stats := make([]metrics.ExportStats, len(all))
		for i, e := range all {
			s := e.Status()
			stats[i] = metrics.ExportStats{Name: s.Name, Lag: s.Lag, Age: s.Age}
		}
		return stats
	}
}
