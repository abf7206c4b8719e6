package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"keyhole/cmd/keyholed/internal/dev"
	"keyhole/keys"
)

// reloading starts a gateway with a key "payments". It looks for changed
// files each second, or only when told to.
func reloading(t *testing.T, interval string) (string, *process) {
	t.Helper()
	dir := prepared(t)
	configure(t, dir, "log:", "reload_interval: "+interval+"\nlog:")
	p := serve(t, dir)
	if p.api == "" {
		t.Fatalf("it does not serve:\n%s", p.log)
	}
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	return dir, p
}

// A new server certificate is shown to new connections at SIGHUP, and those
// of before go on.
func TestReloadCertificate(t *testing.T) {
	t.Parallel()
	dir, p := reloading(t, "0s")
	agent := p.caller(dir, "agent.jwt")
	if err := canSign(t.Context(), agent, "payments"); err != nil {
		t.Fatal(err)
	}
	before := p.certificate(dir)

	issue(t, dir, "server", &x509.Certificate{Subject: pkix.Name{CommonName: "second"}, DNSNames: []string{"localhost"}, IPAddresses: before.IPAddresses})
	p.signal(syscall.SIGHUP)
	eventually(t, "the new certificate is shown", func() bool { return p.certificate(dir).Subject.CommonName == "second" })
	if err := canSign(t.Context(), agent, "payments"); err != nil {
		t.Errorf("on the old connection: %v", err)
	}

	// A key that does not belong to the certificate changes nothing, loudly.
	put(t, filepath.Join(dir, "server.key"), read(t, dir, "agent.key")["agent.key"])
	p.signal(syscall.SIGHUP)
	eventually(t, "the failure is shown", func() bool {
		_, metrics := p.get("/metrics")
		return strings.Contains(metrics, `keyhole_reload_failed{what="tls"} 1`)
	})
	if cn := p.certificate(dir).Subject.CommonName; cn != "second" {
		t.Errorf("after a failed reload the certificate is %s", cn)
	}
	if !strings.Contains(p.log.String(), "RELOAD FAILED") {
		t.Error("the log does not tell of the failure")
	}
	p.stop()
	for _, outcome := range []string{"ok", "error"} {
		if audited(t, dir, `"action":"reload"`, `"what":"tls"`, fmt.Sprintf(`"outcome":%q`, outcome)) == 0 {
			t.Errorf("no reload of tls with outcome %s is recorded", outcome)
		}
	}
}

