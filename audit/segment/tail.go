package segment

import (
	"bytes"
	"errors"
	"io"
	"os"
)

// Tail is the end of a segment.
type Tail struct {
	Size int64  // bytes up to and with the last newline
	Torn int64  // bytes behind it
	Line []byte // the last whole one, with its newline; empty: there is none
}

// tailWindow is how much of a segment's end is looked through.
const tailWindow = 64 << 10

// ReadTail looks at the end of an uncompressed segment, in time and memory
// that do not depend on its length, and has every line that it finds there
// checked; whole says that these are all lines of the segment. The error is a
// *LineError where a complete line does not pass.
func ReadTail(path string, check func(line []byte, whole bool) error) (Tail, error) {
	f, err := os.Open(path)
	if err != nil {
		return Tail{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Tail{}, err
	}
	var t Tail
	if t.Size, err = lineEnd(f, info.Size()); err != nil {
		return t, err
	}
	t.Torn = info.Size() - t.Size
	start, err := windowStart(f, t.Size)
	if err != nil {
		return t, err
	}
	sc := NewScanner(io.NewSectionReader(f, start, t.Size-start))
	for at := start; sc.Scan(); at += int64(len(sc.Bytes())) {
		if err := check(sc.Bytes(), start == 0); err != nil {
			return t, lineError(f, path, at, err)
		}
		t.Line = append(t.Line[:0], sc.Bytes()...)
	}
	if err := sc.Err(); err != nil {
		return t, lineError(f, path, start, err)
	}
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
