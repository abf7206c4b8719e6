package rest

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"keyhole/gateway/api"
)

// typeEvents is the media type of server-sent events (HTML, 9.2).
const typeEvents = "text/event-stream"

// retryHint is how long a reader waits before it comes again, in
// milliseconds.
const retryHint = 2000

// stream is an answer that does not end by itself: server-sent events. It is
// for one goroutine.
type stream struct {
	c       *call
	control *http.ResponseController
	patient time.Duration // how long a reader may take for what is sent to it
}

// begin sends the headers. From here on there is no problem document any
// more: what is wrong is said in a comment.
func (c *call) begin() (*stream, error) {
	s := &stream{c: c, control: http.NewResponseController(c.w), patient: c.h.cfg.StreamWrite}
	// The server's limits are made for answers that end. What is sent has its
	// own time below, and nothing more is read.
	if err := s.control.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if err := s.control.SetWriteDeadline(time.Now().Add(s.patient)); err != nil {
		return nil, err
	}
	header := c.w.Header()
	header["Content-Type"] = []string{typeEvents}
	header["Cache-Control"] = noStore
	header["X-Accel-Buffering"] = []string{"no"} // nginx would keep events until it has many
	c.status = http.StatusOK
	c.w.WriteHeader(http.StatusOK)
	return s, nil
}

// send sends text and waits until it has left. An error means that the
// reader is gone or does not read; nothing can be sent any more.
func (s *stream) send(text []byte) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(s.patient)); err != nil {
		return err
	}
	n, err := s.c.w.Write(text)
	s.c.size += n
	if err != nil {
		return err
	}
	return s.control.Flush()
}

// comment sends a line that readers skip. text is one line.
func (s *stream) comment(text string) error { return s.send([]byte(": " + text + "\n\n")) }

// events sends events, each as soon as it is written.
func (s *stream) events(all []api.Event) error {
	b := newBuffer()
	defer freeBuffer(b)
	for i := range all {
		b.Reset()
		b.WriteString("id: ")
		b.WriteString(strconv.FormatUint(all[i].ID, 10))
		b.WriteString("\nevent: ")
		b.WriteString(all[i].Type)
		b.WriteString("\ndata: ")
		// JSON has no line breaks but escaped ones.
		if err := json.MarshalWrite(b, &all[i], written); err != nil {
			return err
		}
		b.WriteString("\n\n")
		if err := s.send(b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// feed is where events come from: it waits for some, and returns the
// context's error when that ends.
type feed func(context.Context) ([]api.Event, error)

// follow sends what next returns, until something ends it: the reader leaves
// or does not read, the credentials expire, the gateway drains, or next
// fails.
func (s *stream) follow(next feed) {
	c := s.c
	ctx, cancel := context.WithCancel(c.r.Context())
	batches, failed := make(chan []api.Event), make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			batch, err := next(ctx)
			if err != nil {
				failed <- err
				return
			}
			select {
			case batches <- batch:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() { cancel(); <-done }()

	beat := time.NewTicker(c.h.cfg.Heartbeat)
	defer beat.Stop()
	expires := c.req.Caller.ExpiresAt
	var expired <-chan time.Time
	if !expires.IsZero() {
		timer := time.NewTimer(time.Until(expires))
		defer timer.Stop()
		expired = timer.C
	}
	err := s.send([]byte("retry: " + strconv.Itoa(retryHint) + "\n\n"))
	for err == nil {
		select {
		case batch := <-batches:
			err = s.events(batch)
		case <-beat.C:
			if !expires.IsZero() && !time.Now().Before(expires) { // the wall clock was set
				_ = s.comment(endExpired)
				return
			}
			err = s.comment("")
		case <-expired:
			_ = s.comment(endExpired)
			return
		case <-c.h.cfg.Draining:
			_ = s.comment(endDraining)
			return
		case err := <-failed:
			if ctx.Err() == nil {
				_ = s.comment(api.ProblemOf(err).Title)
				c.h.cfg.Log.WarnContext(ctx, "event stream ended", "request_id", c.id, "principal", c.req.Caller.ID, "err", err)
			}
			return
		case <-ctx.Done():
			return
		}
	}
}

// Last words of a stream.
const (
	endExpired  = "the credentials have expired; come again with new ones"
	endDraining = "the gateway is shutting down; come again"
)
