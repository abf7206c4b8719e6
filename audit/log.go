package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"keyhole/keys"
)

// Config is what a Log needs. Only Dir is required.
type Config struct {
	Dir  string           // made if it does not exist
	Node string           // of every record; default the host's name
	Now  func() time.Time // default time.Now
	Log  *slog.Logger     // default slog.Default()
	// Observe is told of every commit: how many records, how long the write
	// and fsync took, and how it ended. It must not wait.
	Observe func(records int, d time.Duration, err error)
}

// Bounds of waiting.
const (
	maxQueue   = 16 << 20        // bytes of records that wait for the disk
	probeEvery = time.Second     // between attempts to get over a fault
	stuckAfter = 5 * time.Second // a commit that takes longer makes the log unhealthy
	clockSlack = time.Second     // the clock may be this far behind without a record of it
)

// Log writes records. Its methods are safe for concurrent use.
type Log struct {
	dir     string
	node    string
	now     func() time.Time
	log     *slog.Logger
	observe func(records int, d time.Duration, err error)
	lock    *os.File

	mu      sync.Mutex
	queue   *batch    // the next commit; nil while it has no records
	running bool      // a committer is at work; it ends when the queue is empty
	began   time.Time // of the commit under way; zero: none
	last    time.Time // the latest time given to a record
	behind  bool      // the clock is behind last, and that was recorded
	fault   *fault    // nil: the last commit went well
	closed  bool

	committers sync.WaitGroup

	// Owned by the committer, and by Open before there is one.
	seg   *segment
	seq   uint64    // of the next record
	wrote time.Time // time of the last record
	buf   []byte    // the batch being written
}

// fault is why nothing can be written at present.
type fault struct {
	err     error
	since   time.Time
	next    time.Time // of the next attempt; monotonic, for the wall clock may be stepped
	refused int       // records that were not written because of it
}

// Open opens the log in a directory, or begins one, and holds a lock on it
// until Close. What a crash left behind the last complete line is cut, and
// that is recorded. Errors: ErrInUse where another process has the log, a
// *LineError where it is damaged.
func Open(c Config) (*Log, error) {
	l := &Log{dir: c.Dir, node: c.Node, now: c.Now, log: c.Log, observe: c.Observe}
	if l.dir == "" {
		return nil, errors.New("the audit log needs a directory")
	}
	if l.node == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("naming this node for the audit log: %w", err)
		}
		l.node = name
	}
	if l.now == nil {
		l.now = time.Now
	}
	if l.log == nil {
		l.log = slog.Default()
	}
	if l.observe == nil {
		l.observe = func(int, time.Duration, error) {}
	}
	if err := makeDir(l.dir); err != nil {
		return nil, fmt.Errorf("making the audit directory: %w", err)
	}
	lock, err := lockDir(l.dir)
	if err != nil {
		return nil, err
	}
	l.lock = lock
	if err := l.openLast(); err != nil {
		err = errors.Join(err, unlockDir(lock))
		if l.seg != nil {
			err = errors.Join(err, l.seg.f.Close())
		}
		return nil, err
	}
	return l, nil
}

// openLast finds where the log ends and opens its last segment there.
func (l *Log) openLast() error {
	first, count, err := segments(l.dir)
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	if count == 0 {
		l.seg, err = createSegment(segmentPath(l.dir, 1))
		if err != nil {
			return fmt.Errorf("beginning the audit log: %w", err)
		}
		return nil
	}
	n := first + count - 1
	end, err := readTail(segmentPath(l.dir, n), n == 1)
	if err != nil {
		return damaged(err)
	}
	last := end
	if len(end.line) == 0 && n > first { // a crash came between making a segment and its first record
		if last, err = readTail(segmentPath(l.dir, n-1), false); err != nil {
			return damaged(err)
		}
		if last.torn != 0 {
			return fmt.Errorf("the audit log is damaged and is not written on: %s ends in the middle of a line; put it back from a backup", segmentPath(l.dir, n-1))
		}
	}
	if len(last.line) > 0 {
		l.seq, l.last, l.wrote = last.last.Seq+1, last.last.Time, last.last.Time
	}
	seg, cut, err := openSegment(segmentPath(l.dir, n), end.size, end.line)
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	l.seg = seg
	if cut == 0 {
		return nil
	}
	l.log.Warn("cut an unfinished line off the audit log; it was never acknowledged", "file", seg.path, "bytes", cut)
	if err := l.write(l.recovered(nil, cut)); err != nil {
		return fmt.Errorf("recording the repair of the audit log: %w", err)
	}
	return nil
}

func damaged(err error) error {
	var line *LineError
	if !errors.As(err, &line) {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	err = fmt.Errorf("the audit log is damaged and is not written on: %w. Keep a copy of the directory, then put the file back from a backup", err)
	if line.Offset > 0 {
		err = fmt.Errorf("%w. If the machine lost power when this line was written, nothing from it on was acknowledged, and cutting there is safe: truncate -s %d %s",
			err, line.Offset, line.File)
	}
	return err
}

// Append writes records and returns the seq of the first one when all are
// durable. They stand next to each other in the log. An error is
// keys.ErrAudit: the records must be taken for lost, though they may still be
// found in the log. That is so in particular when ctx ended before the disk
// had answered.
func (l *Log) Append(ctx context.Context, recs ...Record) (first uint64, err error) {
	if len(recs) == 0 {
		return 0, nil
	}
	if ctx.Err() != nil {
		return 0, errLate
	}
	buf := l.encode(recs)
	b, i, err := l.enqueue(buf)
	if err != nil {
		buf.free()
		return 0, err
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		select {
		case <-b.done: // both: it is durable, or known not to be
		default:
			return 0, errLate
		}
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.entries[i].first, nil
}

// Health returns nil, or why nothing can be recorded at present. While there
// is a fault it also sets off the next attempt to get over it, so that a
// gateway that gets no requests because it is not ready becomes ready again.
func (l *Log) Health() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return errClosed
	case !l.began.IsZero() && time.Since(l.began) > stuckAfter:
		return fmt.Errorf("%w: the disk has not answered for %s", keys.ErrAudit, time.Since(l.began).Round(time.Second))
	case l.fault == nil:
		return nil
	}
	if l.due() {
		l.start()
	}
	return fmt.Errorf("%w since %s: %w", keys.ErrAudit, l.fault.since.Format(time.RFC3339), l.fault.err)
}

// Close waits until everything handed in is written, closes the log and
// gives up its lock. Append fails from now on.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	l.committers.Wait()
	var err error
	if l.fault != nil {
		err = fmt.Errorf("%w: %w", keys.ErrAudit, l.fault.err)
	} else {
		err = l.seg.f.Close()
	}
	return errors.Join(err, unlockDir(l.lock))
}

var (
	errLate   = keys.Errorf(keys.ErrAudit, "the audit log did not confirm the record in time; the result was dropped, try again later")
	errClosed = keys.Errorf(keys.ErrAudit, "the audit log is closed: the gateway is stopping")
	errQueue  = keys.Errorf(keys.ErrAudit, "too many records wait for the audit log; the result was dropped, try again later")
	errFault  = keys.Errorf(keys.ErrAudit, "the audit log cannot be written; the result was dropped, try again later")
)
