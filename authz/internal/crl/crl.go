// Package crl checks client certificates against certificate revocation
// lists (RFC 5280) that are read from files. Only complete lists are taken:
// a list that covers a part of the certificates, or names other issuers'
// ones, has a critical extension and is refused.
package crl

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

// MaxBytes is the largest file that is read.
const MaxBytes = 64 << 20

// Why a certificate is not accepted.
var (
	ErrRevoked = errors.New("the certificate is revoked")
	ErrExpired = errors.New("the revocation list of the certificate's issuer has expired")
	ErrMissing = errors.New("there is no revocation list of the certificate's issuer")
)

// Lists is an immutable collection of revocation lists. The zero value and
// nil hold none.
type Lists struct {
	byIssuer map[string][]list // by raw distinguished name
}

type list struct {
	file    string
	issuer  *x509.Certificate
	next    time.Time // zero: the list does not expire
	revoked map[string]struct{}
}

// Load reads revocation lists, each PEM (several in a file) or DER, and
// checks that each is signed by one of the issuers and is not from the
// future. A list that has expired is loaded: Check tells.
func Load(files []string, issuers []*x509.Certificate, now time.Time) (*Lists, error) {
	l := &Lists{byIssuer: map[string][]list{}}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading a revocation list: %w", err)
		}
		if err := l.add(file, data, issuers, now); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Lists) add(file string, data []byte, issuers []*x509.Certificate, now time.Time) error {
	if len(data) > MaxBytes {
		return fmt.Errorf("%s has more than %d bytes", file, MaxBytes)
	}
	ders, err := blocks(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, der := range ders {
		parsed, err := parse(der, issuers, now)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		parsed.file = file
		name := string(parsed.issuer.RawSubject)
		l.byIssuer[name] = append(l.byIssuer[name], *parsed)
	}
	return nil
}

// blocks returns the DER lists in a file.
func blocks(data []byte) ([][]byte, error) {
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		return [][]byte{data}, nil
	}
	var ders [][]byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("a PEM block %.32q where \"X509 CRL\" was expected", block.Type)
		}
		ders = append(ders, block.Bytes)
	}
	if len(ders) == 0 || len(bytes.TrimSpace(data)) > 0 {
		return nil, errors.New("the PEM text is damaged")
	}
	return ders, nil
}

func parse(der []byte, issuers []*x509.Certificate, now time.Time) (*list, error) {
	rl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("not a revocation list: %w", err)
	}
	if len(rl.Raw) != len(der) {
		return nil, errors.New("there is more behind the revocation list")
	}
	if err := onlyKnown(rl.Extensions); err != nil {
		return nil, err
	}
	if rl.ThisUpdate.After(now.Add(time.Hour)) {
		return nil, fmt.Errorf("the list is from the future: %s", rl.ThisUpdate.UTC().Format(time.RFC3339))
	}
	issuer := signer(rl, issuers)
	if issuer == nil {
		return nil, fmt.Errorf("the list of %q is not signed by one of the configured CA certificates", rl.Issuer)
	}
	l := &list{issuer: issuer, next: rl.NextUpdate, revoked: make(map[string]struct{}, len(rl.RevokedCertificateEntries))}
	for _, e := range rl.RevokedCertificateEntries {
		if err := onlyKnown(e.Extensions); err != nil {
			return nil, err
		}
		l.revoked[string(e.SerialNumber.Bytes())] = struct{}{}
	}
	return l, nil
}

// onlyKnown refuses critical extensions: deltas, partitions and indirect
// lists, which this package would misread as complete.
func onlyKnown(extensions []pkix.Extension) error {
	for _, e := range extensions {
		if e.Critical {
			return fmt.Errorf("the list has the critical extension %s; only complete, direct lists are taken", e.Id)
		}
	}
	return nil
}

func signer(rl *x509.RevocationList, issuers []*x509.Certificate) *x509.Certificate {
	for _, c := range issuers {
		if bytes.Equal(c.RawSubject, rl.RawIssuer) && rl.CheckSignatureFrom(c) == nil {
			return c
		}
	}
	return nil
}

// Check looks a certificate up in the lists of its issuer: ErrRevoked
// if one of them has it, whatever its age; else ErrExpired if all of them
// are past their next update, or ErrMissing if there are none.
func (l *Lists) Check(cert *x509.Certificate, now time.Time) error {
	if l == nil {
		return ErrMissing
	}
	fresh, stale := false, false
	serial := cert.SerialNumber.Bytes()
	for _, c := range l.byIssuer[string(cert.RawIssuer)] {
		// Two CAs may have one name; the key identifiers tell them apart.
		if len(cert.AuthorityKeyId) > 0 && len(c.issuer.SubjectKeyId) > 0 && !bytes.Equal(cert.AuthorityKeyId, c.issuer.SubjectKeyId) {
			continue
		}
		if _, ok := c.revoked[string(serial)]; ok {
			return ErrRevoked
		}
		if c.expired(now) {
			stale = true
		} else {
			fresh = true
		}
	}
	switch {
	case fresh:
		return nil
	case stale:
		return ErrExpired
	}
	return ErrMissing
}

func (l *list) expired(now time.Time) bool { return !l.next.IsZero() && now.After(l.next) }

// Expired returns the files whose lists are past their next update.
func (l *Lists) Expired(now time.Time) []string {
	var files []string
	if l == nil {
		return nil
	}
	for _, lists := range l.byIssuer {
		for _, c := range lists {
			if c.expired(now) {
				files = append(files, c.file)
			}
		}
	}
	return files
}
