package jwks

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// CheckURL refuses a URL that keys must not come from: anything but https,
// or http on this machine.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("the URL of a key set is none")
	}
	switch {
	case u.User != nil:
		return errors.New("the URL of a key set must not hold a password")
	case u.Host == "" || u.Fragment != "":
		return fmt.Errorf("%q is no URL of a key set", Shown(raw))
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("the key set at %q must be fetched by https; http is for this machine only", Shown(raw))
}

// Shown is a URL without its query, which may hold a secret, for logs.
func Shown(raw string) string {
	before, _, query := strings.Cut(raw, "?")
	if query {
		return before + "?..."
	}
	return before
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// NewClient returns the client for one issuer's key set. caFile names the
// PEM certificates to trust; "" means those of the system.
func NewClient(caFile string, timeout time.Duration) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("reading the certificates for a key set: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", caFile)
		}
	}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: timeout}).DialContext,
			TLSClientConfig:        conf,
			TLSHandshakeTimeout:    timeout,
			ResponseHeaderTimeout:  timeout,
			MaxResponseHeaderBytes: 64 << 10,
			DisableKeepAlives:      true, // minutes lie between two fetches
			ForceAttemptHTTP2:      false,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return errors.New("too many redirects")
			}
			if req.URL.Scheme != "https" && via[0].URL.Scheme == "https" {
				return errors.New("a redirect leaves https")
			}
			return CheckURL(req.URL.String())
		},
	}, nil
}
