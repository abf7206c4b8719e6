package audit_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"keyhole/audit"
)

// TestMain also is the process that the tests start, kill and starve.
func TestMain(m *testing.M) {
	if role := os.Getenv("AUDIT_TEST_ROLE"); role != "" {
		if err := roles[role](os.Getenv("AUDIT_TEST_DIR")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var roles = map[string]func(dir string) error{"crash": crashRole, "full": fullRole, "hold": holdRole}

func config(dir string) audit.Config {
	return audit.Config{Dir: dir, Node: "node-1", Log: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, c audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func appendTo(t *testing.T, l *audit.Log, recs ...audit.Record) uint64 {
	t.Helper()
	first, err := l.Append(t.Context(), recs...)
	if err != nil {
		t.Fatal(err)
	}
	return first
}

func closeLog(t *testing.T, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func readAll(t *testing.T, dir string) []audit.Record {
	t.Helper()
	recs, err := collect(dir)
	if err != nil {
		t.Fatal(err)
	}
	return recs
}

func collect(dir string) ([]audit.Record, error) {
	var recs []audit.Record
	for r, err := range audit.Read(dir) {
		if err != nil {
			return recs, err
		}
		recs = append(recs, r)
	}
	return recs, nil
}

func rec(id string) audit.Record {
	return audit.Record{RequestID: id, Principal: "jwt:corp:alice", Action: "sign", Key: "payments", Outcome: audit.OutcomeOK}
}

// eventually polls until f returns nil.
func eventually(f func() error) error {
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-deadline:
			return fmt.Errorf("still after 20 s: %w", err)
		case <-tick.C:
		}
	}
}

func segment(dir string) string { return filepath.Join(dir, "00000001.jsonl") }

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantLine checks that err is about one line of the first segment.
func wantLine(t *testing.T, err error, dir string, line int) {
	t.Helper()
	var le *audit.LineError
	if !errors.As(err, &le) || le.File != segment(dir) || le.Line != line {
		t.Errorf("error is %v, want one about line %d of %s", err, line, segment(dir))
	}
}
