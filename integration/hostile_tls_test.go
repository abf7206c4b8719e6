package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"keyhole/gateway/api"
)

// devCA is the CA that `keyholed dev` made.
type devCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  crypto.Signer
}

func (g *gateway) ca() *devCA {
	g.t.Helper()
	pair, err := tls.LoadX509KeyPair(g.path("ca.crt"), g.path("ca.key"))
	must(g.t, err)
	return &devCA{g.t, pair.Leaf, pair.PrivateKey.(crypto.Signer)}
}

// issue makes a client certificate that is good but for the changes.
func (ca *devCA) issue(change func(*x509.Certificate)) *tls.Certificate {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(ca.t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(ca.t, err)
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "agent"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	must(ca.t, err)
	leaf, err := x509.ParseCertificate(der)
	must(ca.t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// another is a CA of the same name, with another key.
func (ca *devCA) another() *devCA {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(ca.t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: ca.cert.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, SubjectKeyId: ca.cert.SubjectKeyId,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(ca.t, err)
	cert, err := x509.ParseCertificate(der)
	must(ca.t, err)
	return &devCA{ca.t, cert, key}
}

func uris(t *testing.T, all ...string) (list []*url.URL) {
	t.Helper()
	for _, s := range all {
		u, err := url.Parse(s)
		must(t, err)
		list = append(list, u)
	}
	return list
}

// By default a connection has TLS 1.3 and nothing older; what was before is
// refused in the handshake. Where 1.2 is allowed, it has forward secrecy and
// authenticated encryption only, and no renegotiation.
func TestTLSVersions(t *testing.T) {
	g := newGateway(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(g.line("ca.crt")))
	dial := func(c *tls.Config) (tls.ConnectionState, error) {
		c.RootCAs = roots
		conn, err := (&tls.Dialer{Config: c}).DialContext(t.Context(), "tcp", strings.TrimPrefix(g.api, "https://"))
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState(), nil
	}
	for _, v := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12} {
		if s, err := dial(&tls.Config{MinVersion: v, MaxVersion: v}); err == nil {
			t.Errorf("a connection has %s", tls.VersionName(s.Version))
		}
	}
	s, err := dial(&tls.Config{MinVersion: tls.VersionTLS10})
	must(t, err)
	if s.Version != tls.VersionTLS13 {
		t.Errorf("a connection has %s", tls.VersionName(s.Version))
	}
	g.stop()

	g.edit("keyhole.yaml", "tls:", "tls:\n  min_version: \"1.2\"")
	g.start()
	for _, v := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		if s, err := dial(&tls.Config{MinVersion: v, MaxVersion: v}); err == nil {
			t.Errorf("with min_version 1.2 a connection has %s", tls.VersionName(s.Version))
		}
	}
	var strong, weak []uint16
	for _, suite := range tls.CipherSuites() {
		if suite.SupportedVersions[0] <= tls.VersionTLS12 {
			strong = append(strong, suite.ID)
		}
	}
	for _, suite := range append(tls.InsecureCipherSuites(), tls.CipherSuites()...) {
		forward := strings.Contains(suite.Name, "ECDHE") && (strings.Contains(suite.Name, "GCM") || strings.Contains(suite.Name, "POLY1305"))
		if suite.SupportedVersions[0] <= tls.VersionTLS12 && !forward {
			weak = append(weak, suite.ID)
		}
	}
	s, err = dial(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: strong})
	must(t, err)
	if name := tls.CipherSuiteName(s.CipherSuite); !strings.Contains(name, "ECDHE") || !strings.Contains(name, "GCM") && !strings.Contains(name, "POLY1305") {
		t.Errorf("with min_version 1.2 a connection has %s", name)
	}
	for _, id := range weak {
		if _, err := dial(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{id}}); err == nil {
			t.Errorf("a connection has %s", tls.CipherSuiteName(id))
		}
	}
	// The client asks for renegotiation as soon as it is connected.
	cmd := exec.CommandContext(t.Context(), "openssl", "s_client", "-connect", strings.TrimPrefix(g.api, "https://"), "-CAfile", g.path("ca.crt"), "-tls1_2")
	cmd.Stdin = strings.NewReader("R\n")
	if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), "RENEGOTIATING") || !strings.Contains(string(out), "no renegotiation") && !strings.Contains(string(out), "error:") {
		t.Errorf("renegotiation: %s", out)
	}
	g.post(agent, "/v1/random", `{"bytes":1}`).want(http.StatusOK)
	g.stop()
}

