package audit

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"keyhole/keys"
)

// These tests put another open file under a log that works, so that the
// kernel itself refuses what is refused on a failing disk.

func openForFault(t *testing.T) *Log {
	t.Helper()
	l, err := Open(Config{Dir: t.TempDir(), Node: "n", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	mustAppend(t, l, "before")
	return l
}

func mustAppend(t *testing.T, l *Log, id string) uint64 {
	t.Helper()
	seq, err := l.Append(t.Context(), Record{RequestID: id, Action: "sign", Outcome: OutcomeOK})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// swap gives the log another file to write to.
func swap(t *testing.T, l *Log, f *os.File) {
	t.Helper()
	l.committers.Wait()
	if err := l.seg.f.Close(); err != nil {
		t.Fatal(err)
	}
	l.seg.f = f
}

func device(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// recovers waits until the log is healthy again and returns its records.
func recovers(t *testing.T, l *Log) []Record {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for l.Health() != nil {
		select {
		case <-deadline:
			t.Fatalf("still broken: %v", l.Health())
		case <-tick.C:
		}
	}
	mustAppend(t, l, "after")
	var recs []Record
	for r, err := range Read(l.dir) {
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, r)
	}
	return recs
}

func TestDeviceErrors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		file string
		full bool // the journal is, so that the segment is synced
		err  error
	}{
		"fsync fails":   {"/dev/null", true, syscall.EINVAL}, // takes the write, cannot fsync
		"no space left": {"/dev/full", false, syscall.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openForFault(t)
			if tt.full {
				for l.journal.Fits(1000) {
					if err := l.journal.Put(l.seg.number, l.seg.size, nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			swap(t, l, device(t, tt.file))
			for range 3 { // the first one meets the error, the others are refused for it
				_, err := l.Append(t.Context(), Record{RequestID: "lost", Action: "sign", Outcome: OutcomeOK})
				if !errors.Is(err, keys.ErrAudit) || !errors.Is(err, tt.err) {
					t.Fatalf("Append: %v, want ErrAudit and %v", err, tt.err)
				}
			}
			if err := l.Health(); !errors.Is(err, keys.ErrAudit) || !errors.Is(err, tt.err) {
				t.Errorf("Health: %v", err)
			}
			recs := recovers(t, l)
			if len(recs) != 3 || recs[0].RequestID != "before" || recs[1].Action != ActionRecover || recs[2].RequestID != "after" {
				t.Fatalf("records: %+v", recs)
			}
			if d := recs[1].Details; d["error"] == "" || d["refused"] != "3" || d["bytes_cut"] != "0" {
				t.Errorf("the outage is recorded as %v", d)
			}
		})
	}
}

func TestDiskThatHangs(t *testing.T) {
	t.Parallel()
	l := openForFault(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for err == nil { // fill it, so that the next write waits
		_, err = w.Write(make([]byte, 4096))
	}
	w.SetWriteDeadline(time.Time{})
	swap(t, l, w)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for range 2 { // neither who came first nor who came later is held up
		if _, err := l.Append(ctx, Record{RequestID: "hung", Action: "sign", Outcome: OutcomeOK}); !errors.Is(err, keys.ErrAudit) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Append: %v", err)
		}
	}
	l.mu.Lock()
	l.began = l.began.Add(-stuckAfter)
	l.mu.Unlock()
	if err := l.Health(); !errors.Is(err, keys.ErrAudit) {
		t.Errorf("Health while a write hangs: %v", err)
	}
	r.Close() // now it fails
	if recs := recovers(t, l); recs[0].RequestID != "before" || recs[len(recs)-1].RequestID != "after" {
		t.Errorf("records: %+v", recs)
	}
}

// Somebody moves, cuts or writes to the file under a log that is open.
func TestForeignHands(t *testing.T) {
	t.Parallel()
	fails := func(t *testing.T, l *Log) {
		t.Helper()
		if _, err := l.Append(t.Context(), Record{RequestID: "lost", Action: "sign", Outcome: OutcomeOK}); !errors.Is(err, keys.ErrAudit) {
			t.Fatalf("Append: %v, want ErrAudit", err)
		}
	}
	// tried waits until an attempt to get over the fault has failed.
	tried := func(t *testing.T, l *Log) {
		t.Helper()
		since := func() time.Time {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.fault == nil {
				return time.Time{}
			}
			return l.fault.next
		}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for first := since(); since().Equal(first); <-tick.C {
			if l.Health() == nil {
				t.Fatal("it went on, over a file that is not its own")
			}
		}
	}
	check := func(t *testing.T, recs []Record) {
		t.Helper()
		if len(recs) != 3 || recs[0].RequestID != "before" || recs[1].Action != ActionRecover || recs[2].RequestID != "after" {
			t.Errorf("records: %+v", recs)
		}
	}
	t.Run("moved away and back", func(t *testing.T) {
		t.Parallel()
		l := openForFault(t)
		away := filepath.Join(t.TempDir(), "away")
		if err := os.Rename(l.seg.path, away); err != nil {
			t.Fatal(err)
		}
		fails(t, l)
		tried(t, l)
		if err := os.Rename(away, l.seg.path); err != nil {
			t.Fatal(err)
		}
		check(t, recovers(t, l))
	})
	t.Run("copied and cut, then put back", func(t *testing.T) {
		t.Parallel()
		l := openForFault(t)
		b, err := os.ReadFile(l.seg.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(l.seg.path, 0); err != nil {
			t.Fatal(err)
		}
		fails(t, l)
		tried(t, l)
		if err := os.WriteFile(l.seg.path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		check(t, recovers(t, l))
	})
	t.Run("written to", func(t *testing.T) {
		t.Parallel()
		l := openForFault(t)
		f, err := os.OpenFile(l.seg.path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("{\"seq\":1}\n"); err != nil {
			t.Fatal(err)
		}
		fails(t, l)
		check(t, recovers(t, l))
	})
	t.Run("replaced by another log", func(t *testing.T) {
		t.Parallel()
		l, other := openForFault(t), openForFault(t)
		for range 3 {
			mustAppend(t, other, "other")
		}
		own := l.seg.path + ".own"
		if err := errors.Join(os.Rename(l.seg.path, own), os.Rename(other.seg.path, l.seg.path)); err != nil {
			t.Fatal(err)
		}
		fails(t, l)
		tried(t, l)
		if err := os.Rename(own, l.seg.path); err != nil {
			t.Fatal(err)
		}
		check(t, recovers(t, l))
	})
}
