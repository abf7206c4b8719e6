package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"time"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// Error is a refusal by the gateway. It unwraps to the sentinel of package
// keys.
type Error struct {
	Problem    api.Problem
	RetryAfter time.Duration // what the gateway asked for; 0: nothing
}

func (e *Error) Error() string {
	text := e.Problem.Detail
	if text == "" {
		text = e.Problem.Title
	}
	if e.Problem.RequestID != "" {
		return fmt.Sprintf("%s (%s, request %s)", text, e.Problem.Code, e.Problem.RequestID)
	}
	return fmt.Sprintf("%s (%s)", text, e.Problem.Code)
}

// Unwrap returns the sentinel with the problem's detail.
func (e *Error) Unwrap() error { return e.Problem.Err() }

// ConnError says that no answer came from the gateway.
type ConnError struct {
	Address string
	Err     error
	// Permanent is true when trying again cannot help: the TLS handshake
	// failed over a certificate, or the other side does not speak TLS.
	Permanent bool
}

func (e *ConnError) Error() string {
	return fmt.Sprintf("no answer from the gateway at %s: %v", e.Address, e.Err)
}

// Unwrap returns the transport's error.
func (e *ConnError) Unwrap() error { return e.Err }

// connError turns a failed round trip into what the caller needs to know.
// outer is the caller's ctx, ctx the one bounded by the client's timeout, at
// the place of the gateway that was asked.
func (c *Client) connError(outer, ctx context.Context, at uint32, err error) error {
	address := c.bases[at].String()
	switch {
	case outer.Err() != nil:
		return outer.Err()
	case ctx.Err() != nil:
		return keys.Errorf(keys.ErrTimeout, "no answer from the gateway at %s within %s", address, c.timeout)
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // it repeats method and URL
	}
	out := &ConnError{Address: address, Err: err}
	var untrusted *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var alert *net.OpError
	switch {
	case errors.As(err, &untrusted), errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		out.Permanent = true
	case errors.As(err, &alert) && alert.Op == "remote error": // crypto/tls: the peer sent an alert
		out.Permanent = true
		out.Err = fmt.Errorf("%w: the gateway refused the TLS connection, or the client certificate on it: %w", keys.ErrUnauthenticated, err)
	}
	return out
}

// refusal reads an answer that is no success.
func refusal(res *http.Response, body []byte, now time.Time) *Error {
	e := &Error{RetryAfter: retryAfter(res.Header.Get("Retry-After"), now)}
	media, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err == nil && media == api.ProblemType && json.Unmarshal(body, &e.Problem) == nil && e.Problem.Code != "" {
		e.Problem.Status = res.StatusCode
		return e
	}
	// Not the gateway's own words: a proxy, or no gateway at all.
	kind, detail := keys.ErrInternal, "is a proxy in between, or is this no Keyhole gateway?"
	switch s := res.StatusCode; {
	case s >= 300 && s < 400:
		detail = "redirects are not followed; set the address to the gateway itself"
	case s == http.StatusUnauthorized || s == http.StatusProxyAuthRequired:
		kind = keys.ErrUnauthenticated
	case s == http.StatusForbidden:
		kind = keys.ErrForbidden
	case s == http.StatusNotFound:
		kind = keys.ErrNotFound
	case s == http.StatusRequestEntityTooLarge:
		kind = keys.ErrTooLarge
	case s == http.StatusTooManyRequests:
		kind = keys.ErrRateLimited
	case retryable(s):
		kind = keys.ErrOverloaded
	}
	e.Problem = api.ProblemOf(keys.Errorf(kind, "the address answered %d %s without a problem document; %s",
		res.StatusCode, http.StatusText(res.StatusCode), detail))
	if e.Problem.Detail == "" { // ProblemOf hides the text of internal errors; this one is our own
		e.Problem.Detail = fmt.Sprintf("the address answered %d %s; %s", res.StatusCode, http.StatusText(res.StatusCode), detail)
	}
	e.Problem.Status = res.StatusCode
	e.Problem.RequestID = res.Header.Get("X-Request-Id")
	return e
}

// retryable reports whether a status means "not now".
func retryable(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}
