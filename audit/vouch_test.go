package audit_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit"
	"keyhole/audit/checkpoint"
	"keyhole/audit/merkle"
	"keyhole/keys"
)

// auditKey signs checkpoints as the HSM does.
type auditKey struct {
	*checkpoint.Key
	private ed25519.PrivateKey
}

func (k auditKey) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(k.private, msg), nil }

func newAuditKey(t testing.TB, name string) auditKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	k, err := checkpoint.NewKey(name, spki)
	if err != nil {
		t.Fatal(err)
	}
	return auditKey{k, private}
}

func vouch(t *testing.T, l *audit.Log, k auditKey) checkpoint.Checkpoint {
	t.Helper()
	signed, c, err := l.Checkpoint(k)
	if err != nil {
		t.Fatal(err)
	}
	if got, by, err := checkpoint.Open(signed, checkpoint.NewKeys(k.Key)); err != nil || got != c || by != k.Name() {
		t.Fatalf("checkpoint %+v by %q, %v; want %+v", got, by, err, c)
	}
	return c
}

// rootOf hashes the lines of a log by the library alone.
func rootOf(t *testing.T, dir string) (int64, tlog.Hash) {
	t.Helper()
	var tree merkle.Tree
	paths, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		for l := range bytes.Lines(readFile(t, p)) {
			tree.Append(nil, tlog.RecordHash(l))
		}
	}
	return tree.Size(), tree.Root()
}

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := newAuditKey(t, "keyhole-audit.v1")
	c := config(dir)
	c.Keys = checkpoint.NewKeys(k.Key)
	l := open(t, c)
	if got := vouch(t, l, k); got.Size != 0 {
		t.Errorf("the empty log has %d records", got.Size)
	}
	var origin string
	for n := range 20 {
		appendTo(t, l, rec("a"), rec("b"), rec(strings.Repeat("long ", 300)))
		got := vouch(t, l, k)
		if size, root := rootOf(t, dir); got.Size != size || got.Root != root || size != int64(3*(n+1)) {
			t.Fatalf("the checkpoint says %d %s, the lines %d %s", got.Size, got.Root, size, root)
		}
		if again := vouch(t, l, k); again != got {
			t.Error("nothing was recorded, and there is another checkpoint")
		}
		if n%5 == 4 {
			closeLog(t, l)
			l = open(t, c)
		}
		if origin == "" {
			origin = got.Origin
		}
		if got.Origin != origin || !strings.HasPrefix(origin, "keyhole/node-1/") {
			t.Fatalf("the log is called %q, then %q", origin, got.Origin)
		}
	}
	// A new audit key signs anew, though nothing was recorded.
	k2 := newAuditKey(t, "keyhole-audit.v2")
	if got := vouch(t, l, k2); got.Size != 60 {
		t.Errorf("%+v", got)
	}
	closeLog(t, l)
	if _, _, err := l.Checkpoint(k2); err == nil {
		t.Error("a closed log gives a checkpoint")
	}
	notes := 0
	f, err := os.Open(filepath.Join(dir, "checkpoints"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, err := range checkpoint.Notes(f, nil) {
		if err != nil {
			t.Fatal(err)
		}
		notes++
	}
	if notes != 22 {
		t.Errorf("%d checkpoints are kept", notes)
	}
	if _, err := audit.Open(c); err == nil || !strings.Contains(err.Error(), "keyhole-audit.v2") {
		t.Errorf("a log opens whose last checkpoint is by an unknown key: %v", err)
	}
}

// What happens to the files beside the lines, and to the lines.
func TestOpenAgainstCheckpoint(t *testing.T) {
	t.Parallel()
	at := func(dir, name string) string { return filepath.Join(dir, name) }
	flip := func(t *testing.T, path string, i int) {
		b := readFile(t, path)
		b[(i+len(b))%len(b)] ^= 1
		writeFile(t, path, b)
	}
	cut := func(t *testing.T, path string, n int) {
		b := readFile(t, path)
		writeFile(t, path, b[:len(b)-n])
	}
	lines := func(t *testing.T, path string, drop int) {
		l := bytes.SplitAfter(readFile(t, path), []byte("\n"))
		writeFile(t, path, bytes.Join(l[:len(l)-1-drop], nil))
	}
	for name, tt := range map[string]struct {
		change  func(t *testing.T, dir string)
		noKeys  bool
		want    string // part of the error; "": it opens
		rebuilt bool
	}{
		"untouched":                        {func(*testing.T, string) {}, false, "", false},
		"no keys":                          {func(*testing.T, string) {}, true, "", false},
		"hashes gone":                      {func(t *testing.T, d string) { os.Remove(at(d, "hashes")) }, false, "", true},
		"hashes altered in front":          {func(t *testing.T, d string) { flip(t, at(d, "hashes"), 62*32) }, false, "", true},
		"hashes cut behind the checkpoint": {func(t *testing.T, d string) { cut(t, at(d, "hashes"), 40) }, false, "", false},
		"hashes cut far":                   {func(t *testing.T, d string) { cut(t, at(d, "hashes"), 2000) }, false, "", true},
		"rubbish behind the hashes": {func(t *testing.T, d string) {
			writeFile(t, at(d, "hashes"), append(readFile(t, at(d, "hashes")), 1, 2, 3))
		}, false, "", false},
		"hashes gone, no keys":               {func(t *testing.T, d string) { os.Remove(at(d, "hashes")) }, true, "no audit key is known", false},
		"hashes gone, line altered":          {func(t *testing.T, d string) { os.Remove(at(d, "hashes")); flip(t, at(d, "00000001.jsonl"), 300) }, false, "was altered", false},
		"lines cut to the checkpoint":        {func(t *testing.T, d string) { lines(t, at(d, "00000001.jsonl"), 10) }, false, "was cut", false},
		"lines cut into the checkpoint":      {func(t *testing.T, d string) { lines(t, at(d, "00000001.jsonl"), 11) }, false, "was cut", false},
		"lines cut into it, and the journal": {func(t *testing.T, d string) { os.Remove(at(d, "journal")); lines(t, at(d, "00000001.jsonl"), 11) }, false, "was cut", false},
		"lines cut to it, and the journal":   {func(t *testing.T, d string) { os.Remove(at(d, "journal")); lines(t, at(d, "00000001.jsonl"), 10) }, false, "", false},
		"journal gone":                       {func(t *testing.T, d string) { os.Remove(at(d, "journal")) }, false, "", false},
		"journal cut":                        {func(t *testing.T, d string) { cut(t, at(d, "journal"), 1) }, false, "no journal", false},
		"all lines gone":                     {func(t *testing.T, d string) { os.Remove(at(d, "00000001.jsonl")) }, false, "was cut", false},
		"checkpoint altered":                 {func(t *testing.T, d string) { flip(t, at(d, "checkpoints"), 25) }, false, "cannot be believed", false},
		"checkpoint torn":                    {func(t *testing.T, d string) { cut(t, at(d, "checkpoints"), 1) }, false, "", false},
		"checkpoints gone":                   {func(t *testing.T, d string) { os.Remove(at(d, "checkpoints")) }, false, "", false},
		"another origin":                     {func(t *testing.T, d string) { writeFile(t, at(d, "origin"), []byte("keyhole/x/y")) }, false, "put together from two", false},
		"origin gone":                        {func(t *testing.T, d string) { os.Remove(at(d, "origin")) }, false, "", false},
		"line altered behind the checkpoint": {func(t *testing.T, d string) { flip(t, at(d, "00000001.jsonl"), -4) }, false, "", false}, // nobody has vouched for it yet
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			k := newAuditKey(t, "keyhole-audit.v1")
			c := config(dir)
			c.Keys = checkpoint.NewKeys(k.Key)
			l := open(t, c)
			for range 63 {
				appendTo(t, l, rec("a"))
			}
			vouch(t, l, k)
			for range 10 {
				appendTo(t, l, rec("b"))
			}
			closeLog(t, l)
			tt.change(t, dir)
			if tt.noKeys {
				c.Keys = nil
			}
			l, err := audit.Open(c)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("%v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			appendTo(t, l, rec("c"))
			got := vouch(t, l, k)
			if size, root := rootOf(t, dir); got.Size != size || got.Root != root {
				t.Errorf("the checkpoint says %d %s, the lines %d %s", got.Size, got.Root, size, root)
			}
			rebuilt := false
			for _, r := range readAll(t, dir) {
				rebuilt = rebuilt || r.Action == audit.ActionRecover && r.Details["hashes"] == "rebuilt"
			}
			if rebuilt != tt.rebuilt {
				t.Errorf("that the hashes were made anew is recorded: %v", rebuilt)
			}
		})
	}
}

