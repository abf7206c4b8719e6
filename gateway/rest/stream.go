package rest

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// typeEvents is the media type of server-sent events (HTML, 9.2).
const typeEvents = "text/event-stream"

// hint is how long a reader waits before it comes again, in milliseconds.
const hint = "retry: 2000\n\n"

// lastWord ends a stream when the gateway drains.
const lastWord = "the gateway is shutting down; come again"

// errReader means that nothing can be sent any more: the reader is gone, or
// takes nothing.
var errReader = errors.New("the reader takes nothing")

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
	if !c.h.streams.take(c.req.Caller.ID) {
		return c.refuse(keys.Errorf(keys.ErrOverloaded, "the gateway is at its limit of %d event streams at one time, or this caller at its half of them", c.h.cfg.MaxStreams))
	}
	defer c.h.streams.give(c.req.Caller.ID)

	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	late := time.AfterFunc(time.Until(c.start.Add(c.h.cfg.Timeout)), cancel)
	defer late.Stop()
	s := &stream{c: c, control: http.NewResponseController(c.w)}
	defer s.end()
	err = c.h.service.Events(ctx, c.req, q, s.event, func() error {
		if s.begun {
			return s.send(":\n\n")
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
		_ = s.comment(lastWord)
	case ctx.Err() != nil, errors.Is(err, errReader), errors.Is(err, errHead):
	default:
		p := api.ProblemOf(err)
		if p.Status >= http.StatusInternalServerError {
			c.h.cfg.Log.WarnContext(ctx, "event stream ended", "request_id", c.id, "code", p.Code, "err", err)
		}
		_ = s.comment(cmp.Or(p.Detail, p.Title))
	}
	return nil
}

// stream is an answer of server-sent events.
type stream struct {
	c       *call
	control *http.ResponseController
	begun   bool
	outside bool // it has left the requests in flight
}

// begin sends the headers and leaves the places of requests.
func (s *stream) begin() error {
	// The server's limit is made for answers that end.
	if err := s.patience(); err != nil {
		return err
	}
	c := s.c
	header := c.w.Header()
	header["Content-Type"] = []string{typeEvents}
	header["X-Accel-Buffering"] = []string{"no"} // nginx would keep events until it has many
	s.begun, c.status = true, http.StatusOK
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return errHead
	}
	c.release()
	c.h.inFlight.Add(-1)
	s.outside = true
	return s.send(hint)
}

func (s *stream) end() {
	if s.outside {
		_ = s.patience()      // for what ends the answer
		s.c.h.inFlight.Add(1) // ServeHTTP takes it away again
	}
}

// patience is how long the reader may take for what is sent next.
func (s *stream) patience() error {
	return s.control.SetWriteDeadline(time.Now().Add(s.c.h.cfg.StreamWrite))
}

// send sends text and waits until it has left, or returns errReader.
func (s *stream) send(text string) error { return s.write([]byte(text)) }

func (s *stream) write(text []byte) error {
	if s.patience() != nil {
		return errReader
	}
	n, err := s.c.w.Write(text)
	s.c.size += n
	if err != nil || s.control.Flush() != nil || s.control.SetWriteDeadline(time.Time{}) != nil {
		return errReader // over HTTP/2 a deadline that passes ends the stream, though nothing is written
	}
	return nil
}

// comment sends what readers skip and people read.
func (s *stream) comment(text string) error {
	return s.send(": " + strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text) + "\n\n")
}

// event sends one event. JSON has line breaks in escaped form only.
func (s *stream) event(e api.Event) error {
	b := newBuffer()
	defer freeBuffer(b)
	b.WriteString("id: " + strconv.FormatUint(e.ID, 10) + "\nevent: " + e.Type + "\ndata: ")
	if err := json.MarshalWrite(b, &e, written); err != nil {
		return errors.Join(keys.ErrInternal, err)
	}
	b.WriteString("\n\n")
	return s.write(b.Bytes())
}
