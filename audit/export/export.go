package export

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"keyhole/audit"
)

// Entry is one record to be sent.
type Entry struct {
	Record audit.Record
	Line   []byte // as it is in the log, without the newline
}

// Sink is the other side. Send returns nil only when all entries were taken:
// what it took is not sent again. Rewind says how many entries before a
// failure may have been lost though Send returned nil, and are sent again.
type Sink interface {
	Send(ctx context.Context, entries []Entry) error
	Rewind() uint64
	Close() error
}

// Config is what an Exporter needs. Dir, Name and Sink are required.
type Config struct {
	Dir  string // of the audit log
	Name string // of the exporter, unique in the log: a-z, 0-9, '-'
	Sink Sink
	Size func() uint64 // how many records the log has
	Log  *slog.Logger
	// Observe is told of each attempt to send. It must not wait.
	Observe func(entries int, err error)
	Batch   int // most entries of one Send; default 512
}

// Exporter sends a log to one sink.
type Exporter struct {
	c      Config
	cursor string // path

	mu     sync.Mutex
	next   uint64 // seq of the first record that was not taken
	err    error  // of the last attempt; nil: it went well
	since  time.Time
	oldest time.Time // time of the record at next, once it was read; zero: not known
}

// How often the log is looked at for what is new, and the pauses between
// attempts that fail.
const (
	poll       = 200 * time.Millisecond
	firstPause = time.Second
	lastPause  = time.Minute
)

// CursorDir is where the cursors of a log's exporters are.
func CursorDir(dir string) string { return filepath.Join(dir, "export") }

// Cursors returns for each exporter that a log ever had the seq of the first
// record that was not taken from it. What lies behind must not be archived.
func Cursors(dir string) (map[string]uint64, error) {
	entries, err := os.ReadDir(CursorDir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := map[string]uint64{}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".new" {
			continue
		}
		n, err := readCursor(filepath.Join(CursorDir(dir), e.Name()))
		if err != nil {
			return nil, err
		}
		all[e.Name()] = n
	}
	return all, nil
}

// New returns an exporter that goes on where the one of that name stopped; a
// new one begins with the log.
func New(c Config) (*Exporter, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Observe == nil {
		c.Observe = func(int, error) {}
	}
	if c.Batch <= 0 {
		c.Batch = 512
	}
	for _, r := range c.Name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return nil, fmt.Errorf("an exporter's name has a-z, 0-9 and '-', not %q", c.Name)
		}
	}
	if c.Name == "" {
		return nil, errors.New("an exporter needs a name")
	}
	if err := os.MkdirAll(CursorDir(c.Dir), 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of cursors: %w", err)
	}
	e := &Exporter{c: c, cursor: filepath.Join(CursorDir(c.Dir), c.Name)}
	var err error
	if e.next, err = readCursor(e.cursor); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if size := c.Size(); e.next > size {
		return nil, fmt.Errorf("the exporter %s has sent %d records, and the audit log has %d: it is another log, or it was cut; "+
			"see keyhole audit verify, then remove %s to send the log from its beginning", c.Name, e.next, size, e.cursor)
	}
	// So that nothing it needs is archived before it has begun.
	return e, writeCursor(e.cursor, e.next)
}

// Run sends until ctx ends. Whatever fails is tried again, with growing
// pauses; only the first failure in a row is logged, and its end.
func (e *Exporter) Run(ctx context.Context) error {
	defer func() {
		if err := e.c.Sink.Close(); err != nil { // it has taken what it has taken
			e.c.Log.WarnContext(ctx, "closing an export of the audit log", "exporter", e.c.Name, "err", err)
		}
	}()
	t := &tail{dir: e.c.Dir, next: e.next}
	defer t.close()
	pause := time.Duration(0)
	for ctx.Err() == nil {
		if pause > 0 && !sleep(ctx, pause) {
			return nil
		}
		n, err := e.step(ctx, t)
		if ctx.Err() != nil {
			return nil
		}
		e.settle(ctx, err)
		switch {
		case err != nil:
			e.back(t)
			pause = min(max(2*pause, firstPause), lastPause)
			pause -= rand.N(pause / 4) //nolint:gosec // spreads attempts, no secret
		case n == 0:
			pause = poll
		default:
			pause = 0
		}
	}
	return nil
}

// step sends what is there, one batch at most, and moves the cursor.
func (e *Exporter) step(ctx context.Context, t *tail) (int, error) {
	entries, err := t.read(e.c.Batch, e.c.Size())
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	e.mu.Lock()
	e.oldest = entries[0].Record.Time
	e.mu.Unlock()
	err = e.c.Sink.Send(ctx, entries)
	if ctx.Err() == nil {
		e.c.Observe(len(entries), err)
	}
	if err != nil {
		return 0, err
	}
	next := entries[len(entries)-1].Record.Seq + 1
	if err := writeCursor(e.cursor, next); err != nil {
		return 0, fmt.Errorf("keeping the cursor of the exporter: %w", err)
	}
	e.mu.Lock()
	e.next, e.oldest = next, time.Time{}
	e.mu.Unlock()
	return len(entries), nil
}

// back goes back to what was not taken for sure.
func (e *Exporter) back(t *tail) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next -= min(e.next, e.c.Sink.Rewind())
	e.oldest = time.Time{}
	t.close()
	*t = tail{dir: t.dir, next: e.next}
}

func (e *Exporter) settle(ctx context.Context, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err != nil && e.err == nil:
		e.since = time.Now()
		e.c.Log.WarnContext(ctx, "audit records are not taken; trying again", "exporter", e.c.Name, "next", e.next, "err", err)
	case err == nil && e.err != nil:
		e.c.Log.InfoContext(ctx, "audit records are taken again", "exporter", e.c.Name, "next", e.next, "after", time.Since(e.since).Round(time.Second))
	}
	e.err = err
}

// Status is how far an exporter is behind.
type Status struct {
	Name string
	Next uint64        // seq of the first record that was not taken
	Lag  uint64        // records that were not taken
	Age  time.Duration // of the oldest of them that was tried; 0 if all are taken
	Err  error         // of the last attempt
}

// Status returns how far the exporter is behind.
func (e *Exporter) Status() Status {
	size := e.c.Size()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Status{Name: e.c.Name, Next: e.next, Err: e.err}
	if size > e.next {
		s.Lag = size - e.next
		if !e.oldest.IsZero() {
			s.Age = max(0, time.Since(e.oldest))
		}
	}
	return s
}

func readCursor(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(string(b), "\n"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is no cursor of an exporter; remove it to send the log from its beginning", path)
	}
	return n, nil
}

// writeCursor replaces a cursor: a new file, fsync, rename. The name itself
// may be lost with the machine's power; then the old cursor is found, and
// records are sent again.
func writeCursor(path string, next uint64) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatUint(next, 10) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// sleep reports whether the pause ended before ctx did.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