func TestSegmentsBySizeAndAge(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := newAuditKey(t, "keyhole-audit.v1")
	clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := config(dir)
	c.SegmentSize, c.SegmentAge, c.Keys = 2000, time.Hour, checkpoint.NewKeys(k.Key)
	c.Now = func() time.Time { return clock }
	l := open(t, c)
	count := func() int {
		paths, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		return len(paths)
	}
	for range 40 {
		appendTo(t, l, rec("a"))
	}
	bySize := count()
	if bySize < 3 {
		t.Errorf("%d segments by size", bySize)
	}
	clock = clock.Add(time.Hour)
	closeLog(t, l)
	l = open(t, c) // knows how old the segment is
	appendTo(t, l, rec("b"))
	if got := count(); got != bySize+1 {
		t.Errorf("%d segments, then %d by age", bySize, got)
	}
	clock = clock.Add(10 * time.Hour)
	vouch(t, l, k)
	closeLog(t, l)
	l = open(t, c)
	got := vouch(t, l, k)
	if size, root := rootOf(t, dir); got.Size != size || got.Root != root || size != 41 {
		t.Errorf("the checkpoint says %d %s, the lines %d %s", got.Size, got.Root, size, root)
	}
	for i, r := range readAll(t, dir) {
		if r.Seq != uint64(i) {
			t.Fatalf("record %d has the seq %d", i, r.Seq)
		}
	}
}

