package client

import (
	"context"
	"time"
)

// SetWait replaces the pause before retries, so that tests see how long it
// would be and do not wait.
func (c *Client) SetWait(wait func(context.Context, time.Duration) error) { c.wait = wait }

// RetryAfter reads a Retry-After header.
var RetryAfter = retryAfter
