package rest

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/gateway/rest/internal/sse"
	"keyhole/keys"
)

// comeAgain is how long a reader waits before it comes again.
const comeAgain = 2 * time.Second

// lastWord ends a stream when the gateway drains.
const lastWord = "the gateway is shutting down; come again"

// errHead ends a stream that was asked for by HEAD where its events would
// begin.
var errHead = errors.New("no body was asked for")

// follow is the event stream. Until it stands, what is wrong is a problem
// document, and the request has the time and the places of any other; from
// then on it has its own.
func follow(c *call) error {
	query := c.r.URL.Query()
	names, err := followed(query["key"])
	if err != nil {
		return c.refuse(err)
	}
	q := gateway.EventQuery{Keys: names, Idle: c.h.cfg.Heartbeat}
	if q.After, q.Resume, err = resumed(c.r.Header["Last-Event-Id"], query["after"]); err != nil {
		return c.refuse(err)
	}
	select {
	case <-c.h.cfg.Draining:
		return c.refuse(keys.Errorf(keys.ErrOverloaded, "%s", lastWord))
	default:
	}
	if err := c.h.streams.take(c.req.Caller.ID); err != nil {
		return c.refuse(err)
	}
	defer c.h.streams.give(c.req.Caller.ID)

	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	late := time.AfterFunc(time.Until(c.start.Add(c.h.cfg.Timeout)), cancel)
	defer late.Stop()
	s := &stream{Writer: sse.New(c.w, c.h.cfg.StreamWrite), c: c}
	defer s.end()
	err = c.h.service.Events(ctx, c.req, q, s.event, func() error {
		if s.begun {
			return s.Comment("")
		}
		if !late.Stop() {
			return context.DeadlineExceeded
		}
		return s.begin()
	})
	switch {
	case !s.begun:
		return err
	case err == nil:
		_ = s.Comment(lastWord)
	case ctx.Err() != nil, errors.Is(err, sse.ErrReader), errors.Is(err, errHead):
	default:
		p := api.ProblemOf(err)
		if p.Status >= http.StatusInternalServerError {
			c.h.cfg.Log.WarnContext(ctx, "event stream ended", "request_id", c.id, "code", p.Code, "err", err)
		}
		_ = s.Comment(cmp.Or(p.Detail, p.Title))
	}
	return nil
}

// stream is an answer of server-sent events.
type stream struct {
	*sse.Writer
	c       *call
	begun   bool
	outside bool // it has left the requests in flight
}

// begin sends the headers and leaves the places of requests.
func (s *stream) begin() error {
	if err := s.Begin(); err != nil {
		return err
	}
	c := s.c
	s.begun, c.status = true, http.StatusOK
	if c.r.Method == http.MethodHead {
		return errHead
	}
	c.release()
	c.h.inFlight.Add(-1)
	s.outside = true
	return s.Retry(comeAgain)
}

func (s *stream) end() {
	s.c.size += s.Size()
	if s.outside {
		s.End()
		s.c.h.inFlight.Add(1) // ServeHTTP takes it away again
	}
}

// event sends one event.
func (s *stream) event(e api.Event) error {
	b := newBuffer()
	defer freeBuffer(b)
	if err := json.MarshalWrite(b, &e, written); err != nil {
		return errors.Join(keys.ErrInternal, err)
	}
	return s.Event(e.ID, e.Type, b.Bytes())
}
