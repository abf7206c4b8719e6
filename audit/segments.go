package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// Errors about the files of a log.
var (
	// ErrInUse: another process writes this log.
	ErrInUse = errors.New("the audit directory is in use")
	// ErrTorn: the last line of the log has no end. A crash leaves it so, and
	// so does a look at a log that is being written.
	ErrTorn = errors.New("the last line is cut short")
)

// LineError is a line that is not what it should be.
type LineError struct {
	File   string
	Line   int   // from 1
	Offset int64 // of the line in the file, bytes
	Err    error
}

func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

// Unwrap returns what is wrong with the line.
func (e *LineError) Unwrap() error { return e.Err }

var segmentName = regexp.MustCompile(`^[0-9]{8}\.jsonl$`)

func segmentPath(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%08d.jsonl", n)) }

// segments returns the number of the first segment in dir and how many there
// are; they are numbered without gaps.
func segments(dir string) (first, count int, err error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return 0, 0, err
	}
	for _, e := range entries {
		if !segmentName.MatchString(e.Name()) {
			continue
		}
		n, err := strconv.Atoi(e.Name()[:8])
		switch {
		case err != nil:
			return 0, 0, err
		case count == 0:
			first = n
		case n != first+count:
			return 0, 0, fmt.Errorf("%s is missing: %w", segmentPath(dir, first+count), fs.ErrNotExist)
		}
		count++
	}
	return first, count, nil
}

// chain checks that lines are records that follow each other.
type chain struct {
	prev    Record
	started bool // prev is set
	fromSeq bool // the next record must have seq 0 if there is no prev
}

// next reads one line, with its newline, and checks that it follows the one
// before.
func (c *chain) next(line []byte) (Record, error) {
	r, err := parseLine(line)
	switch {
	case err != nil:
		return r, err
	case c.started && r.Seq != c.prev.Seq+1:
		return r, fmt.Errorf("seq %d follows %d", r.Seq, c.prev.Seq)
	case !c.started && c.fromSeq && r.Seq != 0:
		return r, fmt.Errorf("the log begins with seq %d, not 0", r.Seq)
	case c.started && r.Time.Before(c.prev.Time):
		return r, fmt.Errorf("its time %s is before that of the line in front", r.Time.Format(timeFormat))
	}
	c.prev, c.started = r, true
	return r, nil
}

func parseLine(line []byte) (Record, error) {
	var r Record
	body, ok := bytes.CutSuffix(line, []byte("\n"))
	if !ok {
		return r, ErrTorn
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return r, fmt.Errorf("no audit record: %w", err)
	}
	if dec.InputOffset() != int64(len(body)) {
		return r, errors.New("there is something behind the record")
	}
	return r, nil
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

func lineScanner(r io.Reader) *bufio.Scanner {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), maxLine)
	sc.Split(splitLines)
	return sc
}

// tail is the end of a segment.
type tail struct {
	size int64 // bytes up to and with the last newline
	torn int64 // bytes behind it
	last Record
	line []byte // of last; empty: there is no record
}

// tailWindow is how much of a segment's end is looked through.
const tailWindow = 64 << 10

// readTail looks at the end of a segment, in time and memory that do not
// depend on its length, and checks the records that it finds there. first
// says that the log begins with this segment. The error is a *LineError where
// a complete line is no record.
func readTail(path string, first bool) (tail, error) {
	f, err := os.Open(path)
	if err != nil {
		return tail{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return tail{}, err
	}
	var t tail
	if t.size, err = lineEnd(f, info.Size()); err != nil {
		return t, err
	}
	t.torn = info.Size() - t.size
	start, err := windowStart(f, t.size)
	if err != nil {
		return t, err
	}
	c := chain{fromSeq: first && start == 0}
	sc := lineScanner(io.NewSectionReader(f, start, t.size-start))
	for at := start; sc.Scan(); at += int64(len(sc.Bytes())) {
		if _, err := c.next(sc.Bytes()); err != nil {
			return t, lineError(f, path, at, err)
		}
		t.line = append(t.line[:0], sc.Bytes()...)
	}
	if err := sc.Err(); err != nil {
		return t, lineError(f, path, start, err)
	}
	t.last = c.prev
	return t, nil
}

// lineEnd returns the offset behind the last newline before end.
func lineEnd(f io.ReaderAt, end int64) (int64, error) {
	buf := make([]byte, tailWindow)
	for end > 0 {
		part := buf[:min(end, int64(len(buf)))]
		if _, err := f.ReadAt(part, end-int64(len(part))); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return end - int64(len(part)) + int64(i) + 1, nil
		}
		end -= int64(len(part))
	}
	return 0, nil
}

// windowStart returns where a line begins, at least tailWindow before end,
// or the beginning of the file.
func windowStart(f io.ReaderAt, end int64) (int64, error) {
	if end <= tailWindow {
		return 0, nil
	}
	return lineEnd(f, end-tailWindow)
}

// lineError finds the number of the line at an offset.
func lineError(f io.ReaderAt, path string, at int64, err error) error {
	e := &LineError{File: path, Line: 1, Offset: at, Err: err}
	r := io.NewSectionReader(f, 0, at)
	buf := make([]byte, tailWindow)
	for {
		n, err := r.Read(buf)
		e.Line += bytes.Count(buf[:n], []byte("\n"))
		if err == io.EOF {
			return e
		}
		if err != nil {
			return errors.Join(e, err)
		}
	}
}
