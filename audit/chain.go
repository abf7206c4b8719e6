package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"keyhole/audit/segment"
)

// Errors about the files of a log.
var (
	// ErrInUse: another process writes this log.
	ErrInUse = errors.New("the audit directory is in use")
	// ErrTorn: the last line of the log has no end. A crash leaves it so, and
	// so does a look at a log that is being written.
	ErrTorn = segment.ErrTorn
)

// LineError is a line that is not what it should be.
type LineError = segment.LineError

// chain checks that lines are records that follow each other.
type chain struct {
	prev    Record
	started bool // prev is set
	fromSeq bool // the next record must have seq 0 if there is no prev
}

// next reads one line, with its newline, and checks that it follows the one
// before.
func (c *chain) next(line []byte) (Record, error) {
	r, err := ParseLine(line)
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

// ParseLine reads a line of the log, with its newline.
func ParseLine(line []byte) (Record, error) {
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
