package verify_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit"
	"keyhole/audit/checkpoint"
	"keyhole/audit/merkle"
	"keyhole/audit/verify"
)

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

// world is a log of 100 records in segments of a few, with a checkpoint after
// each ten of the first 90.
type world struct {
	t           testing.TB
	dir         string
	key         auditKey
	checkpoints [][]byte
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), key: newAuditKey(t, "keyhole-audit.v1")}
	l, err := audit.Open(audit.Config{Dir: w.dir, Node: "n", Log: slog.New(slog.DiscardHandler), SegmentSize: 4000})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := l.Append(t.Context(), audit.Record{RequestID: fmt.Sprint("r", i), Action: "sign", Key: "payments", Outcome: audit.OutcomeOK}); err != nil {
			t.Fatal(err)
		}
		if i%10 == 9 && i < 90 {
			signed, _, err := l.Checkpoint(w.key)
			if err != nil {
				t.Fatal(err)
			}
			w.checkpoints = append(w.checkpoints, signed)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) segments() []string {
	paths, err := filepath.Glob(w.path("*.jsonl*"))
	if err != nil || len(paths) < 3 {
		w.t.Fatalf("%d segments, %v", len(paths), err)
	}
	return paths
}

// edit changes the lines of the log and lays them out in segments again.
func (w *world) edit(change func(lines [][]byte) [][]byte) {
	w.t.Helper()
	var lines [][]byte
	var ends []int
	for _, p := range w.segments() {
		for l := range bytes.Lines(read(w.t, p)) {
			lines = append(lines, bytes.Clone(l))
		}
		ends = append(ends, len(lines))
	}
	lines = change(lines)
	from := 0
	for i, p := range w.segments() {
		end := min(ends[i], len(lines))
		if i == len(ends)-1 {
			end = len(lines)
		}
		if from > end {
			from = end
		}
		write(w.t, p, bytes.Join(lines[from:end], nil))
		from = end
	}
}

