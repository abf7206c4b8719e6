package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
)

// collector is Debian's rsyslog, taking messages by TLS.
type collector struct {
	t    *testing.T
	dir  string
	port string // "0" until it has started once
	cmd  *exec.Cmd
	said *output
}

const collectorConfig = `
global(workDirectory="%[1]s" maxMessageSize="64k"
  DefaultNetstreamDriver="gtls" DefaultNetstreamDriverCAFile="%[1]s/ca.crt"
  DefaultNetstreamDriverCertFile="%[1]s/ca.crt" DefaultNetstreamDriverKeyFile="%[1]s/ca.key")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
template(name="all" type="string" string="%%app-name%% %%msgid%% %%structured-data%% %%msg%%\n")
action(type="omfile" file="%[1]s/out" template="all")
input(type="imtcp" address="127.0.0.1" port="%[2]s" listenPortFileName="%[1]s/port")
`

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{t: t, dir: t.TempDir(), port: "0"}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	write(t, c.path("ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, c.path("ca.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	t.Cleanup(c.kill)
	c.start()
	return c
}

func (c *collector) path(name string) string { return filepath.Join(c.dir, name) }

// start starts it, on the port that it had before.
func (c *collector) start() {
	c.t.Helper()
	config := write(c.t, c.path("conf"), fmt.Sprintf(collectorConfig, c.dir, c.port))
	c.said = &output{}
	c.cmd = exec.Command("/usr/sbin/rsyslogd", "-n", "-f", config, "-i", c.path("pid"))
	c.cmd.Stdout, c.cmd.Stderr = c.said, c.said
	if err := c.cmd.Start(); err != nil {
		c.t.Fatalf("%v (`make deps` installs what the tests need)", err)
	}
	eventually(c.t, "rsyslog listens", func() bool {
		if b, err := os.ReadFile(c.path("port")); err == nil {
			c.port = strings.TrimSpace(string(b))
		}
		conn, err := net.Dial("tcp", "127.0.0.1:"+c.port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func (c *collector) kill() {
	if c.cmd != nil && c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		if c.t.Failed() {
			c.t.Logf("rsyslog said:\n%s", c.said)
		}
	}
}

// has reports whether every record of the log has arrived, word for word.
func (c *collector) has(records []audit.Record) bool {
	c.t.Helper()
	b, err := os.ReadFile(c.path("out"))
	if err != nil {
		return false
	}
	arrived := map[uint64]audit.Record{}
	for l := range bytes.Lines(b) {
		_, body, ok := bytes.Cut(l, []byte(`"] `))
		if !ok || !bytes.HasPrefix(l, []byte("keyhole ")) || !bytes.HasSuffix(l, []byte("\n")) {
			continue
		}
		r, err := audit.ParseLine(bytes.TrimLeft(body, " "))
		if err != nil {
			c.t.Fatalf("what has arrived is no record: %v: %s", err, l)
		}
		arrived[r.Seq] = r
	}
	for _, r := range records {
		if got, ok := arrived[r.Seq]; !ok || got.RequestID != r.RequestID || got.Action != r.Action || !got.Time.Equal(r.Time) {
			return false
		}
	}
	return len(records) > 0
}

// Every record reaches a real collector, though that is killed meanwhile, and
// the gateway too. While it is away nobody waits for it, and operators see
// how far it is behind.
func TestExportToACollector(t *testing.T) {
	c := newCollector(t)
	g := stopped(t)
	g.edit("keyhole.yaml", "  dir: audit\n", "  dir: audit\n  exports:\n    - name: siem\n      type: syslog\n      address: 127.0.0.1:"+c.port+
		"\n      ca_file: "+c.path("ca.crt")+"\n      timeout: 2s\n")
	g.start()
	g.create("payments", "ES256", 0)
	sign := func(n int) {
		t.Helper()
		for range n {
			g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`).want(200)
		}
	}
	sign(20)
	// The first start's records are among them: the export begins with seq 0.
	eventually(t, "the first records arrive", func() bool { return c.has(g.records()) })
	caughtUp := func() bool {
		_, page := g.page("/metrics")
		return strings.Contains(page, `keyhole_audit_export_lag_records{export="siem"} 0`+"\n")
	}
	eventually(t, "no lag", caughtUp)

	c.kill()
	sign(30)
	eventually(t, "the lag is seen", func() bool {
		status, ready := g.page("/readyz")
		_, page := g.page("/metrics")
		if status != http.StatusOK {
			t.Fatalf("not ready because of an export: %s", ready)
		}
		return strings.Contains(ready, "export:siem") && strings.Contains(ready, "records behind") && !caughtUp() &&
			!strings.Contains(page, `keyhole_audit_export_failures_total{export="siem"} 0`)
	})
	sign(5)
	c.start()
	eventually(t, "what it has missed arrives", func() bool { return c.has(g.records()) })
	eventually(t, "no lag", caughtUp)

	c.kill()
	sign(10)
	g.kill()
	g.start()
	sign(10)
	c.start()
	eventually(t, "everything arrives", func() bool { return c.has(g.records()) })
	g.stop()
	g.whole()
}
