package segment

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
)

// MaxLine is more than the longest line: every string of a record at its
// bound and every byte of it escaped.
const MaxLine = 2 << 20

// ErrTorn says that the last line of the log has no end. A crash leaves it so, and so
// does a look at a log that is being written.
var ErrTorn = errors.New("the last line is cut short")

// LineError is a line that is not what it should be.
type LineError struct {
	File   string
	Line   int   // from 1
	Offset int64 // of the line in the file, uncompressed, bytes
	Err    error
}

func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

// Unwrap returns what is wrong with the line.
func (e *LineError) Unwrap() error { return e.Err }

// Line is one line, with its newline. Bytes are good until the next one.
type Line struct {
	File   string
	Number int   // from 1
	Offset int64 // in the file, uncompressed
	Bytes  []byte
}

// Errorf says what is wrong with the line.
func (l Line) Errorf(format string, args ...any) error {
	return &LineError{File: l.File, Line: l.Number, Offset: l.Offset, Err: fmt.Errorf(format, args...)}
}

// Lines yields the lines of segments. A last line without a newline is
// yielded with ErrTorn.
func Lines(files []File) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for _, f := range files {
			if !f.lines(yield) {
				return
			}
		}
	}
}

func (f File) lines(yield func(Line, error) bool) bool {
	r, err := f.Open()
	if err != nil {
		yield(Line{File: f.Path}, err)
		return false
	}
	defer r.Close()
	l := Line{File: f.Path}
	sc := NewScanner(r)
	for sc.Scan() {
		l.Number++
		l.Offset += int64(len(l.Bytes))
		l.Bytes = sc.Bytes()
		if l.Bytes[len(l.Bytes)-1] != '\n' {
			yield(l, l.Errorf("%w", ErrTorn))
			return false
		}
		if !yield(l, nil) {
			return false
		}
	}
	if err := sc.Err(); err != nil {
		l.Number++
		l.Offset += int64(len(l.Bytes))
		yield(l, l.Errorf("%w", err))
		return false
	}
	return true
}

// FirstSeq returns the seq of a segment's first line; ok is false if it has
// none.
func (f File) FirstSeq() (seq uint64, ok bool, err error) {
	for l, err := range Lines([]File{f}) {
		if errors.Is(err, ErrTorn) {
			break
		}
		if err != nil {
			return 0, false, err
		}
		if seq, ok = Seq(l.Bytes); !ok {
			return 0, false, l.Errorf("it does not begin with a seq")
		}
		return seq, true, nil
	}
	return 0, false, nil
}

// From returns the segments that hold the lines from seq on, the first of
// them perhaps with some in front. ok is false if the segment with seq is not
// there, though the log may well have got so far.
func From(files []File, seq uint64) (rest []File, ok bool, err error) {
	for i := len(files) - 1; i >= 0; i-- {
		first, has, err := files[i].FirstSeq()
		if err != nil {
			return nil, false, err
		}
		if has && first <= seq {
			return files[i:], true, nil
		}
	}
	return files, len(files) > 0 && files[0].Number == 1 && seq == 0, nil
}

var head = []byte(`{"seq":`)

// Seq reads the seq that a line begins with.
func Seq(line []byte) (seq uint64, ok bool) {
	digits, ok := bytes.CutPrefix(line, head)
	if !ok {
		return 0, false
	}
	for i, c := range digits {
		if c < '0' || c > '9' {
			return seq, c == ',' && i > 0 && (i == 1 || digits[0] != '0')
		}
		if i == 19 { // all that an int64 can hold
			return 0, false
		}
		seq = seq*10 + uint64(c-'0')
	}
	return 0, false
}

// NewScanner scans lines and keeps their newlines.
func NewScanner(r io.Reader) *bufio.Scanner {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 256<<10), MaxLine)
	sc.Split(splitLines)
	return sc
}

// splitLines is a bufio.SplitFunc that keeps the newlines.
func splitLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i+1], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}
