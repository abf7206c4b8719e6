package export

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"keyhole/audit"
	"keyhole/audit/segment"
)

// tail reads a log from a seq on, while it grows.
type tail struct {
	dir    string
	next   uint64
	number int // of the segment that is open
	file   io.ReadCloser
	r      *bufio.Reader
	part   []byte // of a line whose end is not there yet
}

func (t *tail) close() {
	if t.file != nil {
		t.file.Close()
		t.file = nil
	}
}

// read returns up to n entries in front of seq size: what is not durable yet
// might still be cut.
func (t *tail) read(n int, size uint64) ([]Entry, error) {
	var entries []Entry
	for len(entries) < n && t.next < size {
		line, err := t.line()
		if err != nil {
			return nil, err
		}
		seq, ok := segment.Seq(line)
		switch {
		case !ok || seq > t.next:
			return nil, fmt.Errorf("the audit log does not go on with the record %d; run keyhole audit verify", t.next)
		case seq < t.next:
			continue // in front of where to begin
		}
		r, err := audit.ParseLine(line)
		if err != nil {
			return nil, fmt.Errorf("the audit record %d: %w; run keyhole audit verify", t.next, err)
		}
		entries = append(entries, Entry{Record: r, Line: bytes.TrimSuffix(line, []byte("\n"))})
		t.next++
	}
	return entries, nil
}

// line returns the next line. It is called only when there must be one.
func (t *tail) line() ([]byte, error) {
	for {
		if t.file == nil {
			if err := t.open(); err != nil {
				return nil, err
			}
		}
		b, err := t.r.ReadBytes('\n')
		t.part = append(t.part, b...)
		switch {
		case err == nil:
			line := t.part
			t.part = nil
			return line, nil
		case !errors.Is(err, io.EOF):
			return nil, fmt.Errorf("reading the audit log: %w", err)
		case len(t.part) > 0:
			return nil, fmt.Errorf("the audit log ends in the middle of the record %d", t.next)
		}
		t.close() // the next line is in the next segment
	}
}

func (t *tail) open() error {
	files, err := segment.List(t.dir)
	if err != nil {
		return fmt.Errorf("reading the audit log: %w", err)
	}
	if t.number == 0 { // the first time
		rest, ok, err := segment.From(files, t.next)
		if err != nil {
			return fmt.Errorf("reading the audit log: %w", err)
		}
		if !ok {
			return fmt.Errorf("the segment with the audit record %d is not there; put it back, or remove the exporter's cursor", t.next)
		}
		files = rest
	}
	for _, f := range files {
		if f.Number <= t.number {
			continue
		}
		if t.file, err = f.Open(); err != nil {
			return fmt.Errorf("reading the audit log: %w", err)
		}
		t.number, t.r, t.part = f.Number, bufio.NewReaderSize(t.file, 64<<10), nil
		return nil
	}
	return fmt.Errorf("the audit log has no segment with the record %d", t.next)
}
