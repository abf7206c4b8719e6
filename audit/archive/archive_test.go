package archive_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyhole/audit"
	"keyhole/audit/archive"
	"keyhole/audit/checkpoint"
	"keyhole/audit/export"
	"keyhole/audit/verify"
)

type auditKey struct {
	*checkpoint.Key
	private ed25519.PrivateKey
}

func (k auditKey) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(k.private, msg), nil }

func newAuditKey(t *testing.T) auditKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	k, err := checkpoint.NewKey("keyhole-audit.v1", spki)
	if err != nil {
		t.Fatal(err)
	}
	return auditKey{k, private}
}

func open(t *testing.T, dir string, keys *checkpoint.Keys) *audit.Log {
	t.Helper()
	l, err := audit.Open(audit.Config{Dir: dir, Node: "n", Log: slog.New(slog.DiscardHandler), SegmentSize: 3000, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func fill(t *testing.T, l *audit.Log, n int) {
	t.Helper()
	for i := range n {
		if _, err := l.Append(t.Context(), audit.Record{RequestID: fmt.Sprint("r", i), Action: "sign", Outcome: audit.OutcomeOK}); err != nil {
			t.Fatal(err)
		}
	}
}

func segments(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.jsonl*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func records(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	for _, err := range audit.Read(dir) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// A log is compressed, moved away and written on, all while it is open, and
// what remains verifies at each step.
func TestArchive(t *testing.T) {
	t.Parallel()
	dir, away := t.TempDir(), filepath.Join(t.TempDir(), "away")
	k := newAuditKey(t)
	keys := checkpoint.NewKeys(k.Key)
	l := open(t, dir, keys)
	fill(t, l, 100)
	if _, err := archive.Log(t.Context(), archive.Options{Dir: dir, Keys: keys}); err == nil || !strings.Contains(err.Error(), "no checkpoint") {
		t.Errorf("nobody vouches for anything, and it is archived: %v", err)
	}
	if _, _, err := l.Checkpoint(k); err != nil {
		t.Fatal(err)
	}
	fill(t, l, 40)
	verified := func(want uint64) *verify.Result {
		t.Helper()
		r, err := verify.Log(t.Context(), verify.Options{Dir: dir, Keys: keys})
		if err != nil || len(r.Findings) != 0 || r.Records != want {
			t.Fatalf("%+v, %v", r, err)
		}
		return r
	}
	before := len(segments(t, dir))
	told := 0
	done, err := archive.Log(t.Context(), archive.Options{Dir: dir, Keys: keys, Keep: 1, Done: func(archive.Segment) { told++ }})
	if err != nil || len(done) < 2 || told != len(done) || done[0].First != 0 || done[len(done)-1].Last >= 100 || done[0].After >= done[0].Before {
		t.Fatalf("%+v, %v", done, err)
	}
	if got := len(segments(t, dir)); got != before {
		t.Errorf("%d segments, then %d", before, got)
	}
	verified(140)
	if got := records(t, dir); got != 140 {
		t.Errorf("%d records are read", got)
	}
	if again, err := archive.Log(t.Context(), archive.Options{Dir: dir, Keys: keys, Keep: 1}); err != nil || len(again) != 0 {
		t.Errorf("compressed twice: %+v, %v", again, err)
	}
	if err := os.MkdirAll(export.CursorDir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	cursor := filepath.Join(export.CursorDir(dir), "siem")
	if err := os.WriteFile(cursor, []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if moved, err := archive.Log(t.Context(), archive.Options{Dir: dir, Keys: keys, To: away}); err != nil || len(moved) != 0 {
		t.Errorf("moved though the SIEM has nothing of it: %+v, %v", moved, err)
	}
	if err := os.WriteFile(cursor, []byte("1000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	moved, err := archive.Log(t.Context(), archive.Options{Dir: dir, Keys: keys, To: away})
	if err != nil || len(moved) < len(done) || !strings.HasPrefix(moved[0].Path, away) {
		t.Fatalf("%+v, %v", moved, err)
	}
	if r := verified(140); r.Archived != moved[len(moved)-1].Last+1 {
		t.Errorf("%+v", r)
	}
	fill(t, l, 10)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, keys)
	fill(t, l, 10)
	if _, _, err := l.Checkpoint(k); err != nil {
		t.Fatal(err)
	}
	verified(160)
	for _, p := range segments(t, away) { // laid beside it again
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(p)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r := verified(160); r.Archived != 0 || records(t, dir) != 160 {
		t.Errorf("%+v", r)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := newAuditKey(t)
	keys := checkpoint.NewKeys(k.Key)
	l := open(t, dir, keys)
	fill(t, l, 60)
	if _, _, err := l.Checkpoint(k); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	refused := func(name, want string, keys *checkpoint.Keys) {
		t.Helper()
		before := segments(t, dir)
		if done, err := archive.Log(t.Context(), archive.Options{Dir: dir, Keys: keys}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", name, done, err, want)
		}
		if after := segments(t, dir); len(after) != len(before) || after[0] != before[0] {
			t.Errorf("%s: the segments were %v and are %v", name, before, after)
		}
	}
	refused("another key", "none of the known", checkpoint.NewKeys(newAuditKey(t).Key))
	path := filepath.Join(dir, "00000001.jsonl")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(good, []byte("sign"), []byte("sigh"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("an altered line", "not the line that was recorded", keys)
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	hashes := filepath.Join(dir, "hashes")
	if err := os.Truncate(hashes, 100); err != nil {
		t.Fatal(err)
	}
	refused("hashes cut", "stored hashes", keys)
	if _, err := archive.Log(t.Context(), archive.Options{Dir: t.TempDir(), Keys: keys}); err == nil {
		t.Error("an empty directory is archived")
	}
}
