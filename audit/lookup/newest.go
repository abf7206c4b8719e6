package lookup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"keyhole/audit"
	"keyhole/audit/segment"
)

// Bounds of one question.
const (
	maxLooked = 32 << 20 // bytes of lines that are looked through
	maxKept   = 8 << 20  // of a compressed segment, at least, unless it is shorter
	maxTaken  = 4 << 20  // bytes of lines that are answered, but for a single one
	window    = 256 << 10

	// Of so many lines one is asked for its time, to find the end of what is
	// meant, besides those that may be meant.
	sinceEvery = 64
)

// Page is a part of an answer.
type Page struct {
	Records []audit.Record // newest first
	// Next is the seq before which to go on; 0: that was all. A page may have
	// no records and a Next.
	Next uint64
}

// Newest returns the newest records in front of the seq before that f means,
// up to limit. It looks through a bounded part of the log. Errors: those of
// files and of lines that are no records.
func Newest(ctx context.Context, dir string, f Filter, before uint64, limit int) (Page, error) {
	for tries := 0; ; tries++ {
		p, err := newest(ctx, dir, f, before, limit)
		if tries < 3 && errors.Is(err, fs.ErrNotExist) {
			continue // it was compressed or moved away meanwhile
		}
		if err != nil {
			return Page{}, fmt.Errorf("reading the audit log: %w", err)
		}
		return p, nil
	}
}

func newest(ctx context.Context, dir string, f Filter, before uint64, limit int) (Page, error) {
	files, err := segment.List(dir)
	if err != nil {
		return Page{}, err
	}
	from, err := cut(files, func(h head) bool {
		return h.Seq >= before || !f.Until.IsZero() && !h.Time.Before(f.Until)
	})
	if err != nil {
		return Page{}, err
	}
	s := &search{f: &f, may: f.Sieve(), before: before, limit: limit}
	for i := from.file; i >= 0 && i < len(files); i-- {
		if files[i].Compressed {
			err = s.compressed(ctx, files[i])
		} else {
			err = s.plain(ctx, files[i], from.offset)
		}
		from.offset = wholeSegment
		if err != nil || s.done {
			break
		}
		if s.looked >= maxLooked && i > 0 {
			s.page.Next = s.oldest
			break
		}
	}
	return s.page, err
}

// search is one question under way.
type search struct {
	f      *Filter
	may    func(line []byte) bool
	before uint64
	limit  int

	page   Page
	taken  int64  // bytes of the lines in page
	looked int64  // bytes of the lines that were looked through
	oldest uint64 // seq of the last of them
	done   bool
}

var errNoSeq = errors.New("it does not begin with a seq")

// see looks at the next older line. It sets done when the page is full, or
// nothing older is meant.
func (s *search) see(line []byte) error {
	h, ok := segment.Seq(line)
	if !ok {
		return errNoSeq
	}
	if h >= s.before {
		return nil
	}
	if s.looked >= maxLooked || len(s.page.Records) == s.limit || s.taken > 0 && s.taken+int64(len(line)) > maxTaken {
		s.page.Next, s.done = h+1, true
		return nil
	}
	s.looked += int64(len(line))
	s.oldest = h
	may := s.may(line)
	if !s.f.Since.IsZero() && (may || h%sinceEvery == 0) {
		head, err := headOf(line)
		if err != nil {
			return err
		}
		if head.Time.Before(s.f.Since) {
			s.done = true
			return nil
		}
	}
	if !may {
		return nil
	}
	r, err := audit.ParseLine(line)
	if err != nil {
		return err
	}
	if s.f.Matches(&r) {
		s.page.Records = append(s.page.Records, r)
		s.taken += int64(len(line))
	}
	return nil
}

// plain looks through an uncompressed segment, from the offset end back.
func (s *search) plain(ctx context.Context, file segment.File, end int64) error {
	f, err := os.Open(file.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if end == wholeSegment {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		end = info.Size() // sealed: a line ends there
	}
	return s.backward(ctx, file, f, end)
}

func (s *search) backward(ctx context.Context, file segment.File, r io.ReaderAt, end int64) error {
	return backward(ctx, r, end, func(line []byte) (bool, error) {
		if err := s.see(line); err != nil {
			return false, fmt.Errorf("%s: %.40q: %w", file.Path, line, err)
		}
		return !s.done, nil
	})
}

// backward calls see with the lines in front of end, the last one first,
// until it returns false.
func backward(ctx context.Context, f io.ReaderAt, end int64, see func(line []byte) (bool, error)) error {
	var rest []byte // of a line whose begin is in front of end
	for end > 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(rest) > segment.MaxLine {
			return bufio.ErrTooLong
		}
		n := min(end, window)
		buf := make([]byte, n, n+int64(len(rest)))
		if _, err := f.ReadAt(buf, end-n); err != nil {
			return err
		}
		buf = append(buf, rest...)
		end -= n
		for len(buf) > 0 {
			i := bytes.LastIndexByte(buf[:len(buf)-1], '\n') + 1
			if i == 0 && end > 0 {
				break
			}
			if more, err := see(buf[i:]); err != nil || !more {
				return err
			}
			buf = buf[:i]
		}
		rest = buf
	}
	return nil
}

// compressed looks through a compressed segment. It can be read from its
// beginning only; what is nearest to the end is kept for that.
func (s *search) compressed(ctx context.Context, file segment.File) error {
	var kept []byte
	left := false // lines in front of kept
	for l, err := range segment.Lines([]segment.File{file}) {
		if err != nil {
			return err
		}
		if l.Number%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if behind, err := s.behind(l.Bytes); err != nil {
			return l.Errorf("%w", err)
		} else if behind {
			break
		}
		if len(kept) > 2*maxKept {
			cut := len(kept) - maxKept
			cut += bytes.IndexByte(kept[cut:], '\n') + 1
			kept, left = append(kept[:0], kept[cut:]...), true
		}
		kept = append(kept, l.Bytes...)
	}
	err := s.backward(ctx, file, bytes.NewReader(kept), int64(len(kept)))
	if err == nil && !s.done && left {
		s.page.Next, s.done = s.oldest, true
	}
	return err
}

// behind reports whether a line is behind all that is asked for.
func (s *search) behind(line []byte) (bool, error) {
	seq, ok := segment.Seq(line)
	if !ok {
		return false, errNoSeq
	}
	if seq >= s.before || s.f.Until.IsZero() {
		return seq >= s.before, nil
	}
	h, err := headOf(line)
	return !h.Time.Before(s.f.Until), err
}
