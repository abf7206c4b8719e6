package tlsfiles

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// ca issues certificates for a test.
type ca struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T, name string) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &ca{t: t, key: key}
	c.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	c.cert = c.sign(c.cert, &key.PublicKey)
	return c
}

func (c *ca) sign(tmpl *x509.Certificate, pub *ecdsa.PublicKey) *x509.Certificate {
	c.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, pub, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

// issue writes name.crt and name.key.
func (c *ca) issue(dir, name string, left time.Duration) tls.Certificate {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	cert := c.sign(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(left),
	}, &key.PublicKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	writePEM(c.t, filepath.Join(dir, name+".crt"), "CERTIFICATE", cert.Raw)
	writePEM(c.t, filepath.Join(dir, name+".key"), "PRIVATE KEY", der)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// gateway is a server over Files that tells what it sees of its client.
type gateway struct {
	files  *Files
	url    string
	client *http.Client
}

func newGateway(t *testing.T, dir string, server, clients *ca, auth tls.ClientAuthType) *gateway {
	t.Helper()
	server.issue(dir, "server", time.Hour)
	writePEM(t, filepath.Join(dir, "clients.crt"), "CERTIFICATE", clients.cert.Raw)
	files, err := Load(Config{
		CertFile: filepath.Join(dir, "server.crt"), KeyFile: filepath.Join(dir, "server.key"), ClientCAFile: filepath.Join(dir, "clients.crt"),
		ClientAuth: auth, MinVersion: tls.VersionTLS13,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(files.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "nobody"
		if len(r.TLS.VerifiedChains) > 0 {
			who = r.TLS.VerifiedChains[0][0].Subject.CommonName
		}
		_, _ = io.WriteString(w, who+" "+r.Header.Get("Authorization"))
	})))
	srv.Config.TLSConfig = files.ServerConfig()
	l := srv.Listener
	go func() { _ = srv.Config.ServeTLS(l, "", "") }()
	t.Cleanup(func() { srv.Config.Close() })

	roots := x509.NewCertPool()
	roots.AddCert(server.cert)
	holder := clients.issue(dir, "client", time.Hour)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(8),
		// Shown whatever CAs the server names: the verdict is the server's.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &holder, nil },
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &gateway{files: files, url: "https://" + l.Addr().String(), client: &http.Client{Transport: transport}}
}

func (g *gateway) ask(t *testing.T) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "token")
	resp, err := g.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func (g *gateway) reload(t *testing.T, want bool) {
	t.Helper()
	changed, hash, err := g.files.Reload(t.Context())
	if err != nil || changed != want || len(hash) != 64 {
		t.Fatalf("Reload = %t, %q, %v; want %t", changed, hash, err, want)
	}
}

// A connection that lives through the removal of its CA loses its identity
// at once, and its session cannot be resumed.
func TestRemovedCA(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		auth  tls.ClientAuthType
		still string // what the handler sees on the old connection
	}{
		{"optional", tls.VerifyClientCertIfGiven, "nobody token"},
		{"required", tls.RequireAndVerifyClientCert, "nobody "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			server, clients, others := newCA(t, "server CA"), newCA(t, "clients CA"), newCA(t, "other CA")
			g := newGateway(t, dir, server, clients, tt.auth)
			for range 2 {
				if got, err := g.ask(t); got != "client token" || err != nil {
					t.Fatalf("%q, %v", got, err)
				}
			}
			g.reload(t, false)

			writePEM(t, filepath.Join(dir, "clients.crt"), "CERTIFICATE", others.cert.Raw)
			g.reload(t, true)
			if got, err := g.ask(t); got != tt.still || err != nil {
				t.Errorf("on the old connection: %q, %v; want %q", got, err, tt.still)
			}
			if got, err := g.ask(t); err == nil {
				t.Errorf("a new connection is taken: %q", got)
			}

			writePEM(t, filepath.Join(dir, "clients.crt"), "CERTIFICATE", clients.cert.Raw)
			g.reload(t, true)
			if got, err := g.ask(t); got != "client token" || err != nil {
				t.Errorf("after the CA has come back: %q, %v", got, err)
			}
		})
	}
}

// What cannot be used leaves everything as it was.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server, clients := newCA(t, "server CA"), newCA(t, "clients CA")
	g := newGateway(t, dir, server, clients, tls.VerifyClientCertIfGiven)
	other := server.issue(dir, "other", time.Hour)
	good := map[string][]byte{}
	for _, name := range []string{"server.crt", "server.key", "clients.crt"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		good[name] = text
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate[0]})
	for _, tt := range []struct {
		name, file string
		text       []byte // nil: removed
	}{
		{"no certificate", "server.crt", nil},
		{"no key", "server.key", nil},
		{"empty certificate", "server.crt", []byte{}},
		{"garbage", "server.crt", []byte("garbage")},
		{"certificate of another key", "server.crt", leaf},
		{"certificate for a key", "server.key", leaf},
		{"no client CAs", "clients.crt", nil},
		{"empty client CAs", "clients.crt", []byte{}},
		{"leaf for a CA", "clients.crt", leaf},
		{"broken CA", "clients.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})},
	} {
		file := filepath.Join(dir, tt.file)
		if tt.text == nil {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(file, tt.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if changed, _, err := g.files.Reload(t.Context()); err == nil || changed {
			t.Errorf("%s: Reload = %t, %v; want an error", tt.name, changed, err)
		}
		if got, err := g.ask(t); got != "client token" || err != nil {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
		if err := os.WriteFile(file, good[tt.file], 0o600); err != nil {
			t.Fatal(err)
		}
		g.reload(t, false)
	}
}

func TestExpiring(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct {
		from, until time.Duration
		want        bool
	}{
		{-time.Hour, 30 * 24 * time.Hour, false},
		{-time.Hour, 6 * 24 * time.Hour, true},
		{-time.Hour, -time.Second, true},
		{time.Hour, 30 * 24 * time.Hour, true},
	} {
		err := Expiring(&x509.Certificate{NotBefore: now.Add(tt.from), NotAfter: now.Add(tt.until)}, now)
		if (err != nil) != tt.want {
			t.Errorf("from %s until %s: %v", tt.from, tt.until, err)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13, "1.1": 0, "": 0} {
		got, err := Version(name)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("Version(%q) = %x, %v", name, got, err)
		}
	}
}
