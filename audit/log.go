package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit/checkpoint"
	"keyhole/audit/internal/journal"
	"keyhole/audit/merkle"
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
	// Keys are the audit keys that the checkpoints found are checked with;
	// nil: they are believed, as long as nothing needs repair.
	Keys *checkpoint.Keys
	// A segment is sealed and the next one begun when it has grown or aged
	// beyond these (default 64 MiB and 24 h).
	SegmentSize int64
	SegmentAge  time.Duration
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
	keys    *checkpoint.Keys
	maxSize int64
	maxAge  time.Duration
	origin  string

	mu      sync.Mutex
	queue   *batch    // the next commit; nil while it has no records
	running bool      // a committer is at work; it ends when the queue is empty
	began   time.Time // of the commit under way; zero: none
	last    time.Time // the latest time given to a record
	behind  bool      // the clock is behind last, and that was recorded
	fault   *fault    // nil: the last commit went well
	closed  bool
	head    merkle.Tree // of what is durable

	vouching    sync.Mutex // guards what follows
	checkpoints *os.File
	vouched     checkpoint.Checkpoint // the last one
	signed      []byte                // it, signed; nil: there is none
	signer      string                // its key; "": it was not checked

	committers sync.WaitGroup

	// Owned by the committer, and by Open before there is one.
	seg      *openFile
	journal  *journal.File
	segBegan time.Time // time of its first record; zero: it has none
	seq      uint64    // of the next record
	wrote    time.Time // time of the last record
	buf      []byte    // the batch being written
	nodes    *merkle.File
	tree     merkle.Tree
	stored   []byte // nodes of the batch being written
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
	l := &Log{dir: c.Dir, node: c.Node, now: c.Now, log: c.Log, observe: c.Observe, keys: c.Keys, maxSize: c.SegmentSize, maxAge: c.SegmentAge}
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
	if l.maxSize <= 0 {
		l.maxSize = 64 << 20
	}
	if l.maxAge <= 0 {
		l.maxAge = 24 * time.Hour
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
	if err := l.openFiles(); err != nil {
		return nil, errors.Join(err, l.closeFiles(), unlockDir(lock))
	}
	return l, nil
}

// Append writes records and returns the seq of the first one when all are
// durable. They stand next to each other in the log. An error is
// keys.ErrAudit: the records must be taken for lost, though they may still be
// found in the log. That is so in particular when ctx ended before the disk
// had answered.
func (l *Log) Append(ctx context.Context, recs ...Record) (first uint64, err error) {
	r, asked := ctx.Value(receiptsKey{}).(*Receipts)
	first, leaves, err := l.append(ctx, asked, recs)
	if asked && err == nil {
		r.note(first, leaves)
	}
	return first, err
}

// AppendReceipt is Append and also returns the leaf hash of each record's
// line: who keeps seq and hash can have it proved later that the record is
// in the log.
func (l *Log) AppendReceipt(ctx context.Context, recs ...Record) (first uint64, leaves []tlog.Hash, err error) {
	return l.append(ctx, true, recs)
}

func (l *Log) append(ctx context.Context, receipt bool, recs []Record) (first uint64, leaves []tlog.Hash, err error) {
	if len(recs) == 0 {
		return 0, nil, nil
	}
	if ctx.Err() != nil {
		return 0, nil, errLate
	}
	buf := l.encode(recs)
	b, i, err := l.enqueue(buf, receipt)
	if err != nil {
		buf.free()
		return 0, nil, err
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		select {
		case <-b.done: // both: it is durable, or known not to be
		default:
			return 0, nil, errLate
		}
	}
	if b.err != nil {
		return 0, nil, b.err
	}
	return b.entries[i].first, b.entries[i].leaves, nil
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
	l.vouching.Lock() // a checkpoint may be under way
	defer l.vouching.Unlock()
	var err error
	if l.fault != nil {
		err = fmt.Errorf("%w: %w", keys.ErrAudit, l.fault.err)
	}
	return errors.Join(err, l.closeFiles(), unlockDir(l.lock))
}

var (
	errLate   = keys.Errorf(keys.ErrAudit, "the audit log did not confirm the record in time; the result was dropped, try again later")
	errClosed = keys.Errorf(keys.ErrAudit, "the audit log is closed: the gateway is stopping")
	errQueue  = keys.Errorf(keys.ErrAudit, "too many records wait for the audit log; the result was dropped, try again later")
	errFault  = keys.Errorf(keys.ErrAudit, "the audit log cannot be written; the result was dropped, try again later")
)
