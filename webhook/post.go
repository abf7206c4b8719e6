package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"keyhole/keys"
)

// Bounds of an endpoint's answer.
const (
	maxAnswer       = 64 << 10
	maxAnswerHeader = 16 << 10
)

// endpoint sends deliveries to one URL.
type endpoint struct {
	url     *url.URL
	timeout time.Duration
	client  *http.Client
	now     func() time.Time
}

func newEndpoint(h Hook, now func() time.Time) (*endpoint, error) {
	u, err := url.Parse(h.URL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, keys.Errorf(keys.ErrInvalid, "the URL must be like https://host/path, without a user or password")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if h.CAFile != "" {
		pem, err := os.ReadFile(h.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the certificates to trust: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, keys.Errorf(keys.ErrInvalid, "%s holds no PEM certificate", h.CAFile)
		}
	}
	return &endpoint{
		url: u, timeout: h.Timeout, now: now,
		client: &http.Client{
			Transport: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				DialContext:            (&net.Dialer{Timeout: h.Timeout}).DialContext,
				TLSClientConfig:        conf,
				TLSHandshakeTimeout:    h.Timeout,
				MaxResponseHeaderBytes: maxAnswerHeader,
				MaxIdleConns:           1,
				MaxConnsPerHost:        1,
				IdleConnTimeout:        time.Minute,
				DisableCompression:     true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// answer is how an attempt ended.
type answer struct {
	status     int           // 0: there was no answer
	retryAfter time.Duration // as the endpoint asked for; 0: it did not
	problem    string        // "": it was taken; safe to show
}

// down reports whether the endpoint, and not one event, is the trouble.
func (a answer) down() bool {
	return a.status == 0 || a.status == http.StatusTooManyRequests || a.status >= 500
}

// post makes one attempt.
func (e *endpoint) post(ctx context.Context, d delivery, jws string) answer {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url.String(), bytes.NewReader(d.body))
	if err != nil {
		return answer{problem: "no request can be made of the URL"}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Keyhole")
	req.Header.Set("Keyhole-Event", string(d.event.Type))
	req.Header.Set("Keyhole-Delivery", d.id)
	req.Header.Set("Keyhole-Signature", jws)
	resp, err := e.client.Do(req)
	if err != nil {
		return answer{problem: e.explain(err)}
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // for the connection to be used again; what it says does not matter
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return answer{status: resp.StatusCode}
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return answer{status: resp.StatusCode, problem: fmt.Sprintf("the endpoint redirects (status %d), which is not followed: correct the URL", resp.StatusCode)}
	}
	return answer{
		status: resp.StatusCode, retryAfter: retryAfter(resp.Header.Get("Retry-After"), e.now()),
		problem: fmt.Sprintf("the endpoint answered with status %d", resp.StatusCode),
	}
}

// retryAfter reads the header (RFC 9110, 10.2.3): seconds or a date. What
// cannot be read, or is past, is 0.
func retryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	if s, err := strconv.ParseUint(header, 10, 64); err == nil {
		return time.Duration(min(s, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// maxRetryAfter is the longest pause that an endpoint can ask for.
const maxRetryAfter = 24 * time.Hour

// explain says why there was no answer, in words of this package: the text of
// an error may hold the URL, or what the endpoint sent.
func (e *endpoint) explain(err error) string {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		if ue.Timeout() {
			return fmt.Sprintf("no answer within %s", e.timeout)
		}
		err = ue.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %s", e.timeout)
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "the name of the host cannot be resolved"
	}
	if ce, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the endpoint's certificate is not trusted: " + certificateProblem(ce.Err)
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return "the endpoint refused the TLS handshake"
	}
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		return "the connection failed: " + no.Error()
	}
	return "the endpoint did not answer as an HTTPS server does"
}

func certificateProblem(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "it is by an unknown authority (ca_file)"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "it is for another host"
	}
	if ie, ok := errors.AsType[x509.CertificateInvalidError](err); ok && ie.Reason == x509.Expired {
		return "it has expired or is not valid yet"
	}
	return "it is not valid"
}