// Nothing is done before the handshake has ended: no ticket allows early
// data, and what is sent as such is not read as a request.
func TestNoEarlyData(t *testing.T) {
	g := newGateway(t)
	dir := t.TempDir()
	session, request := filepath.Join(dir, "session"), write(t, filepath.Join(dir, "request"), "GET /v1/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	client := func(input io.Reader, more ...string) string {
		cmd := exec.CommandContext(t.Context(), "openssl", append([]string{"s_client", "-connect", strings.TrimPrefix(g.api, "https://"), "-CAfile", g.path("ca.crt"), "-tls1_3"}, more...)...)
		cmd.Stdin = input
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	text, err := os.ReadFile(request)
	must(t, err)
	out := client(strings.NewReader(string(text)), "-sess_out", session, "-ign_eof")
	if _, err := os.Stat(session); err != nil || !strings.Contains(out, "HTTP/1.1 401") {
		t.Fatalf("no session was made: %s", out)
	}
	if !strings.Contains(out, "Max Early Data: 0") || strings.Contains(out, "Early data was accepted") {
		t.Errorf("the ticket allows early data: %s", out)
	}
	if out := client(strings.NewReader(string(text)), "-sess_in", session, "-early_data", request, "-ign_eof"); strings.Contains(out, "Early data was accepted") {
		t.Errorf("early data is accepted: %s", out)
	}
	g.stop()
}

// What is no good client certificate of the configured CAs ends the
// handshake, or is answered like any other bad credential; it is not passed
// over in favour of a good token beside it.
func TestCertificatesThatAreRefused(t *testing.T) {
	g := stopped(t)
	g.edit("keyhole.yaml", "log:", "limits:\n  failed_login_burst: 100000\nlog:")
	g.start()
	ca := g.ca()
	good := ca.issue(func(*x509.Certificate) {})
	g.call(g.newHTTP(good), "", http.MethodGet, "/v1/whoami", "").want(http.StatusOK)
	now := time.Now()
	name := func(change func(*x509.Certificate)) *tls.Certificate {
		return ca.issue(func(c *x509.Certificate) { c.Subject.CommonName = ""; change(c) })
	}
	intermediate := ca.issue(func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	})
	below := (&devCA{t, intermediate.Leaf, intermediate.PrivateKey.(crypto.Signer)}).issue(func(*x509.Certificate) {})
	below.Certificate = append(below.Certificate, intermediate.Certificate...)
	byLeaf := (&devCA{t, good.Leaf, good.PrivateKey.(crypto.Signer)}).issue(func(*x509.Certificate) {})
	byLeaf.Certificate = append(byLeaf.Certificate, good.Certificate...)
	stolen := *good
	stolen.PrivateKey = ca.issue(func(*x509.Certificate) {}).PrivateKey
	twoNames := pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: []int{2, 5, 4, 3}, Value: "agent"}, {Type: []int{2, 5, 4, 3}, Value: "admin"}}}

	for what, cert := range map[string]*tls.Certificate{
		"expired":                        ca.issue(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }),
		"not yet valid":                  ca.issue(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour); c.NotAfter = now.Add(2 * time.Hour) }),
		"for servers":                    ca.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		"for signing code":               ca.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }),
		"of another CA":                  ca.another().issue(func(*x509.Certificate) {}),
		"of itself":                      selfSigned(t, ca),
		"with another's key":             &stolen,
		"by a CA too far below":          below, // the development CA allows none
		"by a certificate that is no CA": byLeaf,
		"with a critical extension": ca.issue(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}),
		"without a name":         name(func(*x509.Certificate) {}),
		"with two common names":  ca.issue(func(c *x509.Certificate) { c.Subject = twoNames }),
		"with a URI as its name": name(func(c *x509.Certificate) { c.Subject.CommonName = "spiffe://corp.example/admin" }),
		"with a line break":      name(func(c *x509.Certificate) { c.Subject.CommonName = "agent\nadmin" }),
		"with two SPIFFE ids": ca.issue(func(c *x509.Certificate) {
			c.URIs = uris(t, "spiffe://corp.example/agent", "spiffe://corp.example/admin")
		}),
		"with a SPIFFE id and a URL":   ca.issue(func(c *x509.Certificate) { c.URIs = uris(t, "https://corp.example/", "spiffe://corp.example/admin") }),
		"with a SPIFFE wildcard":       ca.issue(func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://*.example/agent") }),
		"with a SPIFFE path wildcard":  ca.issue(func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://corp.example/*") }),
		"with dots in the SPIFFE path": ca.issue(func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://corp.example/agent/../admin") }),
		"with escapes":                 ca.issue(func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://corp.example/%61dmin") }),
		"with a SPIFFE query":          ca.issue(func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://corp.example/agent?x=1") }),
		"with a SPIFFE user":           ca.issue(func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://admin@corp.example/agent") }),
		"with a SPIFFE port":           ca.issue(func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://corp.example:80/agent") }),
		"with a SPIFFE in capitals":    ca.issue(func(c *x509.Certificate) { c.URIs = uris(t, "SPIFFE://CORP.example/agent") }),
		"with no trust domain":         ca.issue(func(c *x509.Certificate) { c.URIs = uris(t, "spiffe:///agent") }),
		"with a wildcard name":         name(func(c *x509.Certificate) { c.DNSNames = []string{"*.corp.example"} }),
	} {
		for _, token := range []string{"", g.line("agent.jwt")} {
			a, err := g.tryCall(g.insisting(cert), token, http.MethodGet, "/v1/whoami", "")
			if err == nil && a.status != http.StatusUnauthorized {
				t.Errorf("%s, with a token: %v: %d %s", what, token != "", a.status, a.body)
			}
		}
	}
	// The same name from another source is another principal.
	var who api.WhoAmI
	dns := name(func(c *x509.Certificate) { c.DNSNames = []string{"AGENT.corp.example"}; c.Subject.CommonName = "admin" })
	g.call(g.newHTTP(dns), "", http.MethodGet, "/v1/whoami", "").want(http.StatusOK).into(&who)
	if who.Principal != "mtls:agent.corp.example" {
		t.Errorf("principal %s", who.Principal)
	}
	g.stop()
}

// insisting is a client that shows its certificate also where the server asks
// for others.
func (g *gateway) insisting(cert *tls.Certificate) *http.Client {
	g.t.Helper()
	c := g.newHTTP(nil)
	c.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return c
}

// selfSigned is a client certificate that nobody but itself vouches for.
func selfSigned(t *testing.T, ca *devCA) *tls.Certificate {
	t.Helper()
	cert := ca.issue(func(*x509.Certificate) {})
	der, err := x509.CreateCertificate(rand.Reader, cert.Leaf, cert.Leaf, cert.PrivateKey.(crypto.Signer).Public(), cert.PrivateKey)
	must(t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: cert.PrivateKey}
}

// A client that resumes a TLS session shows no certificate; the one of the
// first handshake counts, and is judged anew: once it is revoked, neither the
// connections nor the sessions of before help.
func TestResumptionAfterRevocation(t *testing.T) {
	g := stopped(t)
	crl := newRevoker(t, g)
	crl.publish(t)
	g.edit("keyhole.yaml", "  client_ca_file: ca.crt", "  client_ca_file: ca.crt\n  crl_files: [clients.crl]")
	g.edit("keyhole.yaml", "log:", "reload_interval: 1s\nlog:")
	g.start()
	crt, pair := g.certificate(t, "billing", "spiffe://corp.example/billing")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(g.line("ca.crt")))
	// A new connection for each request, all with one memory of sessions.
	resuming := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	ask := func() (status int, resumed bool, err error) {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: resuming, DisableKeepAlives: true}, Timeout: patience}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.api+"/v1/whoami", nil)
		must(t, err)
		resp, err := c.Do(req)
		if err != nil {
			return 0, false, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body) // the ticket comes with it
		return resp.StatusCode, resp.TLS.DidResume, err
	}
	eventually(t, "a session is resumed", func() bool {
		status, resumed, err := ask()
		if err != nil || status != http.StatusOK {
			t.Fatalf("%d %v", status, err)
		}
		return resumed
	})
	crl.publish(t, crt)
	eventually(t, "the revocation is in force", func() bool {
		status, _, err := ask()
		return err != nil || status == http.StatusUnauthorized
	})
	for range 5 {
		if status, resumed, err := ask(); err == nil && status != http.StatusUnauthorized {
			t.Errorf("resumed: %v: %d", resumed, status)
		}
	}
	g.stop()
}

// A token that is bound to a certificate (RFC 8705) is good over a connection
// with that certificate, and over no other; neither a resumed session nor a
// certificate for the same name or key changes that.
func TestBoundTokens(t *testing.T) {
	g := newGateway(t)
	ca, is := g.ca(), g.devIssuer()
	mine, other := ca.issue(func(*x509.Certificate) {}), ca.issue(func(*x509.Certificate) {})
	renewed := &tls.Certificate{PrivateKey: mine.PrivateKey} // the same key and name, another certificate
	tmpl := *mine.Leaf
	tmpl.SerialNumber = big.NewInt(4711)
	der, err := x509.CreateCertificate(rand.Reader, &tmpl, ca.cert, mine.PrivateKey.(crypto.Signer).Public(), ca.key)
	must(t, err)
	renewed.Certificate = [][]byte{der}
	sum := sha256.Sum256(mine.Certificate[0])
	bound := token(t, jwt.SigningMethodES256, is.key, is.kid, claims(jwt.MapClaims{"cnf": map[string]string{"x5t#S256": b64url(sum[:])}}))

	ask := func(c *tls.Certificate) answer {
		return g.call(g.newHTTP(c), bound, http.MethodGet, "/v1/whoami", "")
	}
	var who api.WhoAmI
	if ask(mine).want(http.StatusOK).into(&who); who.Principal != "jwt:dev:agent" || who.Method != "jwt+mtls" {
		t.Errorf("%+v", who)
	}
	for range 2 { // the second time, the token is remembered
		said := map[string]string{}
		for what, c := range map[string]*tls.Certificate{"none": nil, "another": other, "a renewed one": renewed} {
			a := ask(c)
			id := a.refused(http.StatusUnauthorized, "unauthenticated").RequestID
			said[strings.ReplaceAll(string(a.body), id, "ID")] = what
		}
		if len(said) != 1 {
			t.Errorf("the refusals differ: %v", said)
		}
		ask(mine).want(http.StatusOK)
	}
	g.stop()
}

// A listener that requires client certificates answers nobody without one,
// whatever token they have.
func TestCertificateRequired(t *testing.T) {
	g := stopped(t)
	g.edit("keyhole.yaml", "client_auth: optional", "client_auth: required")
	g.start()
	if a, err := g.tryCall(g.http, g.line("admin.jwt"), http.MethodGet, "/v1/whoami", ""); err == nil {
		t.Errorf("without a certificate: %d %s", a.status, a.body)
	}
	pair, err := tls.LoadX509KeyPair(g.path("agent.crt"), g.path("agent.key"))
	must(t, err)
	g.call(g.newHTTP(&pair), "", http.MethodGet, "/v1/whoami", "").want(http.StatusOK)
	g.stop()
}

// What the server shows of itself is its certificate's chain, and no key.
func TestServerShowsNoKey(t *testing.T) {
	g := newGateway(t)
	block, _ := pem.Decode([]byte(g.line("server.key")))
	for _, path := range []string{"/v1/jwks.json", "/v1/openapi.yaml", "/v1/keys", "/server.key", "/keyhole.yaml", "/..%2fserver.key", "//server.key", "/debug/pprof/", "/.env"} {
		a := g.read(admin, path)
		if strings.Contains(string(a.body), "PRIVATE KEY") || strings.Contains(string(a.body), string(block.Bytes)) || strings.Contains(string(a.body), g.dir) {
			t.Errorf("%s: %.200s", path, a.body)
		}
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/", "/../keyhole.yaml"} {
		if status, body := g.page(path); status == http.StatusOK {
			t.Errorf("operations %s: %s", path, fmt.Sprint(body))
		}
	}
	g.stop()
}
