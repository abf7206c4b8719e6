package authztest

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA issues certificates and revocation lists.
type CA struct {
	Cert *x509.Certificate
	Key  crypto.Signer
	Up   []*x509.Certificate // the CAs above it, nearest first
}

// NewCA makes a root CA that is valid for a day around now.
func NewCA(tb testing.TB, name string, now time.Time) *CA {
	tb.Helper()
	key := NewKey(tb, "ES256")
	return &CA{Key: key, Cert: sign(tb, caTemplate(name, now), nil, key.Public(), key)}
}

// NewSub makes a CA below this one.
func (ca *CA) NewSub(tb testing.TB, name string, now time.Time) *CA {
	tb.Helper()
	key := NewKey(tb, "ES256")
	return &CA{
		Key: key, Cert: sign(tb, caTemplate(name, now), ca.Cert, key.Public(), ca.Key),
		Up: append([]*x509.Certificate{ca.Cert}, ca.Up...),
	}
}

func caTemplate(name string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:  x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
}

// Issue makes a client certificate after a template, whose times default to
// an hour around now, and returns it with its key and the chain that TLS
// would have verified, leaf and root included.
func (ca *CA) Issue(tb testing.TB, template x509.Certificate, now time.Time) (tls.Certificate, []*x509.Certificate) {
	tb.Helper()
	key := NewKey(tb, "ES256")
	if template.NotBefore.IsZero() {
		template.NotBefore = now.Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = now.Add(time.Hour)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	leaf := sign(tb, &template, ca.Cert, key.Public(), ca.Key)
	chain := append([]*x509.Certificate{leaf, ca.Cert}, ca.Up...)
	cert := tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range chain[:len(chain)-1] {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert, chain
}

func sign(tb testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	tb.Helper()
	if template.SerialNumber == nil {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
		if err != nil {
			tb.Fatal(err)
		}
		template.SerialNumber = serial
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// CRL makes a revocation list, in DER, that is valid from now until next.
func (ca *CA) CRL(tb testing.TB, now, next time.Time, revoked ...*x509.Certificate) []byte {
	tb.Helper()
	list := &x509.RevocationList{Number: big.NewInt(now.Unix()), ThisUpdate: now.Add(-time.Minute), NextUpdate: next}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: now.Add(-time.Minute)})
	}
	return ca.SignCRL(tb, list)
}

// SignCRL signs any revocation list.
func (ca *CA) SignCRL(tb testing.TB, list *x509.RevocationList) []byte {
	tb.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.Cert, ca.Key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

// PEM encodes DER.
func PEM(kind string, der ...[]byte) []byte {
	var out []byte
	for _, d := range der {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: d})...)
	}
	return out
}

// WriteFile writes data to a new file and returns its path.
func WriteFile(tb testing.TB, name string, data []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}
