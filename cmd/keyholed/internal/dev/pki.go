package dev

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
	"net"
	"os"
	"slices"
	"time"
)

// Lifetimes of what the development CA makes, and how much of one must be
// left at a start.
const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	certLifetime = 365 * 24 * time.Hour
	certLeft     = 30 * 24 * time.Hour
)

// authority is the development CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// identity is what a certificate shall say.
type identity struct {
	name  string // CN
	usage x509.ExtKeyUsage
	hosts []string // SANs of a server
}

// ensureCA loads ca.crt and ca.key, or makes them.
func (d dir) ensureCA(now time.Time) (*authority, error) {
	cert, key, err := d.loadPair("ca.crt", "ca.key")
	if err == nil && now.Add(certLeft).Before(cert.NotAfter) {
		return &authority{cert, key}, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the development CA: %w; remove ca.crt and ca.key for a new one", err)
	}
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Keyhole development CA", Organization: []string{"keyholed dev"}},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the development CA: %w", err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return &authority{cert, key}, d.writePair("ca.crt", "ca.key", der, key)
}

// ensureCert issues name.crt and name.key unless there are good ones.
func (d dir) ensureCert(ca *authority, file string, id identity, now time.Time) error {
	cert, _, err := d.loadPair(file+".crt", file+".key")
	if err == nil && ca.good(cert, id, now) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: id.name, Organization: []string{"keyholed dev"}},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     minTime(now.Add(certLifetime), ca.cert.NotAfter),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{id.usage},
	}
	for _, h := range id.hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		return fmt.Errorf("issuing %s.crt: %w", file, err)
	}
	return d.writePair(file+".crt", file+".key", der, key)
}

// good reports whether a certificate still says what it shall, by this CA,
// for long enough.
func (ca *authority) good(cert *x509.Certificate, id identity, now time.Time) bool {
	for _, h := range id.hosts {
		if cert.VerifyHostname(h) != nil {
			return false
		}
	}
	return cert.CheckSignatureFrom(ca.cert) == nil && now.Add(certLeft).Before(cert.NotAfter) &&
		cert.Subject.CommonName == id.name && slices.Contains(cert.ExtKeyUsage, id.usage)
}

func (d dir) loadPair(certName, keyName string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certPEM, err := os.ReadFile(d.path(certName))
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return nil, nil, fmt.Errorf("%s holds no PEM", certName)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certName, err)
	}
	key, err := d.loadKey(keyName)
	if err != nil {
		return nil, nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s does not belong to %s", keyName, certName)
	}
	return cert, key, nil
}

func (d dir) loadKey(name string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(d.path(name))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM", name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s is no PKCS #8 key", name)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s is no P-256 key", name)
	}
	return key, nil
}

// writePair writes the key first: a certificate without its key would be
// useless, and the pair is made anew if only one of them is there.
func (d dir) writePair(certName, keyName string, cert []byte, key *ecdsa.PrivateKey) error {
	if err := d.writeKey(keyName, key); err != nil {
		return err
	}
	return d.write(certName, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
}

func (d dir) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return d.write(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// serial returns a random serial number of 120 bits.
func serial() *big.Int {
	b := make([]byte, 15)
	rand.Read(b) // never fails
	return new(big.Int).SetBytes(b)
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