// rehash makes the stored hashes those of the lines, as one would who covers
// up a change.
func (w *world) rehash() {
	w.t.Helper()
	if err := os.Remove(w.path("hashes")); err != nil {
		w.t.Fatal(err)
	}
	f, err := merkle.OpenFile(w.path("hashes"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	var tree merkle.Tree
	for _, p := range w.segments() {
		for l := range bytes.Lines(read(w.t, p)) {
			n := tree.Size()
			if err := f.Put(n, tree.Append(nil, merkle.LeafHash(l))); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func (w *world) verify(change func(o *verify.Options)) *verify.Result {
	w.t.Helper()
	o := verify.Options{Dir: w.dir, Keys: checkpoint.NewKeys(w.key.Key)}
	if change != nil {
		change(&o)
	}
	r, err := verify.Log(w.t.Context(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestGoodLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.verify(func(o *verify.Options) { o.Since = [][]byte{w.checkpoints[6], w.checkpoints[2]} })
	if len(r.Findings) != 0 || r.Records != 100 || r.Vouched != 90 || r.Checkpoints != 9 || r.Torn || r.Archived != 0 || !strings.HasPrefix(r.Origin, "keyhole/n/") {
		t.Errorf("%+v", r)
	}
}

func TestFindings(t *testing.T) {
	t.Parallel()
	replace := func(i int, from, to string) func([][]byte) [][]byte {
		return func(l [][]byte) [][]byte {
			l[i] = bytes.Replace(l[i], []byte(from), []byte(to), 1)
			return l
		}
	}
	renumber := func(l [][]byte) [][]byte {
		for i := range l {
			_, rest, _ := bytes.Cut(l[i], []byte(","))
			l[i] = fmt.Appendf(nil, `{"seq":%d,%s`, i, rest)
		}
		return l
	}
	without := func(i, n int) func([][]byte) [][]byte {
		return func(l [][]byte) [][]byte { return append(l[:i:i], l[i+n:]...) }
	}
	insert := func(i int) func([][]byte) [][]byte {
		return func(l [][]byte) [][]byte {
			extra := bytes.Replace(l[i], []byte(`"action":"sign"`), []byte(`"action":"verify"`), 1)
			return append(l[:i:i], append([][]byte{extra}, l[i:]...)...)
		}
	}
	swap := func(i int) func([][]byte) [][]byte {
		return func(l [][]byte) [][]byte { l[i], l[i+1] = l[i+1], l[i]; return l }
	}
	both := func(f, g func([][]byte) [][]byte) func([][]byte) [][]byte {
		return func(l [][]byte) [][]byte { return g(f(l)) }
	}
	for name, tt := range map[string]struct {
		edit   func([][]byte) [][]byte
		rehash bool
		kind   verify.Kind
		seq    uint64
	}{
		"altered":                       {replace(37, "payments", "paymentz"), false, verify.Altered, 37},
		"altered, first":                {replace(0, "payments", "paymentz"), false, verify.Altered, 0},
		"altered, two":                  {both(replace(37, "payments", "x"), replace(12, "payments", "y")), false, verify.Altered, 12},
		"altered and covered up":        {replace(37, "payments", "paymentz"), true, verify.Rewritten, 30},
		"altered behind all":            {replace(95, "payments", "paymentz"), false, "", 0}, // nobody vouches for it
		"no record behind all":          {replace(95, `"action"`, `"acti0n"`), false, verify.Altered, 95},
		"missing":                       {without(41, 1), false, verify.Missing, 41},
		"missing, seven":                {without(41, 7), false, verify.Missing, 41},
		"missing, numbered anew":        {both(without(41, 1), renumber), false, verify.Altered, 41},
		"missing and all covered up":    {both(without(41, 1), renumber), true, verify.Rewritten, 40},
		"missing and covered up":        {without(41, 1), true, verify.Missing, 41},
		"inserted":                      {insert(41), false, verify.Inserted, 41},
		"inserted, twice the same":      {func(l [][]byte) [][]byte { return append(l[:42:42], l[41:]...) }, false, verify.Inserted, 42},
		"reordered":                     {swap(55), false, verify.Reordered, 55},
		"reordered across a checkpoint": {swap(59), false, verify.Reordered, 59},
		"reordered, numbered anew":      {both(swap(55), renumber), false, verify.Altered, 55},
		"cut to 90":                     {func(l [][]byte) [][]byte { return l[:90] }, false, "", 0},
		"cut to 89":                     {func(l [][]byte) [][]byte { return l[:89] }, false, verify.Truncated, 89},
		"cut and covered up":            {func(l [][]byte) [][]byte { return l[:50] }, true, verify.Truncated, 50},
		"first gone":                    {without(0, 1), false, verify.Missing, 0},
		"rubbish":                       {func(l [][]byte) [][]byte { l[20] = []byte("rubbish\n"); return l }, false, verify.Altered, 20},
		"rubbish, covered up":           {func(l [][]byte) [][]byte { l[20] = []byte("rubbish\n"); return l }, true, verify.Altered, 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.edit(tt.edit)
			if tt.rehash {
				w.rehash()
			}
			r := w.verify(nil)
			if tt.kind == "" {
				if len(r.Findings) != 0 {
					t.Fatalf("%+v", r.Findings)
				}
				return
			}
			if len(r.Findings) != 1 || r.Findings[0].Kind != tt.kind || r.Findings[0].Seq != tt.seq {
				t.Fatalf("%+v, want one %s at %d", r.Findings, tt.kind, tt.seq)
			}
			if f := r.Findings[0]; f.File == "" || f.Text == "" {
				t.Errorf("%+v does not say where", f)
			}
		})
	}
}

func TestCheckpointsOfTheLog(t *testing.T) {
	t.Parallel()
	other := newAuditKey(t, "keyhole-audit.v1")
	for name, tt := range map[string]struct {
		change func(w *world, file []byte) []byte
		kind   verify.Kind
	}{
		"bad signature": {func(w *world, b []byte) []byte {
			return bytes.Replace(b, []byte("\n50\n"), []byte("\n51\n"), 1)
		}, verify.BadSignature},
		"by an unknown key": {func(w *world, b []byte) []byte {
			signed, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: w.verify(nil).Origin, Size: 95}, other)
			if err != nil {
				w.t.Fatal(err)
			}
			return append(b, checkpoint.AppendTo(signed)...)
		}, verify.UnknownKey},
		"of another log": {func(w *world, b []byte) []byte {
			signed, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: "keyhole/x/y", Size: 95}, w.key)
			if err != nil {
				w.t.Fatal(err)
			}
			return append(b, checkpoint.AppendTo(signed)...)
		}, verify.BadCheckpoint},
		"going back": {func(w *world, b []byte) []byte { return append(b, checkpoint.AppendTo(w.checkpoints[3])...) }, verify.BadCheckpoint},
		"rubbish":    {func(w *world, b []byte) []byte { return append([]byte("— a AAAA\nx\n"), b...) }, verify.BadCheckpoint},
		"another root, signed": {func(w *world, b []byte) []byte {
			signed, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: w.verify(nil).Origin, Size: 95, Root: tlog.Hash{1}}, w.key)
			if err != nil {
				w.t.Fatal(err)
			}
			return append(b, checkpoint.AppendTo(signed)...)
		}, verify.Rewritten},
		"all gone": {func(*world, []byte) []byte { return nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			path := w.path("checkpoints")
			write(t, path, tt.change(w, read(t, path)))
			r := w.verify(nil)
			if tt.kind == "" {
				if len(r.Findings) != 0 || r.Vouched != 0 {
					t.Errorf("%+v", r)
				}
				return
			}
			if len(r.Findings) == 0 || r.Findings[0].Kind != tt.kind {
				t.Errorf("%+v, want %s", r.Findings, tt.kind)
			}
		})
	}
}

