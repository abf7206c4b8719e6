// Package sse writes server-sent events (HTML, 9.2). What is sent leaves at
// once, and a reader has a bounded time to take it.
package sse

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MediaType is that of a stream.
const MediaType = "text/event-stream"

// ErrReader means that nothing can be sent any more: the reader is gone, or
// takes nothing.
var ErrReader = errors.New("the reader takes nothing")

// Writer writes one stream. It is for one goroutine.
type Writer struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
	size     int
}

// New returns a Writer whose reader may take patience for what is sent. No
// limit of the server on the time of an answer applies after Begin.
func New(w http.ResponseWriter, patience time.Duration) *Writer {
	return &Writer{w: w, control: http.NewResponseController(w), patience: patience}
}

// Begin sends the headers. An error means that nothing was sent.
func (w *Writer) Begin() error {
	if err := w.allow(); err != nil {
		return err
	}
	header := w.w.Header()
	header["Content-Type"] = []string{MediaType}
	header["X-Accel-Buffering"] = []string{"no"} // nginx would keep events until it has many
	w.w.WriteHeader(http.StatusOK)
	return nil
}

// End bounds what the server itself sends to end the answer.
func (w *Writer) End() { _ = w.allow() }

// Size is how many bytes were sent.
func (w *Writer) Size() int { return w.size }

func (w *Writer) allow() error { return w.control.SetWriteDeadline(time.Now().Add(w.patience)) }

func (w *Writer) send(text []byte) error {
	if w.allow() != nil {
		return ErrReader
	}
	n, err := w.w.Write(text)
	w.size += n
	if err != nil || w.control.Flush() != nil || w.control.SetWriteDeadline(time.Time{}) != nil {
		return ErrReader // over HTTP/2 a deadline that passes ends the stream, though nothing is written
	}
	return nil
}

// Retry says how long a reader shall wait before it comes again.
func (w *Writer) Retry(pause time.Duration) error {
	return w.send([]byte("retry: " + strconv.FormatInt(pause.Milliseconds(), 10) + "\n\n"))
}

// Comment sends what readers skip and people read.
func (w *Writer) Comment(text string) error {
	return w.send([]byte(": " + oneLine(text) + "\n\n"))
}

// oneLine makes spaces of what could end the line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
}

// Event sends an event. kind and data have no line breaks, as JSON without
// whitespace has none.
func (w *Writer) Event(id uint64, kind string, data []byte) error {
	if strings.ContainsAny(kind, "\r\n") || bytes.ContainsAny(data, "\r\n") {
		return errors.New("an event with a line break")
	}
	text := make([]byte, 0, len(kind)+len(data)+64)
	text = append(strconv.AppendUint(append(text, "id: "...), id, 10), "\nevent: "...)
	text = append(append(text, kind...), "\ndata: "...)
	return w.send(append(append(text, data...), "\n\n"...))
}
