package gatewaytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// What the gateway knows of its identity provider.
const (
	issuerName = "test"
	issuerURL  = "https://issuer.example"
	audience   = "keyhole"
)

// Principal returns the principal of a subject with a Token.
func Principal(subject string) string { return "jwt:" + issuerName + ":" + subject }

// Token returns a token for a subject in groups, good for an hour.
func (g *Gateway) Token(tb testing.TB, subject string, groups ...string) string {
	tb.Helper()
	return g.TokenUntil(tb, time.Now().Add(time.Hour), subject, groups...)
}

// TokenUntil returns a token that was issued an hour before it expires.
func (g *Gateway) TokenUntil(tb testing.TB, expires time.Time, subject string, groups ...string) string {
	tb.Helper()
	issued := expires.Add(-time.Hour)
	return g.Sign(tb, jwt.MapClaims{
		"iss": issuerURL, "aud": audience, "sub": subject, "groups": groups,
		"iat": issued.Unix(), "nbf": issued.Unix(), "exp": expires.Unix(),
	})
}

// Sign returns a token with any claims, signed by the identity provider.
func (g *Gateway) Sign(tb testing.TB, claims jwt.MapClaims) string {
	tb.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"] = g.issuer.kid
	text, err := token.SignedString(g.issuer.key)
	check(tb, err)
	return text
}

// TokenFile writes a Token into a file of the test and returns its path.
func (g *Gateway) TokenFile(tb testing.TB, subject string, groups ...string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), subject+".jwt")
	write(tb, path, []byte(g.Token(tb, subject, groups...)+"\n"))
	return path
}

// Certificate writes a client certificate with a DNS name in groups (its
// organizational units), and returns the paths of it and of its key. Its
// principal is "mtls:" and the name.
func (g *Gateway) Certificate(tb testing.TB, name string, groups ...string) (certFile, keyFile string) {
	tb.Helper()
	certPEM, keyPEM := g.ca.issue(tb, &x509.Certificate{
		Subject: pkix.Name{CommonName: name, OrganizationalUnit: groups}, DNSNames: []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	dir := tb.TempDir()
	certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	write(tb, certFile, certPEM)
	write(tb, keyFile, keyPEM)
	return certFile, keyFile
}

// issuer is the identity provider.
type issuer struct {
	key  *ecdsa.PrivateKey
	kid  string
	file string // of its JWKS
}

func newIssuer(tb testing.TB, file string) *issuer {
	tb.Helper()
	i := &issuer{key: newKey(tb), kid: "idp-1", file: file}
	point, err := i.key.PublicKey.Bytes() // 4, X, Y (SEC 1, 2.3.3)
	check(tb, err)
	b64 := base64.RawURLEncoding.EncodeToString
	set, err := json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": i.kid, "x": b64(point[1:33]), "y": b64(point[33:]),
	}}})
	check(tb, err)
	write(tb, file, set)
	return i
}

// authority is the CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB, file string) *authority {
	tb.Helper()
	key := newKey(tb)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gatewaytest CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	check(tb, err)
	cert, err := x509.ParseCertificate(der)
	check(tb, err)
	write(tb, file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return &authority{cert, key}
}

// issue completes and signs a certificate, and returns it and its key as PEM.
func (a *authority) issue(tb testing.TB, tmpl *x509.Certificate) (certPEM, keyPEM []byte) {
	tb.Helper()
	key := newKey(tb)
	serial := make([]byte, 16)
	rand.Read(serial)
	tmpl.SerialNumber = new(big.Int).SetBytes(serial)
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(12*time.Hour)
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	check(tb, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	check(tb, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func (a *authority) server(tb testing.TB) tls.Certificate {
	tb.Helper()
	certPEM, keyPEM := a.issue(tb, &x509.Certificate{
		Subject: pkix.Name{CommonName: "gateway"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	check(tb, err)
	return cert
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(tb, err)
	return key
}
