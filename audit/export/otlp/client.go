package otlp

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"time"
)

// newClient returns a client that follows no redirect: the records are for
// the collector that was configured, and so are the headers.
func newClient(conf *tls.Config, timeout time.Duration) *http.Client {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: timeout, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 2, MaxResponseHeaderBytes: 64 << 10,
	}
	return &http.Client{
		Transport: curt{transport}, Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// curt hides what a collector says of a failure: the SDK makes it part of its
// error, which is logged and shown, and it may repeat the headers of the
// request.
type curt struct{ next *http.Transport }

func (c curt) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	if err == nil && (resp.StatusCode < 200 || resp.StatusCode > 299) {
		_ = resp.Body.Close() // it was only read
		resp.Body, resp.ContentLength = http.NoBody, 0
		resp.Status = fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return resp, err
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (c curt) CloseIdleConnections() { c.next.CloseIdleConnections() }
