package lookup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"keyhole/audit/segment"
)

// ErrGone means that there is no such record in the segments that are here.
var ErrGone = errors.New("its segment is not here")

// Line returns the line of a record, with its newline. Errors: ErrGone, and
// those of files.
func Line(ctx context.Context, dir string, seq uint64) ([]byte, error) {
	files, err := segment.List(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	at, err := cut(files, func(h head) bool { return h.Seq > seq })
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	var line []byte
	keep := func(b []byte) bool {
		if got, ok := segment.Seq(b); ok && got == seq {
			line = bytes.Clone(b)
		}
		return line != nil
	}
	switch {
	case len(files) == 0:
	case files[at.file].Compressed:
		for l, err := range segment.Lines(files[at.file : at.file+1]) {
			if err != nil {
				return nil, fmt.Errorf("reading the audit log: %w", err)
			}
			if keep(l.Bytes) {
				break
			}
		}
	default:
		f, err := os.Open(files[at.file].Path)
		if err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		defer f.Close()
		err = backward(ctx, f, at.offset, func(b []byte) (bool, error) {
			keep(b)
			return false, nil // there is no other one that it could be
		})
		if err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
	}
	if line == nil {
		return nil, fmt.Errorf("the record %d: %w", seq, ErrGone)
	}
	return line, nil
}
