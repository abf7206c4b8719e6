package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"keyhole/client/internal/sse"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// EventOptions say which events to follow, and from where.
type EventOptions struct {
	// Keys are the names of the keys, at most api limits allow (100); none:
	// all keys that the caller may see, those made later among them.
	Keys []string
	// After is the id of the last event that the caller has seen: events
	// behind it come first. nil: from now on.
	After *uint64
}

// Events ranges over what happens to keys, in order and as it happens. It
// reconnects by itself, with growing and jittered pauses, when the gateway
// cannot be reached, restarts, refuses for the moment or says nothing for 45
// seconds, and goes on behind the last event, so that each event comes at
// least once. Where that is not possible an event of the type api.EventReset
// comes: events may be missing before it, and the keys must be read anew.
//
// It ends with ctx, whose error comes last, and with errors that would only
// come again: a refusal (keys.ErrUnauthenticated, keys.ErrForbidden,
// keys.ErrKeyNotFound, keys.ErrInvalid), a certificate that does not hold
// (*ConnError), an answer that is no event stream (keys.ErrInternal).
func (c *Client) Events(ctx context.Context, o EventOptions) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		s := newStream(c, o)
		for {
			err := s.follow(ctx, func(ev api.Event) bool { return yield(ev, nil) })
			if errors.Is(err, errEnough) {
				return
			}
			if passing(err) {
				err = s.pause(ctx, err)
			} else {
				err = fmt.Errorf("GET /v1/events: %w", err)
			}
			if err != nil {
				yield(api.Event{}, err)
				return
			}
		}
	}
}

// The life signs of a stream.
const (
	maxSilence  = 45 * time.Second // gateways send a line every 15
	steadyAfter = 10 * time.Second // a stream that lasted so long was a good one
	maxRetry    = time.Minute      // however long the other side says to wait
)

// errEnough ends a stream whose reader has left.
var errEnough = errors.New("the reader has left")

// stream follows events over any number of connections. It is for one
// goroutine.
type stream struct {
	c     *Client
	keys  []string
	after string        // the position; "" if there is none
	floor time.Duration // the pause that the gateway asks for
	at    uint32        // where the last connection went
	begun bool          // there was a connection before
	tries int           // in a row, without a steady connection

	opened func() // called for each connection, before its events; may be nil
	heard  func() // called for each sign of life; may be nil
}

func newStream(c *Client, o EventOptions) *stream {
	s := &stream{c: c, keys: o.Keys}
	if o.After != nil {
		s.after = strconv.FormatUint(*o.After, 10)
	}
	return s
}

// follow opens one connection and hands its events to take, until it ends,
// which it always does with an error: errEnough if take returned false.
func (s *stream) follow(outer context.Context, take func(api.Event) bool) error {
	for _, name := range s.keys {
		if err := keys.CheckName(name); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	watchdog := time.AfterFunc(maxSilence, cancel)
	defer watchdog.Stop()

	res, err := s.open(ctx)
	if err != nil {
		return s.ended(outer, ctx, err)
	}
	defer res.Body.Close() // not drained: it does not end by itself
	began := time.Now()
	defer func() {
		if time.Since(began) >= steadyAfter {
			s.tries = 0
		}
	}()
	if s.opened != nil {
		s.opened()
	}
	if s.begun && s.after == "" && !take(api.Event{Type: api.EventReset, Time: api.At(began)}) {
		return errEnough // nobody knows what happened between the connections
	}
	s.begun = true

	in := sse.NewReader(&pulse{res.Body, func() {
		watchdog.Reset(maxSilence)
		if s.heard != nil {
			s.heard()
		}
	}})
	for {
		raw, err := in.Next()
		s.floor = min(in.Retry(), maxRetry)
		s.after = cmp.Or(in.LastID(), s.after)
		if err != nil {
			return s.ended(outer, ctx, err)
		}
		ev, err := readEvent(raw)
		if err != nil {
			return err
		}
		s.tries = 0
		if !take(ev) {
			return errEnough
		}
	}
}

// open makes one attempt to get the stream's headers.
func (s *stream) open(ctx context.Context) (*http.Response, error) {
	q := url.Values{}
	for _, name := range s.keys {
		q.Add("key", name)
	}
	s.at = s.c.at.Load()
	req, err := s.c.request(ctx, s.at, call{method: http.MethodGet, path: "/v1/events", query: q, media: eventStream})
	if err != nil {
		return nil, err
	}
	req.Header.Set("Cache-Control", "no-store")
	if s.after != "" {
		req.Header.Set("Last-Event-ID", s.after)
	}
	res, err := s.c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusOK {
		if err = checkMedia(res, eventStream); err == nil {
			return res, nil
		}
	} else {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // what is missing of it is told without
		err = refusal(res, body, time.Now())
	}
	drain(res.Body)
	return nil, err
}

const eventStream = "text/event-stream"

// ended says why a connection ended. ctx is that of the connection.
func (s *stream) ended(outer, ctx context.Context, err error) error {
	var refused *Error
	var said *keys.Error
	switch {
	case outer.Err() != nil:
		return outer.Err()
	case ctx.Err() != nil:
		return &ConnError{Address: s.address(), Err: fmt.Errorf("the event stream was silent for %s", maxSilence)}
	case errors.Is(err, sse.ErrTooLong):
		return keys.Errorf(keys.ErrInternal, "%s: is this a Keyhole gateway?", err)
	case errors.As(err, &refused), errors.As(err, &said), errors.Is(err, keys.ErrUnauthenticated):
		return err
	case errors.Is(err, io.EOF):
		return &ConnError{Address: s.address(), Err: errors.New("the event stream ended")}
	}
	return s.c.connError(outer, outer, s.at, err)
}

func (s *stream) address() string { return s.c.bases[s.at].String() }

// pause waits until the stream may be opened again after err. The error is
// ctx's.
func (s *stream) pause(ctx context.Context, err error) error {
	d := backOff(s.tries)
	s.tries++
	moved := s.c.moveOn(s.at, err)
	var refused *Error
	if errors.As(err, &refused) && (!moved || s.tries >= len(s.c.bases)) {
		d = max(d, min(refused.RetryAfter, maxRetry))
	}
	if s.tries > 1 { // the first time at once: a gateway that restarts has ended all its streams
		d = max(d, s.floor/2+jitter(s.floor/2))
	}
	return s.c.wait(ctx, d)
}

// passing reports whether what failed may succeed when it is tried again
// later, by itself.
func passing(err error) bool {
	var refused *Error
	var conn *ConnError
	switch {
	case errors.As(err, &refused):
		s := refused.Problem.Status
		return s >= 500 || s == http.StatusTooManyRequests || s == http.StatusRequestTimeout
	case errors.As(err, &conn):
		return !conn.Permanent
	}
	return errors.Is(err, keys.ErrTimeout)
}

// readEvent reads the event that a gateway sent.
func readEvent(raw sse.Event) (api.Event, error) {
	var ev api.Event
	if err := json.Unmarshal(raw.Data, &ev); err != nil {
		return ev, fmt.Errorf("GET /v1/events: %w", badAnswer(err))
	}
	if ev.Type == "" {
		ev.Type = raw.Type
	}
	if id, err := strconv.ParseUint(raw.ID, 10, 64); err == nil && ev.ID == 0 {
		ev.ID = id
	}
	return ev, nil
}

// pulse is a body that tells of each byte or run of bytes.
type pulse struct {
	r    io.Reader
	beat func()
}

func (p *pulse) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if n > 0 {
		p.beat()
	}
	return n, err
}