// A checkpoint kept elsewhere finds what was cut off together with the
// checkpoints, and a history that was written anew.
func TestSince(t *testing.T) {
	t.Parallel()
	cut := func(w *world) {
		w.edit(func(l [][]byte) [][]byte { return l[:50] })
		w.rehash()
		write(t, w.path("checkpoints"), bytes.Join([][]byte{checkpoint.AppendTo(w.checkpoints[0]), checkpoint.AppendTo(w.checkpoints[1])}, nil))
	}
	w := newWorld(t)
	cut(w)
	if r := w.verify(nil); len(r.Findings) != 0 {
		t.Errorf("without it: %+v", r.Findings)
	}
	r := w.verify(func(o *verify.Options) { o.Since = [][]byte{w.checkpoints[8]} })
	if len(r.Findings) != 1 || r.Findings[0].Kind != verify.Truncated || r.Findings[0].Seq != 50 {
		t.Errorf("%+v", r.Findings)
	}

	w = newWorld(t)
	w.edit(func(l [][]byte) [][]byte { l[33] = bytes.Replace(l[33], []byte("payments"), []byte("x"), 1); return l })
	w.rehash()
	write(t, w.path("checkpoints"), nil)
	if r := w.verify(nil); len(r.Findings) != 0 {
		t.Errorf("without it: %+v", r.Findings)
	}
	r = w.verify(func(o *verify.Options) { o.Since = [][]byte{w.checkpoints[8], w.checkpoints[2]} })
	if len(r.Findings) != 1 || r.Findings[0].Kind != verify.Rewritten || r.Findings[0].Seq != 30 {
		t.Errorf("%+v", r.Findings)
	}
	r = w.verify(func(o *verify.Options) { o.Since = [][]byte{[]byte("rubbish")} })
	if len(r.Findings) != 1 || r.Findings[0].Kind != verify.BadCheckpoint {
		t.Errorf("%+v", r.Findings)
	}
}

func TestHashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := read(t, w.path("hashes"))
	b[62*32] ^= 1
	write(t, w.path("hashes"), b)
	r := w.verify(nil)
	if r.Vouched != 90 { // the lines alone are enough
		t.Errorf("%+v", r)
	}
	if err := os.Remove(w.path("hashes")); err != nil {
		t.Fatal(err)
	}
	if r := w.verify(nil); r.Vouched != 90 || len(r.Findings) != 0 {
		t.Errorf("%+v", r)
	}
	w.edit(func(l [][]byte) [][]byte { l[33] = bytes.Replace(l[33], []byte("payments"), []byte("x"), 1); return l })
	if r := w.verify(nil); len(r.Findings) != 1 || r.Findings[0].Kind != verify.Rewritten || r.Findings[0].Seq != 30 {
		t.Errorf("%+v", r.Findings)
	}
}

// What remains is verified when the first segments are gone, or compressed.
func TestArchivedAndCompressed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := w.segments()
	if err := os.Remove(all[0]); err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	if _, err := zw.Write(read(t, all[1])); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, all[1]+".gz", z.Bytes())
	if err := os.Remove(all[1]); err != nil {
		t.Fatal(err)
	}
	r := w.verify(func(o *verify.Options) { o.Since = [][]byte{w.checkpoints[0], w.checkpoints[8]} })
	if len(r.Findings) != 0 || r.Records != 100 || r.Vouched != 90 || r.Archived == 0 || r.Checkpoints != 9 {
		t.Fatalf("%+v", r)
	}
	last := w.segments()[1]
	b := read(t, last)
	write(t, last, bytes.Replace(b, []byte("payments"), []byte("paymentz"), 1))
	if r := w.verify(nil); len(r.Findings) != 1 || r.Findings[0].Kind != verify.Altered {
		t.Errorf("%+v", r.Findings)
	}
	write(t, last, b)
	h := read(t, w.path("hashes"))
	h[3*32] ^= 1 // an inner node of the archived part
	h[2*32] ^= 1
	write(t, w.path("hashes"), h)
	if r := w.verify(nil); len(r.Findings) == 0 && r.Vouched != 90 {
		t.Errorf("%+v", r)
	}
}

func TestTornAndEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	last := w.segments()[len(w.segments())-1]
	b := read(t, last)
	write(t, last, b[:len(b)-5])
	if r := w.verify(nil); !r.Torn || len(r.Findings) != 0 || r.Records != 99 {
		t.Errorf("%+v", r)
	}
	if _, err := verify.Log(t.Context(), verify.Options{Dir: t.TempDir(), Keys: checkpoint.NewKeys(w.key.Key)}); err == nil {
		t.Error("an empty directory is a log")
	}
	if _, err := verify.Log(t.Context(), verify.Options{Dir: w.path("nowhere")}); err == nil {
		t.Error("no directory is a log")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := verify.Log(ctx, verify.Options{Dir: w.dir, Keys: checkpoint.NewKeys(w.key.Key)}); err == nil {
		t.Error("a cancelled verification succeeds")
	}
}

// bigWorld is a log of n records with a checkpoint at its end.
func bigWorld(t testing.TB, n int) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), key: newAuditKey(t, "keyhole-audit.v1")}
	l, err := audit.Open(audit.Config{Dir: w.dir, Node: "gateway-1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	batch := make([]audit.Record, 1000)
	for i := range batch {
		batch[i] = audit.Record{
			RequestID: rand.Text(), Principal: "jwt:corp:payments-service", AuthMethod: "jwt", Source: "10.1.2.3", Action: "sign", Key: "payments", Version: 3,
			KeyID: "payments.v3", Algorithm: "ES256", Purpose: "sign", Policies: []string{"agents.cedar:policy0"}, Outcome: audit.OutcomeOK, Size: 64, Duration: 123456,
		}
	}
	for range n / len(batch) {
		if _, err := l.Append(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := l.Checkpoint(w.key); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return w
}
