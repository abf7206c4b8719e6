package lookup

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"time"

	"keyhole/audit/segment"
)

// head is what a line begins with.
type head struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
}

// headOf reads the head of a line.
func headOf(line []byte) (h head, err error) {
	if i := bytes.Index(line, []byte(`,"node":`)); i > 0 {
		line = append(bytes.Clone(line[:i]), '}')
	}
	err = json.Unmarshal(line, &h)
	return h, err
}

// place is a position between two lines.
type place struct {
	file   int   // index of the segment
	offset int64 // in it; of a compressed one: 0, or wholeSegment
}

const wholeSegment = int64(-1) // the end of a compressed segment

// cut finds the place in front of the first line of which behind is true.
// Behind it, it is true of all lines.
func cut(files []segment.File, behind func(head) bool) (place, error) {
	var failed error
	// The first segment that begins behind the place, or is empty.
	n := sort.Search(len(files), func(i int) bool {
		h, ok, err := firstHead(files[i])
		if err != nil {
			failed = errors.Join(failed, err)
		}
		return !ok || behind(h)
	})
	if failed != nil || n == 0 {
		return place{}, failed
	}
	at := place{file: n - 1, offset: wholeSegment}
	if files[n-1].Compressed {
		return at, nil
	}
	f, err := os.Open(files[n-1].Path)
	if err != nil {
		return at, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return at, err
	}
	at.offset, err = bisect(f, info.Size(), behind)
	return at, err
}

// firstHead returns the head of a segment's first line.
func firstHead(f segment.File) (h head, ok bool, err error) {
	r, err := f.Open()
	if err != nil {
		return h, false, err
	}
	defer r.Close()
	sc := segment.NewScanner(r)
	if !sc.Scan() || !bytes.HasSuffix(sc.Bytes(), []byte("\n")) {
		return h, false, sc.Err()
	}
	if h, err = headOf(sc.Bytes()); err != nil {
		return h, false, fmt.Errorf("%s:1: %w", f.Path, err)
	}
	return h, true, nil
}

// bisect finds the offset of the first line of which behind is true; the end
// of the last whole line if there is none.
func bisect(f io.ReaderAt, size int64, behind func(head) bool) (int64, error) {
	// A line begins at lo, unless the last one ends there, and those before it
	// are in front; those that begin at hi or later are not.
	lo, hi := int64(0), size
	for lo < hi {
		mid := lo + (hi-lo)/2
		line, at, err := lineFrom(f, mid, lo, hi)
		if err != nil {
			return 0, err
		}
		if line == nil {
			if mid == lo {
				break // what is left is torn
			}
			hi = mid
			continue
		}
		h, err := headOf(line)
		switch {
		case err != nil:
			return 0, fmt.Errorf("the line at byte %d: %w", at, err)
		case behind(h):
			hi = mid
		default:
			lo = at + int64(len(line))
		}
	}
	return lo, nil
}

// lineFrom returns the first whole line that begins at from or later, and
// before to; nil if there is none. One begins at begin, which is not behind
// from.
func lineFrom(f io.ReaderAt, from, begin, to int64) (line []byte, at int64, err error) {
	if at = from; from > begin {
		at-- // the newline may be just there
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, at, to+segment.MaxLine-at), 4<<10)
	if from > begin {
		if line, err = r.ReadBytes('\n'); err == nil {
			at += int64(len(line))
		}
	}
	if err == nil && at < to {
		line, err = r.ReadBytes('\n')
		if err == nil {
			return line, at, nil
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return nil, 0, err
}
