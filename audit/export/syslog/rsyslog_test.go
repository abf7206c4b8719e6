package syslog_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/audit/export"
	"keyhole/audit/export/syslog"
)

// rsyslog is Debian's collector, run by the test.
type rsyslog struct {
	t    *testing.T
	dir  string
	port string
	cmd  *exec.Cmd
	pool *x509.CertPool
}

const rsyslogConfig = `
global(workDirectory="%[1]s" maxMessageSize="64k"
  DefaultNetstreamDriver="gtls" DefaultNetstreamDriverCAFile="%[1]s/ca.crt"
  DefaultNetstreamDriverCertFile="%[1]s/server.crt" DefaultNetstreamDriverKeyFile="%[1]s/server.key")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
template(name="all" type="string" string="%%hostname%% %%app-name%% %%msgid%% %%syslogpriority-text%% %%syslogfacility%% %%structured-data%% %%msg%%\n")
action(type="omfile" file="%[1]s/out" template="all")
input(type="imtcp" address="127.0.0.1" port="%[2]s" listenPortFileName="%[1]s/port")
`

func newRsyslog(t *testing.T) *rsyslog {
	t.Helper()
	r := &rsyslog{t: t, dir: t.TempDir(), port: "0", pool: x509.NewCertPool()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	r.put("ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	r.put("server.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	r.put("server.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	parsed, err := x509.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	r.pool.AddCert(parsed)
	t.Cleanup(r.kill)
	return r
}

func (r *rsyslog) put(name string, b []byte) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), b, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// start starts the collector, on the port that it had before.
func (r *rsyslog) start() {
	r.t.Helper()
	r.put("conf", fmt.Appendf(nil, rsyslogConfig, r.dir, r.port))
	var out bytes.Buffer
	r.cmd = exec.Command("/usr/sbin/rsyslogd", "-n", "-f", filepath.Join(r.dir, "conf"), "-i", filepath.Join(r.dir, "pid"))
	r.cmd.Stderr, r.cmd.Stdout = &out, &out
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("%v: make deps installs it", err)
	}
	defer func() {
		if r.t.Failed() {
			r.t.Log(out.String())
		}
	}()
	eventually(r.t, "rsyslog listens", func() bool {
		if b, err := os.ReadFile(filepath.Join(r.dir, "port")); err == nil {
			r.port = strings.TrimSpace(string(b)) // it tells it only the first time
		}
		c, err := net.Dial("tcp", "127.0.0.1:"+r.port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (r *rsyslog) kill() {
	if r.cmd != nil && r.cmd.ProcessState == nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	}
}

func (r *rsyslog) lines() []string {
	b, err := os.ReadFile(filepath.Join(r.dir, "out"))
	if err != nil {
		return nil
	}
	var mine []string
	for l := range strings.Lines(string(b)) {
		if strings.Contains(l, " keyhole ") && strings.HasSuffix(l, "\n") {
			mine = append(mine, strings.TrimSuffix(l, "\n"))
		}
	}
	return mine
}

// seqs are those of the records that arrived whole.
func (r *rsyslog) seqs() map[uint64]bool {
	all := map[uint64]bool{}
	for _, l := range r.lines() {
		_, body, _ := strings.Cut(l, "] ")
		rec, err := audit.ParseLine([]byte(strings.TrimSpace(body) + "\n"))
		if err != nil {
			r.t.Fatalf("%v: %s", err, l)
		}
		all[rec.Seq] = true
	}
	return all
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after a minute", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func openLog(t *testing.T, dir string) *audit.Log {
	t.Helper()
	l, err := audit.Open(audit.Config{Dir: dir, Node: "node 1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (r *rsyslog) sink(ocsf bool) *syslog.Sink {
	return syslog.New(syslog.Config{
		Address: "127.0.0.1:" + r.port, TLS: &tls.Config{RootCAs: r.pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}, Facility: 13, OCSF: ocsf, Resend: 100,
	})
}

func export1(t *testing.T, l *audit.Log, dir string, sink export.Sink) *export.Exporter {
	t.Helper()
	e, err := export.New(export.Config{Dir: dir, Name: "siem", Sink: sink, Size: l.Size, Log: slog.New(slog.DiscardHandler), Batch: 20})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e
}

// Every record arrives at a real collector, though that is killed and
// started again in between.
func TestRsyslog(t *testing.T) {
	t.Parallel()
	r := newRsyslog(t)
	r.start()
	dir := t.TempDir()
	l := openLog(t, dir)
	e := export1(t, l, dir, r.sink(false))
	record := func(n int) {
		for range n {
			if _, err := l.Append(t.Context(), audit.Record{
				Action: "sign", Principal: "jwt:corp:alice", Key: "payments", Outcome: audit.OutcomeDenied, Reason: strings.Repeat("long \"text\" ", 50),
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	record(100)
	eventually(t, "the first hundred", func() bool { return len(r.seqs()) == 100 })
	r.kill()
	record(50)
	eventually(t, "a failure", func() bool { return e.Status().Err != nil })
	if s := e.Status(); s.Lag == 0 {
		t.Errorf("%+v while the collector is away", s)
	}
	r.start()
	eventually(t, "the rest", func() bool { return len(r.seqs()) == 150 })
	eventually(t, "no lag", func() bool { s := e.Status(); return s.Lag == 0 && s.Err == nil })
	for _, l := range r.lines() {
		if !strings.HasPrefix(l, `node_1 keyhole sign warning 13 [keyhole@32473 seq="`) || !strings.Contains(l, `outcome="denied"]`) {
			t.Fatalf("it came as %s", l)
		}
	}
}

func TestRsyslogOCSF(t *testing.T) {
	t.Parallel()
	r := newRsyslog(t)
	r.start()
	dir := t.TempDir()
	l := openLog(t, dir)
	export1(t, l, dir, r.sink(true))
	if _, err := l.Append(t.Context(),
		audit.Record{Action: "sign", Principal: "jwt:corp:alice", Key: "payments", KeyID: "payments.v3", Source: "10.0.0.1", Outcome: audit.OutcomeOK, RequestID: "abc"},
		audit.Record{Action: "authenticate", Principal: "anonymous", Outcome: audit.OutcomeDenied, Reason: "expired"},
	); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two events", func() bool { return len(r.lines()) == 2 })
	var got []map[string]any
	for _, l := range r.lines() {
		_, body, _ := strings.Cut(l, "] ")
		var e map[string]any
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		got = append(got, e)
	}
	if got[0]["class_uid"] != 6003.0 || got[0]["type_uid"] != 600302.0 || got[0]["status"] != "Success" || got[0]["unmapped"].(map[string]any)["kid"] != "payments.v3" {
		t.Errorf("%v", got[0])
	}
	if got[1]["class_uid"] != 3002.0 || got[1]["status"] != "Failure" || got[1]["status_code"] != "expired" {
		t.Errorf("%v", got[1])
	}
}

// A collector with the wrong certificate gets nothing.
func TestWrongCertificate(t *testing.T) {
	t.Parallel()
	r, other := newRsyslog(t), newRsyslog(t)
	r.start()
	r.pool = other.pool
	dir := t.TempDir()
	l := openLog(t, dir)
	e := export1(t, l, dir, r.sink(false))
	if _, err := l.Append(t.Context(), audit.Record{Action: "sign", Outcome: audit.OutcomeOK}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a complaint", func() bool { s := e.Status(); return s.Err != nil && strings.Contains(s.Err.Error(), "certificate") })
	if got := r.lines(); len(got) != 0 {
		t.Errorf("it got %v", got)
	}
}