// Policies, key sets, revocation lists and client CAs take effect by
// themselves soon after their files have changed.
func TestReloadByWatching(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	crl := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	revoke(t, dir, crl)
	configure(t, dir, "  client_ca_file: ca.crt", "  client_ca_file: clients.crt\n  crl_files: [clients.crl]")
	put(t, filepath.Join(dir, "clients.crt"), read(t, dir, "ca.crt")["ca.crt"])
	configure(t, dir, "log:", "reload_interval: 1s\nlog:")
	p := serve(t, dir)
	if p.api == "" {
		t.Fatalf("it does not serve:\n%s", p.log)
	}
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	agent, agentCert, adminCert := p.caller(dir, "agent.jwt"), p.holder(dir, "agent"), p.holder(dir, "admin")
	for _, c := range []error{canSign(t.Context(), agent, "payments"), canSign(t.Context(), agentCert, "payments"), canSign(t.Context(), adminCert, "payments")} {
		if c != nil {
			t.Fatal(c)
		}
	}

	// A policy that does not parse changes nothing; one that does is in force.
	policy := filepath.Join(dir, "policies", "agent.cedar")
	put(t, policy, "permit (principal, action, resource) when { frobnicate };")
	eventually(t, "the broken policy is noticed", func() bool {
		_, metrics := p.get("/metrics")
		return strings.Contains(metrics, `keyhole_reload_failed{what="policies"} 1`)
	})
	if err := canSign(t.Context(), agent, "payments"); err != nil {
		t.Errorf("under the old policy: %v", err)
	}
	put(t, policy, `permit (principal in Group::"agents", action == Action::"read", resource);`)
	eventually(t, "the agent may only read", func() bool {
		return errors.Is(canSign(t.Context(), agent, "payments"), keys.ErrForbidden)
	})
	_, metrics := p.get("/metrics")
	if !strings.Contains(metrics, `keyhole_reload_failed{what="policies"} 0`) {
		t.Error("the metric still tells of a failure")
	}

	// A revoked certificate is refused on the connection that it opened.
	crl.Number.SetInt64(2)
	crl.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: certificate(t, dir, "agent").SerialNumber, RevocationTime: time.Now()}}
	revoke(t, dir, crl)
	eventually(t, "the revoked certificate is refused", func() bool {
		return errors.Is(canSign(t.Context(), agentCert, "payments"), keys.ErrUnauthenticated)
	})
	if err := canSign(t.Context(), adminCert, "payments"); err != nil {
		t.Errorf("a certificate that is not revoked: %v", err)
	}

	// A CA that is taken away takes the connections of its certificates along.
	put(t, filepath.Join(dir, "clients.crt"), otherCA(t))
	eventually(t, "certificates of the removed CA are refused", func() bool {
		return canSign(t.Context(), adminCert, "payments") != nil
	})

	// Tokens of a key that is no longer in the key set are refused.
	admin := p.caller(dir, "admin.jwt")
	if _, err := admin.WhoAmI(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := prepared(t)
	put(t, filepath.Join(dir, "jwks.json"), read(t, other, "jwks.json")["jwks.json"])
	eventually(t, "tokens by the old key are refused", func() bool {
		_, err := admin.WhoAmI(t.Context())
		return errors.Is(err, keys.ErrUnauthenticated)
	})
	put(t, filepath.Join(dir, "admin.jwt"), read(t, other, "admin.jwt")["admin.jwt"])
	if _, err := admin.WhoAmI(t.Context()); err != nil {
		t.Errorf("a token by the new key: %v", err)
	}
	if status, body := p.get("/readyz"); status != http.StatusOK {
		t.Errorf("readyz: %d %s", status, body)
	}
	p.stop()
}

// Tokens that are about to expire, and a server certificate that does not
// name the listener, are made anew by the next `keyholed dev`.
func TestDevRenews(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	d, err := dev.Prepare(dev.Options{Dir: dir, Now: func() time.Time { return time.Now().Add(-13 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	before := read(t, dir, "admin.jwt", "agent.jwt", "ca.crt")
	p := devGateway(t, dir)
	if _, err := p.caller(dir, "admin.jwt").WhoAmI(t.Context()); err != nil {
		t.Error(err)
	}
	after := read(t, dir, "admin.jwt", "agent.jwt", "ca.crt")
	if after["admin.jwt"] == before["admin.jwt"] || after["agent.jwt"] == before["agent.jwt"] || after["ca.crt"] != before["ca.crt"] {
		t.Error("the tokens should be new and the CA should not")
	}
	p.stop()
}

func certificate(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(read(t, dir, name+".crt")[name+".crt"]))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// authority returns the development CA.
func authority(t *testing.T, dir string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	block, _ := pem.Decode([]byte(read(t, dir, "ca.key")["ca.key"]))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate(t, dir, "ca"), key.(*ecdsa.PrivateKey)
}

// issue replaces name.key and name.crt, in that order, by a new pair.
func issue(t *testing.T, dir, name string, tmpl *x509.Certificate) {
	t.Helper()
	ca, caKey := authority(t, dir)
	key := newKey(t)
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(4711), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	put(t, filepath.Join(dir, name+".crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// revoke writes clients.crl.
func revoke(t *testing.T, dir string, list *x509.RevocationList) {
	t.Helper()
	ca, key := authority(t, dir)
	der, err := x509.CreateRevocationList(rand.Reader, list, ca, key)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "clients.crl"), string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})))
}

// otherCA returns the certificate of a CA that issued nothing here.
func otherCA(t *testing.T) string {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
