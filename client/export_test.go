package client

import (
	"context"
	"net"
	"net/http"
	"time"
)

// SetWait replaces the pause before retries, so that tests see how long it
// would be and do not wait.
func (c *Client) SetWait(wait func(context.Context, time.Duration) error) { c.wait = wait }

// RetryAfter reads a Retry-After header.
var RetryAfter = retryAfter

// SetDial replaces how connections are made.
func (c *Client) SetDial(dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	c.http.Transport.(*http.Transport).DialContext = dial
}

// ParseReceipt is parseReceipt.
func ParseReceipt(text string) (Receipt, bool) { return parseReceipt(text) }
