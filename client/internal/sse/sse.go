// Package sse reads a stream of server-sent events (WHATWG HTML, 9.2.6), of
// bounded length: the other side is trusted with its events, not with this
// side's memory.
package sse

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"time"
)

// Limits of what is read, in bytes.
const (
	MaxLine = 64 << 10  // one line, its end not counted
	MaxData = 256 << 10 // the data of one event
)

// ErrTooLong is a line or an event beyond the limits. The stream is of no
// use any more.
var ErrTooLong = errors.New("the event stream has a line or an event that is too long")

// Event is one event.
type Event struct {
	ID   string // the last id seen on the stream, this event's or an earlier one's
	Type string // "message" if the stream names none
	Data []byte
}

// Reader reads one stream. It is for one goroutine.
type Reader struct {
	in      *bufio.Reader
	skipLF  bool // the last line ended in CR: an LF is part of its end
	started bool // behind a byte order mark

	line  []byte
	data  bytes.Buffer
	lines int // of data in the event being read
	kind  string
	id    string // of the block being read
	last  string // of the last block that was whole
	retry time.Duration
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{in: bufio.NewReaderSize(r, 4<<10)} }

// LastID returns the id to resume behind: that of the last block that was
// read whole, which may have held nothing but the id. "" if there was none.
func (r *Reader) LastID() string { return r.last }

// Retry returns the pause before a reconnection that the stream asks for; 0
// if it does not.
func (r *Reader) Retry() time.Duration { return r.retry }

// Next returns the next event with data. An event that the end of the stream
// cuts off is dropped. Errors: io.EOF, ErrTooLong, those of the reader.
func (r *Reader) Next() (Event, error) {
	for {
		line, err := r.readLine()
		if err != nil {
			return Event{}, err
		}
		if len(line) > 0 {
			if err := r.field(line); err != nil {
				return Event{}, err
			}
			continue
		}
		r.last = r.id
		if r.lines == 0 {
			r.kind = ""
			continue
		}
		ev := Event{ID: r.last, Type: r.kind, Data: bytes.Clone(r.data.Bytes())}
		if ev.Type == "" {
			ev.Type = "message"
		}
		r.data.Reset()
		r.lines, r.kind = 0, ""
		return ev, nil
	}
}

// field takes in one line that is not blank.
func (r *Reader) field(line []byte) error {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) { // a comment has the name ""
	case "data":
		if r.data.Len()+1+len(value) > MaxData {
			return ErrTooLong
		}
		if r.lines++; r.lines > 1 {
			r.data.WriteByte('\n')
		}
		r.data.Write(value)
	case "event":
		r.kind = string(value)
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			r.id = string(value)
		}
	case "retry":
		if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
			r.retry = time.Duration(ms) * time.Millisecond
		}
	}
	return nil
}

// readLine returns the next line without its end (CR LF, LF or CR), good
// until the next call. A line that the end of the stream cuts off is io.EOF.
func (r *Reader) readLine() ([]byte, error) {
	r.line = r.line[:0]
	for {
		b, err := r.in.ReadByte()
		if err != nil {
			return nil, err
		}
		if r.skipLF {
			r.skipLF = false
			if b == '\n' {
				continue
			}
		}
		switch {
		case b == '\n' || b == '\r':
			r.skipLF = b == '\r'
			if !r.started {
				r.started = true
				r.line = bytes.TrimPrefix(r.line, []byte("\ufeff"))
			}
			return r.line, nil
		case len(r.line) == MaxLine:
			return nil, ErrTooLong
		}
		r.line = append(r.line, b)
	}
}