func TestReceiptsAndProofs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := newAuditKey(t, "keyhole-audit.v1")
	l := open(t, config(dir))
	var mu sync.Mutex
	leaves := map[uint64]tlog.Hash{}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 30 {
				first, got, err := l.AppendReceipt(t.Context(), rec(fmt.Sprint(g, i)), rec("second"))
				if err != nil || len(got) != 2 {
					t.Errorf("%d leaves, %v", len(got), err)
					return
				}
				mu.Lock()
				leaves[first], leaves[first+1] = got[0], got[1]
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	c := vouch(t, l, k)
	if int(c.Size) != len(leaves) || l.Size() != uint64(c.Size) {
		t.Fatalf("%d records, %d receipts", c.Size, len(leaves))
	}
	for seq, leaf := range leaves {
		got, proof, err := l.Prove(seq, c.Size)
		if err != nil || got != leaf {
			t.Fatalf("record %d: leaf %s, the receipt says %s (%v)", seq, got, leaf, err)
		}
		if err := tlog.CheckRecord(proof, c.Size, c.Root, int64(seq), leaf); err != nil {
			t.Fatalf("record %d: %v", seq, err)
		}
	}
	for _, tt := range []struct {
		seq  uint64
		size int64
	}{{uint64(c.Size), c.Size}, {0, 0}, {0, -1}, {0, c.Size + 1}, {1 << 63, c.Size}} {
		if _, _, err := l.Prove(tt.seq, tt.size); err == nil {
			t.Errorf("record %d of %d is proved", tt.seq, tt.size)
		}
	}
}

// Nodes that opening the log does not look at are looked at by who needs them.
func TestProofFromDamagedHashes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := newAuditKey(t, "keyhole-audit.v1")
	l := open(t, config(dir))
	for range 64 {
		appendTo(t, l, rec("a"))
	}
	c := vouch(t, l, k)
	closeLog(t, l)
	path := filepath.Join(dir, "hashes")
	b := readFile(t, path)
	b[tlog.StoredHashIndex(0, 5)*tlog.HashSize] ^= 1
	writeFile(t, path, b)
	l = open(t, config(dir))
	if _, _, err := l.Prove(4, c.Size); !errors.Is(err, keys.ErrAudit) {
		t.Errorf("a proof that proves nothing: %v", err)
	}
	if _, _, err := l.Prove(40, c.Size); err != nil {
		t.Error(err)
	}
}

// A checkpoint while records are written vouches for a prefix of the log.
func TestCheckpointsUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := newAuditKey(t, "keyhole-audit.v1")
	l := open(t, config(dir))
	var all []checkpoint.Checkpoint
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if _, err := l.Append(t.Context(), rec("a")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		all = append(all, vouch(t, l, k))
	}
	wg.Wait()
	all = append(all, vouch(t, l, k))
	closeLog(t, l)
	var tree merkle.Tree
	roots := map[int64]tlog.Hash{0: tree.Root()}
	for line := range bytes.Lines(readFile(t, segment(dir))) {
		tree.Append(nil, tlog.RecordHash(line))
		roots[tree.Size()] = tree.Root()
	}
	last := int64(0)
	for _, c := range all {
		if c.Root != roots[c.Size] || c.Size < last {
			t.Fatalf("%+v behind %d, the lines' root is %s", c, last, roots[c.Size])
		}
		last = c.Size
	}
	if last != 200 {
		t.Errorf("the last checkpoint vouches for %d records", last)
	}
}
