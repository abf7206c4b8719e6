package audit

import (
	"fmt"
	"iter"
	"os"
)

// Read returns the records of the log in dir, in order. It is strict: the
// first line that is no record, or does not follow the one before, ends the
// sequence with a *LineError. It takes no lock and needs memory for one
// line; of a log that is being written the last line may be ErrTorn.
func Read(dir string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		first, count, err := segments(dir)
		if err != nil {
			yield(Record{}, fmt.Errorf("reading the audit log: %w", err))
			return
		}
		c := chain{fromSeq: first == 1}
		for n := first; n < first+count; n++ {
			if !readSegment(segmentPath(dir, n), &c, yield) {
				return
			}
		}
	}
}

// readSegment yields the records of one segment and reports whether to go on.
func readSegment(path string, c *chain, yield func(Record, error) bool) bool {
	f, err := os.Open(path)
	if err != nil {
		yield(Record{}, fmt.Errorf("reading the audit log: %w", err))
		return false
	}
	defer f.Close()
	at := LineError{File: path}
	sc := lineScanner(f)
	for sc.Scan() {
		at.Line++
		r, err := c.next(sc.Bytes())
		if err != nil {
			at.Err = err
			yield(Record{}, &at)
			return false
		}
		if !yield(r, nil) {
			return false
		}
		at.Offset += int64(len(sc.Bytes()))
	}
	if err := sc.Err(); err != nil {
		at.Line++
		at.Err = err
		yield(Record{}, &at)
		return false
	}
	return true
}
