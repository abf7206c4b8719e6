package audit

import (
	"errors"
	"fmt"
	"iter"

	"keyhole/audit/segment"
)

// Read returns the records of the log in dir, in order. It is strict: the
// first line that is no record, or does not follow the one before, ends the
// sequence with a *LineError. It takes no lock and needs memory for one
// line; of a log that is being written the last line may be ErrTorn.
func Read(dir string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		files, err := segment.List(dir)
		if err != nil {
			yield(Record{}, fmt.Errorf("reading the audit log: %w", err))
			return
		}
		c := chain{fromSeq: len(files) > 0 && files[0].Number == 1}
		for l, err := range segment.Lines(files) {
			var line *LineError
			if err != nil && !errors.As(err, &line) {
				err = fmt.Errorf("reading the audit log: %w", err)
			}
			var r Record
			if err == nil {
				if r, err = c.next(l.Bytes); err != nil {
					err = l.Errorf("%w", err)
				}
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}
