package audit

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyhole/audit/internal/journal"
)

// crashed returns the directory of a log that ended without being closed,
// and how many records were acknowledged.
func crashed(t *testing.T, records int) (dir string) {
	t.Helper()
	live := openForFault(t)
	for i := range records - 1 {
		mustAppend(t, live, fmt.Sprint("r", i))
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(live.dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What a loss of power leaves of lines that were not synced is brought back
// from the journal, and recorded.
func TestLossOfPower(t *testing.T) {
	t.Parallel()
	const records = 20
	path := func(dir string) string { return filepath.Join(dir, "00000001.jsonl") }
	change := func(f func(b []byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			b, err := os.ReadFile(path(dir))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path(dir), f(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tt := range map[string]struct {
		damage   func(t *testing.T, dir string)
		want     string // part of the error; "": it opens
		restored bool
	}{
		"nothing is gone":             {change(func(b []byte) []byte { return b }), "", false},
		"the end is gone":             {change(func(b []byte) []byte { return b[:len(b)-1000] }), "", true},
		"all is gone":                 {change(func([]byte) []byte { return nil }), "", true},
		"zeros at the end":            {change(func(b []byte) []byte { clear(b[len(b)-777:]); return b }), "", true},
		"zeros, and more than there":  {change(func(b []byte) []byte { clear(b[len(b)-777:]); return append(b, make([]byte, 5000)...) }), "", true},
		"a line that nobody wrote":    {change(func(b []byte) []byte { b[len(b)-500] ^= 1; return b }), "somebody altered", false},
		"a hole, and lines behind it": {change(func(b []byte) []byte { clear(b[100:200]); return b }), "somebody altered", false},
		"the segment is gone":         {func(t *testing.T, dir string) { os.Remove(path(dir)) }, "was cut", false},
		"the journal is gone":         {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, journalName)) }, "", false},
		"a write under way": {func(t *testing.T, dir string) {
			change(func(b []byte) []byte { return append(b, `{"seq":20,"time":"20`...) })(t, dir)
		}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := crashed(t, records)
			tt.damage(t, dir)
			l, err := Open(Config{Dir: dir, Node: "n", Log: slog.New(slog.DiscardHandler)})
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("Open: %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			mustAppend(t, l, "after")
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			found, restored := 0, false
			for r, err := range Read(dir) {
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case r.Action == ActionRecover:
					restored = r.Details["bytes_restored"] != ""
				case r.Seq < records && r.RequestID != "after":
					found++
				}
			}
			if found != records || restored != tt.restored {
				t.Errorf("%d of %d records are there; that some were brought back is recorded: %v", found, records, restored)
			}
		})
	}
}

// The journal is filled many times over, by small and by large batches, and
// what it holds is always in the log behind what was synced.
func TestJournalGoesRound(t *testing.T) {
	t.Parallel()
	l := openForFault(t)
	record := func(notes int) Record {
		r := Record{Action: "sign", Outcome: OutcomeOK, Details: map[string]string{}}
		for i := range notes {
			r.Details[fmt.Sprint("note_", i)] = strings.Repeat("x", 1000)
		}
		return r
	}
	large := make([]Record, 80) // more than the journal holds
	for i := range large {
		large[i] = record(60)
	}
	inJournal := 0
	for i := range 24 {
		batch := []Record{record(i)}
		if i%12 == 7 {
			batch = large
		}
		if i == 15 {
			batch = large[:60] // as much as just fits in
		}
		if _, err := l.Append(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(l.dir)); err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(filepath.Join(dir, "00000001.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		j, entries, err := journal.Open(filepath.Join(dir, journalName))
		if err != nil {
			t.Fatal(err)
		}
		j.Close()
		if n := len(entries); n > 0 && entries[n-1].Offset+int64(len(entries[n-1].Bytes)) == int64(len(whole)) { // else all of it was synced
			inJournal++
			if err := os.Truncate(filepath.Join(dir, "00000001.jsonl"), entries[0].Offset); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := replay(dir, entries, -1); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "00000001.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, whole) {
			t.Fatalf("after batch %d the journal brings %d bytes back, of %d", i, len(got), len(whole))
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if inJournal < 20 {
		t.Errorf("only %d batches were in the journal", inJournal)
	}
}

// A journal that goes away under a log that is open is made anew; nothing is
// acknowledged that only the lost one held.
func TestJournalTakenAway(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(path string) error{
		"removed":  os.Remove,
		"cut":      func(path string) error { return os.Truncate(path, 0) },
		"replaced": func(path string) error { return os.Rename(path, path+".old") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openForFault(t)
			path := filepath.Join(l.dir, journalName)
			if err := take(path); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Append(t.Context(), Record{RequestID: "lost", Action: "sign", Outcome: OutcomeOK}); err == nil {
				t.Fatal("a record was acknowledged")
			}
			if name == "cut" { // by somebody: no file of ours
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			if recs := recovers(t, l); len(recs) != 3 || recs[0].RequestID != "before" || recs[1].Action != ActionRecover || recs[2].RequestID != "after" {
				t.Errorf("records: %+v", recs)
			}
		})
	}
}
