// Package tlsfiles keeps the TLS side of a listener in step with its files:
// the server's certificate and the CAs of client certificates. New
// connections use what was loaded last; a connection that was made under
// other client CAs is judged anew by those of now.
package tlsfiles

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// Config names the files.
type Config struct {
	CertFile, KeyFile string
	ClientCAFile      string             // "": no client certificates
	ClientAuth        tls.ClientAuthType // for listeners
	MinVersion        uint16
}

// Files is what was loaded last. Its methods may be called concurrently.
type Files struct {
	cfg     Config
	current atomic.Pointer[material]
}

// material is immutable.
type material struct {
	tls  *tls.Config
	leaf *x509.Certificate
	cas  []*x509.Certificate
	hash string
}

// Load reads the files. The error says which of them cannot be used.
func Load(c Config) (*Files, error) {
	f := &Files{cfg: c}
	m, err := f.load()
	if err != nil {
		return nil, err
	}
	f.current.Store(m)
	return f, nil
}

// Reload reads the files again. After an error the old contents stay. hash
// identifies what is in use; changed says that it was not before.
func (f *Files) Reload(context.Context) (changed bool, hash string, err error) {
	m, err := f.load()
	if err != nil {
		return false, "", err
	}
	if m.hash == f.current.Load().hash {
		return false, m.hash, nil
	}
	f.current.Store(m)
	return true, m.hash, nil
}

// Hash identifies what is in use, as Reload does.
func (f *Files) Hash() string { return f.current.Load().hash }

func (f *Files) load() (*material, error) {
	certPEM, err := os.ReadFile(f.cfg.CertFile)
	if err != nil {
		return nil, fmt.Errorf("reading the server's certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(f.cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the server's key: %w", err)
	}
	defer clear(keyPEM)
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the certificate %s and the key %s: %w", f.cfg.CertFile, f.cfg.KeyFile, err)
	}
	m := &material{leaf: cert.Leaf, tls: &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   f.cfg.MinVersion,
		CipherSuites: cipherSuites(),
		NextProtos:   []string{"h2", "http/1.1"},
	}}
	sum := sha256.New()
	for _, der := range cert.Certificate {
		sum.Write(der)
	}
	if f.cfg.ClientCAFile != "" {
		if m.cas, err = readCAs(f.cfg.ClientCAFile); err != nil {
			return nil, err
		}
		m.tls.ClientAuth = f.cfg.ClientAuth
		m.tls.ClientCAs = x509.NewCertPool()
		sum.Write([]byte{0})
		for _, ca := range m.cas {
			m.tls.ClientCAs.AddCert(ca)
			sum.Write(ca.Raw)
		}
	}
	m.hash = hex.EncodeToString(sum.Sum(nil))
	return m, nil
}

// cipherSuites are those of TLS 1.2 with forward secrecy and authenticated
// encryption (RFC 9325, 4.2). TLS 1.3 has no others.
func cipherSuites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

func readCAs(file string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the client CAs: %w", err)
	}
	var cas []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("the client CAs in %s: %w", file, err)
		}
		if !ca.IsCA {
			return nil, fmt.Errorf("the client CAs in %s: %q is no CA certificate", file, ca.Subject)
		}
		cas = append(cas, ca)
	}
	if len(cas) == 0 {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return cas, nil
}

// ServerConfig returns a configuration for a listener. Every connection gets
// what was loaded last. Session tickets outlive a reload; crypto/tls resumes
// a session only while its client's chain ends at a CA of now.
func (f *Files) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         f.cfg.MinVersion,
		NextProtos:         []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current.Load().tls, nil },
	}
}

// Certificate returns the server's certificate.
func (f *Files) Certificate() *x509.Certificate { return f.current.Load().leaf }

// ClientCAs returns the CAs of client certificates.
func (f *Files) ClientCAs() []*x509.Certificate { return slices.Clone(f.current.Load().cas) }

// Paths returns the files to watch.
func (f *Files) Paths() []string {
	paths := []string{f.cfg.CertFile, f.cfg.KeyFile}
	if f.cfg.ClientCAFile != "" {
		paths = append(paths, f.cfg.ClientCAFile)
	}
	return paths
}

// required reports whether every client must show a certificate.
func (f *Files) required() bool { return f.cfg.ClientAuth == tls.RequireAndVerifyClientCert }

// trusted reports whether one of the chains that TLS verified when the
// connection was made ends at a CA of now. It is for connections that lived
// through a reload.
func (f *Files) trusted(chains [][]*x509.Certificate) bool {
	for _, chain := range chains {
		if len(chain) == 0 {
			continue
		}
		root := chain[len(chain)-1]
		for _, ca := range f.current.Load().cas {
			if bytes.Equal(ca.Raw, root.Raw) {
				return true
			}
		}
	}
	return false
}

// Expiring returns a warning if a certificate has expired, is not valid yet
// or has less than a week left, else nil.
func Expiring(cert *x509.Certificate, now time.Time) error {
	switch left := cert.NotAfter.Sub(now); {
	case left <= 0:
		return fmt.Errorf("the certificate of %q expired at %s", cert.Subject, cert.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(cert.NotBefore):
		return fmt.Errorf("the certificate of %q is valid only from %s", cert.Subject, cert.NotBefore.UTC().Format(time.RFC3339))
	case left < 7*24*time.Hour:
		return fmt.Errorf("the certificate of %q expires at %s", cert.Subject, cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// Version returns the TLS version that a configuration calls "1.2" or "1.3".
func Version(name string) (uint16, error) {
	switch name {
	case "1.2":
		return tls.VersionTLS12, nil
	case "1.3":
		return tls.VersionTLS13, nil
	}
	return 0, errors.New("unknown TLS version")
}
