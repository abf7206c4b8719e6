package client

import (
	"context"
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
	"sync"
	"sync/atomic"
	"time"
)

// Config says which gateway to talk to, and as whom. Only Address is
// required.
type Config struct {
	// Address is the URL of the gateway, "https://keyhole.example:8443", or
	// those of several over one store, separated by commas. A call goes to the
	// one that answered last; when it cannot be reached or says 502, 503 or
	// 504, the call is tried at the next one, which takes all calls from then
	// on. That is safe: whatever changes something carries an Idempotency-Key
	// or can be repeated. Plain http is taken for a loopback address only.
	Address string
	// CACertFile holds the PEM certificates that the gateway's certificate
	// must chain to, and replaces the system's roots. Read once, by New.
	CACertFile string
	// ServerName is the name that the gateway's certificate must carry;
	// default the host in its Address.
	ServerName string
	// Token supplies the JWT of each request; nil sends none.
	Token TokenSource
	// CertFile and KeyFile hold the client certificate (PEM) for mutual TLS.
	// Both or none. A new connection uses what the files hold at that time.
	CertFile, KeyFile string
	// UserAgent is sent with each request; default "keyhole-client".
	UserAgent string
	// Timeout bounds each call with all its retries, beside its ctx; default
	// 30 s. Negative: ctx alone decides.
	Timeout time.Duration
	// Retries is how often a call is tried again; default 3, and once more for
	// each further Address. Negative: never.
	Retries int
	// MaxResponse bounds an answer in bytes; default 64 MiB.
	MaxResponse int64
	// MaxConns bounds the connections to the gateway (HTTP/1.1; HTTP/2 needs
	// one); default 64.
	MaxConns int
}

const (
	defaultTimeout     = 30 * time.Second
	defaultRetries     = 3
	defaultMaxResponse = 64 << 20
	defaultMaxConns    = 64
)

// Client talks to one gateway, or to one of several, as one principal.
type Client struct {
	bases       []*url.URL
	at          atomic.Uint32 // of bases, where calls go
	http        *http.Client
	token       TokenSource
	userAgent   string
	timeout     time.Duration // 0: none
	retries     int
	maxResponse int64
	wait        func(context.Context, time.Duration) error // until a retry

	mu    sync.Mutex
	cache map[string]document // by path; at most maxCached
}

// document is an answer that is asked for again with its ETag.
type document struct {
	etag string
	body []byte
}

// New checks the configuration and reads its certificate files; it does not
// connect. The error says which field is wrong.
func New(cfg Config) (*Client, error) {
	bases, err := parseAddresses(cfg.Address)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	c := &Client{
		bases: bases, token: cfg.Token, userAgent: cfg.UserAgent, timeout: cfg.Timeout,
		retries: cfg.Retries, maxResponse: cfg.MaxResponse, wait: wait, cache: map[string]document{},
	}
	switch {
	case c.timeout == 0:
		c.timeout = defaultTimeout
	case c.timeout < 0:
		c.timeout = 0
	}
	switch {
	case c.retries == 0:
		c.retries = defaultRetries
	case c.retries < 0:
		c.retries = 0
	}
	if c.retries > 0 {
		c.retries += len(bases) - 1
	}
	if c.maxResponse <= 0 {
		c.maxResponse = defaultMaxResponse
	}
	if c.userAgent == "" {
		c.userAgent = "keyhole-client"
	}
	conns := cfg.MaxConns
	if conns <= 0 {
		conns = defaultMaxConns
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if len(bases) > 1 {
		dialer.Timeout = 3 * time.Second // there are others to ask
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         dialer.DialContext,
			TLSClientConfig:     tlsConfig,
			TLSHandshakeTimeout: 10 * time.Second,
			ForceAttemptHTTP2:   true,
			// A connection that died silently is noticed by a ping, not by
			// every call on it running into its deadline.
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: 20 * time.Second, PingTimeout: 10 * time.Second},
			MaxConnsPerHost:        conns,
			MaxIdleConns:           conns,
			MaxIdleConnsPerHost:    conns,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true, // keys and ciphertexts do not compress, and lengths would leak
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Close closes the idle connections. The client stays usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Address returns the URL of the gateway that calls go to at the moment.
func (c *Client) Address() string { return c.bases[c.at.Load()].String() }

func parseAddresses(addresses string) (all []*url.URL, err error) {
	for address := range strings.SplitSeq(addresses, ",") {
		u, err := parseAddress(strings.TrimSpace(address))
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	return all, nil
}

func parseAddress(address string) (*url.URL, error) {
	const want = "want something like https://keyhole.example:8443"
	if address == "" {
		return nil, errors.New("the gateway's address is empty; " + want)
	}
	u, err := url.Parse(address)
	// The text is not repeated: it might hold a password.
	switch {
	case !strings.Contains(address, "://"):
		return nil, errors.New("the gateway's address is no URL, its scheme is missing; put https:// before it, " + want)
	case err != nil || u.Hostname() == "":
		return nil, errors.New("the gateway's address is no URL; " + want)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return nil, errors.New("the gateway's address holds more than scheme, host, port and path; " + want)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, fmt.Errorf("the gateway's address is plain http to %s; use https (http is for loopback only)", u.Host)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("the gateway's address has the scheme %q; use https", u.Scheme)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func (cfg *Config) tls() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName}
	if cfg.CACertFile != "" {
		pem, err := os.ReadFile(cfg.CACertFile)
		if err != nil {
			return nil, fmt.Errorf("reading the CA certificates: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the CA file %s holds no PEM certificate", cfg.CACertFile)
		}
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, errors.New("a client certificate needs both its certificate file and its key file")
	}
	if cfg.CertFile != "" {
		source := &certSource{certFile: cfg.CertFile, keyFile: cfg.KeyFile}
		if _, err := source.get(nil); err != nil {
			return nil, err
		}
		out.GetClientCertificate = source.get
	}
	return out, nil
}
