package export_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/audit/export"
)

// collector is a sink that takes what it is told to.
type collector struct {
	mu     sync.Mutex
	seqs   []uint64
	fail   int // so many times
	lossy  uint64
	closed int
}

func (c *collector) Send(_ context.Context, entries []export.Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail > 0 {
		c.fail--
		return errors.New("the collector is away")
	}
	for _, e := range entries {
		r, err := audit.ParseLine(append(e.Line, '\n'))
		if err != nil || r.Seq != e.Record.Seq {
			return fmt.Errorf("record %d came as %s: %w", e.Record.Seq, e.Line, err)
		}
		c.seqs = append(c.seqs, e.Record.Seq)
	}
	return nil
}

func (c *collector) Rewind() uint64 { return c.lossy }

func (c *collector) Close() error { c.mu.Lock(); c.closed++; c.mu.Unlock(); return nil }

func (c *collector) got() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]uint64(nil), c.seqs...)
}

func openLog(t *testing.T, dir string) *audit.Log {
	t.Helper()
	l, err := audit.Open(audit.Config{Dir: dir, Node: "node-1", Log: slog.New(slog.DiscardHandler), SegmentSize: 3000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func record(t *testing.T, l *audit.Log, n int) {
	t.Helper()
	for i := range n {
		if _, err := l.Append(t.Context(), audit.Record{RequestID: fmt.Sprint(i), Action: "sign", Principal: "jwt:corp:alice", Outcome: audit.OutcomeOK}); err != nil {
			t.Fatal(err)
		}
	}
}

// run runs an exporter until the returned function is called.
func run(t *testing.T, l *audit.Log, dir string, sink export.Sink) (*export.Exporter, func()) {
	t.Helper()
	e, err := export.New(export.Config{Dir: dir, Name: "siem", Sink: sink, Size: l.Size, Log: slog.New(slog.DiscardHandler), Batch: 7})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return e, stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 30 seconds", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// checkOrder fails unless each of the first n records came, in order, but for
// records that came again.
func checkOrder(t *testing.T, seqs []uint64, n uint64) {
	t.Helper()
	next := uint64(0)
	for i, s := range seqs {
		if s > next {
			t.Fatalf("at %d: the record %d came before %d", i, s, next)
		}
		next = max(next, s+1)
	}
	if next != n {
		t.Fatalf("%d records came, of %d", next, n)
	}
}

func TestFollowsTheLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir)
	record(t, l, 30)
	c := &collector{fail: 1}
	e, stop := run(t, l, dir, c)
	eventually(t, "the first records", func() bool { return e.Status().Lag == 0 && len(c.got()) >= 30 })
	record(t, l, 50) // several segments
	eventually(t, "what came behind", func() bool { return len(c.got()) >= 80 })
	stop()
	if c.closed != 1 {
		t.Errorf("the sink was closed %d times", c.closed)
	}
	record(t, l, 20)
	c2 := &collector{}
	e, stop = run(t, l, dir, c2) // as after a restart
	eventually(t, "what came meanwhile", func() bool { return e.Status().Lag == 0 })
	stop()
	checkOrder(t, append(c.got(), c2.got()...), 100)
	if len(c2.got()) != 20 {
		t.Errorf("%d records came after the restart", len(c2.got()))
	}
	cursors, err := export.Cursors(dir)
	if err != nil || len(cursors) != 1 || cursors["siem"] != 100 {
		t.Errorf("cursors %v, %v", cursors, err)
	}
}

func TestFailuresAndStatus(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir)
	record(t, l, 25)
	c := &collector{fail: 2, lossy: 10}
	e, stop := run(t, l, dir, c)
	eventually(t, "a failure", func() bool {
		s := e.Status()
		return s.Err != nil && s.Lag == 25 && s.Name == "siem" && s.Next == 0
	})
	eventually(t, "all records", func() bool { s := e.Status(); return s.Err == nil && s.Lag == 0 })
	c.mu.Lock()
	c.fail = 1
	c.mu.Unlock()
	record(t, l, 5)
	eventually(t, "all records", func() bool { s := e.Status(); return s.Err == nil && s.Lag == 0 && s.Next == 30 })
	stop()
	checkOrder(t, c.got(), 30)
	if len(c.got()) != 40 { // ten might have been lost, and came again
		t.Errorf("%d records came", len(c.got()))
	}
}

func TestCursorOfAnotherLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir)
	record(t, l, 3)
	put := func(text string) {
		if err := os.MkdirAll(export.CursorDir(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(export.CursorDir(dir), "siem"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]string{"4\n": "it is another log, or it was cut", "rubbish": "no cursor", "-1\n": "no cursor", "": "no cursor"} {
		put(text)
		if _, err := export.New(export.Config{Dir: dir, Name: "siem", Sink: &collector{}, Size: l.Size}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, name := range []string{"", "../x", "A", "a b"} {
		if _, err := export.New(export.Config{Dir: dir, Name: name, Sink: &collector{}, Size: l.Size}); err == nil {
			t.Errorf("an exporter is called %q", name)
		}
	}
}

// Segments that were compressed and moved away after they were sent are not
// missed; ones that were not sent are.
func TestArchivedSegments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir)
	record(t, l, 60)
	c := &collector{}
	e, stop := run(t, l, dir, c)
	eventually(t, "all records", func() bool { return e.Status().Lag == 0 && len(c.got()) == 60 })
	stop()
	if err := os.Remove(filepath.Join(dir, "00000001.jsonl")); err != nil {
		t.Fatal(err)
	}
	record(t, l, 10)
	e, stop = run(t, l, dir, c)
	eventually(t, "all records", func() bool { return e.Status().Lag == 0 && len(c.got()) == 70 })
	stop()
	checkOrder(t, c.got(), 70)
	if err := os.Remove(filepath.Join(export.CursorDir(dir), "siem")); err != nil {
		t.Fatal(err)
	}
	e, _ = run(t, l, dir, c)
	eventually(t, "a complaint", func() bool { s := e.Status(); return s.Err != nil && strings.Contains(s.Err.Error(), "not there") })
}
