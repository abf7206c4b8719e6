package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// TokenSource supplies the access token (a JWT) for the next request. It is
// called for each request and may be called concurrently.
type TokenSource func(ctx context.Context) (string, error)

// TokenString returns a source of one fixed token.
func TokenString(token string) TokenSource {
	token = strings.TrimSpace(token)
	return func(context.Context) (string, error) { return checkToken(token) }
}

// maxToken bounds a token in bytes; gateways refuse far smaller ones.
const maxToken = 64 << 10

// TokenFile returns a source that reads the file, and reads it again whenever
// the file has changed: the way of tokens that another process renews.
func TokenFile(path string) TokenSource {
	var mu sync.Mutex
	var token string
	var seen os.FileInfo
	return func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		info, err := os.Stat(path)
		if err != nil {
			return "", fmt.Errorf("the token file: %w", err)
		}
		if seen != nil && sameFile(seen, info) {
			return token, nil
		}
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("the token file: %w", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
		if err != nil {
			return "", fmt.Errorf("the token file: %w", err)
		}
		fresh, err := checkToken(strings.TrimSpace(string(b)))
		if err != nil {
			return "", fmt.Errorf("the token file %s: %w", path, err)
		}
		token, seen = fresh, info // info was taken before reading: a change meanwhile is seen next time
		return token, nil
	}
}

func sameFile(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// checkToken refuses what cannot be a bearer token (RFC 6750, 2.1). The
// error does not repeat it.
func checkToken(token string) (string, error) {
	switch {
	case token == "":
		return "", errors.New("it holds no token")
	case len(token) > maxToken:
		return "", fmt.Errorf("it holds more than %d bytes", maxToken)
	}
	for i := range len(token) {
		if c := token[i]; c <= ' ' || c >= 0x7f {
			return "", errors.New("it holds blanks or characters that no token has")
		}
	}
	return token, nil
}

// certSource reads a client certificate, and reads it again when one of its
// files has changed. While a renewal is half written the last good pair
// serves on.
type certSource struct {
	certFile, keyFile string

	mu                sync.Mutex
	cert              *tls.Certificate
	seenCert, seenKey os.FileInfo
}

// get implements tls.Config.GetClientCertificate.
func (s *certSource) get(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	certInfo, err := os.Stat(s.certFile)
	keyInfo, kerr := os.Stat(s.keyFile)
	if err = errors.Join(err, kerr); err == nil {
		if s.cert != nil && sameFile(certInfo, s.seenCert) && sameFile(keyInfo, s.seenKey) {
			return s.cert, nil
		}
		var cert tls.Certificate
		if cert, err = tls.LoadX509KeyPair(s.certFile, s.keyFile); err == nil {
			s.cert, s.seenCert, s.seenKey = &cert, certInfo, keyInfo
			return s.cert, nil
		}
	}
	if s.cert != nil {
		return s.cert, nil
	}
	return nil, fmt.Errorf("the client certificate: %w", err)
}
