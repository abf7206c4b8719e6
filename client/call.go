package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"keyhole/keys"
)

// call is one logical call, however often it is sent.
type call struct {
	method string
	path   string // below the address, clean
	query  url.Values
	body   []byte // JSON; nil: none
	etag   string // sent as If-None-Match
	key    string // sent as Idempotency-Key
	media  string // what a success must be; "": JSON
}

// answer is a success, read whole.
type answer struct {
	status int
	etag   string
	body   []byte
}

// do sends a call until it is answered, the retries are used up or ctx ends.
func (c *Client) do(outer context.Context, in call) (*answer, error) {
	ctx := outer
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(outer, c.timeout)
		defer cancel()
	}
	for attempt := 0; ; attempt++ {
		at := c.at.Load()
		out, err := c.send(outer, ctx, at, in)
		if err == nil {
			return out, nil
		}
		pause, again := c.again(in, attempt, err)
		if c.moveOn(at, err) && attempt < len(c.bases)-1 {
			pause = 0 // that one may be well
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= pause {
			again = false // the answer at hand says more than a missed deadline
		}
		if !again {
			return nil, fmt.Errorf("%s %s: %w", in.method, in.path, err)
		}
		if err := c.wait(ctx, pause); err != nil {
			return nil, fmt.Errorf("%s %s: %w", in.method, in.path, c.connError(outer, ctx, at, err))
		}
	}
}

// moveOn has calls go to the next gateway if err says that the one at a place
// cannot serve at the moment.
func (c *Client) moveOn(at uint32, err error) bool {
	var refused *Error
	var conn *ConnError
	switch {
	case len(c.bases) == 1:
		return false
	case errors.As(err, &refused):
		// A limit is meant for the caller, not for one gateway.
		if s := refused.Problem.Status; !retryable(s) || s == http.StatusTooManyRequests {
			return false
		}
	case errors.As(err, &conn):
		if conn.Permanent {
			return false
		}
	case !errors.Is(err, keys.ErrTimeout):
		return false
	}
	c.at.CompareAndSwap(at, (at+1)%uint32(len(c.bases)))
	return true
}

// Pauses before retries: 100 ms, doubled each time, at most 5 s, of which
// the second half is random so that clients do not come back in step.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second

	conflictPolls = 8 // beyond the retries, of an act that is being done
)

// again says whether to try again, and after what pause.
func (c *Client) again(in call, attempt int, err error) (time.Duration, bool) {
	pause := backOff(attempt)
	var refused *Error
	var conn *ConnError
	switch {
	case attempt > 0 && in.key != "" && errors.Is(err, keys.ErrConflict):
		// The attempt whose answer was lost is still at work on this key,
		// perhaps generating a long RSA key: about 15 s are worth the wait.
		return pause, attempt < c.retries+conflictPolls
	case attempt >= c.retries:
		return 0, false
	case errors.As(err, &refused) && retryable(refused.Problem.Status):
		return max(pause, refused.RetryAfter), true
	case errors.As(err, &conn):
		return pause, !conn.Permanent
	}
	return 0, false
}

// backOff returns the pause before another try.
func backOff(tries int) time.Duration {
	pause := min(firstPause<<min(tries, 16), maxPause)
	return pause/2 + jitter(pause/2)
}

// jitter returns a random time up to d.
func jitter(d time.Duration) time.Duration {
	return rand.N(d + 1) //nolint:gosec // jitter is no secret
}

// wait pauses for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// send makes one attempt at one gateway.
func (c *Client) send(outer, ctx context.Context, at uint32, in call) (*answer, error) {
	req, err := c.request(ctx, at, in)
	switch {
	case ctx.Err() != nil: // the source of the token waited in vain
		return nil, c.connError(outer, ctx, at, ctx.Err())
	case err != nil:
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.connError(outer, ctx, at, err)
	}
	defer drain(res.Body)
	noteReceipt(ctx, res.Header)
	body, err := io.ReadAll(io.LimitReader(res.Body, c.maxResponse+1))
	switch {
	case int64(len(body)) > c.maxResponse:
		return nil, keys.Errorf(keys.ErrInternal, "the answer has more than %d bytes; raise the client's MaxResponse or ask for less", c.maxResponse)
	case err != nil:
		return nil, c.connError(outer, ctx, at, fmt.Errorf("the answer broke off: %w", err))
	}
	if res.StatusCode == http.StatusNotModified && in.etag != "" {
		return &answer{status: res.StatusCode}, nil
	}
	if res.StatusCode/100 != 2 {
		return nil, refusal(res, body, time.Now())
	}
	if res.StatusCode == http.StatusNoContent {
		return &answer{status: res.StatusCode}, nil
	}
	return &answer{status: res.StatusCode, etag: res.Header.Get("ETag"), body: body}, checkMedia(res, in.media)
}

func (c *Client) request(ctx context.Context, at uint32, in call) (*http.Request, error) {
	u := *c.bases[at]
	u.Path += in.path
	u.RawQuery = in.query.Encode()
	var body io.Reader
	if in.body != nil {
		body = bytes.NewReader(in.body)
	}
	req, err := http.NewRequestWithContext(ctx, in.method, u.String(), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", cmp.Or(in.media, "application/json"))
	req.Header.Set("User-Agent", c.userAgent)
	wantsReceipt(req)
	if in.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if in.etag != "" {
		req.Header.Set("If-None-Match", in.etag)
	}
	if in.key != "" {
		req.Header.Set("Idempotency-Key", in.key)
	}
	if c.token != nil {
		token, err := c.token(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", keys.ErrUnauthenticated, err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

// drain reads what little is left of a body, so that its connection can
// serve again, and closes it.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10) // a broken connection is not reused anyway
	_ = body.Close()
}

// checkMedia refuses a success that is not of the type want ("": JSON).
func checkMedia(res *http.Response, want string) error {
	media, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err == nil && (media == want || want == "" && (media == "application/json" || media == "application/jwk-set+json")) {
		return nil
	}
	return keys.Errorf(keys.ErrInternal, "the address answered %d with %.60q, not %s: is this a Keyhole gateway?",
		res.StatusCode, res.Header.Get("Content-Type"), cmp.Or(want, "JSON"))
}

// retryAfter reads the header's seconds or date (RFC 9110, 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	if s, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// ask sends a call with the JSON of in (nil: no body) and reads an Out.
func ask[Out any](ctx context.Context, c *Client, cl call, in any) (Out, error) {
	var out Out
	if in != nil {
		var err error
		if cl.body, err = json.Marshal(in); err != nil {
			return out, fmt.Errorf("encoding the request: %w", err)
		}
	}
	a, err := c.do(ctx, cl)
	if err != nil || a.status == http.StatusNoContent && cl.method == http.MethodDelete {
		return out, err
	}
	if err := json.Unmarshal(a.body, &out); err != nil {
		return out, fmt.Errorf("%s %s: %w", cl.method, cl.path, badAnswer(err))
	}
	return out, nil
}

func badAnswer(err error) error {
	return fmt.Errorf("%w: the answer is not what this version of the API promises: %w", keys.ErrInternal, err)
}
