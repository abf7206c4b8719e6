package lookup_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/audit/audittest"
	"keyhole/audit/lookup"
	"keyhole/audit/segment"
	"keyhole/audit/verify"
	"keyhole/keys"
)

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// written makes a log of n records, one a second, in small segments. Record i
// is of agent i%3, with the key k0 or, each seventh, k1.
func written(t testing.TB, n int, size int64) (*audit.Log, string) {
	t.Helper()
	dir, at := filepath.Join(t.TempDir(), "audit"), begin
	l, err := audit.Open(audit.Config{Dir: dir, Node: "n", SegmentSize: size, SegmentAge: 1000 * time.Hour, Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for i := range n {
		key := "k0"
		if i%7 == 0 {
			key = "k1"
		}
		r := audit.Record{
			RequestID: fmt.Sprintf("r%d", i), Principal: fmt.Sprintf("jwt:corp:%d", i%3), Action: "sign", Outcome: audit.OutcomeOK, Key: key, KeyID: key + ".v1",
			Details: map[string]string{"pad": strings.Repeat("x", i%50)},
		}
		at = begin.Add(time.Duration(i) * time.Second)
		if _, err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	return l, dir
}

// compress does to a segment what `keyhole audit archive` does.
func compress(t testing.TB, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path + segment.Compressed)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	_, err = z.Write(b)
	if err := errors.Join(err, z.Close(), f.Close(), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
}

// all collects the pages.
func all(t testing.TB, dir string, f lookup.Filter, before uint64, limit int) (seqs []uint64) {
	t.Helper()
	for {
		p, err := lookup.Newest(t.Context(), dir, f, before, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Records) > limit {
			t.Fatalf("%d records on a page of %d", len(p.Records), limit)
		}
		for _, r := range p.Records {
			seqs = append(seqs, r.Seq)
		}
		if p.Next == 0 {
			return seqs
		}
		if p.Next >= before {
			t.Fatalf("from %d it goes on at %d", before, p.Next)
		}
		before = p.Next
	}
}

// Whatever is asked for, however the pages and the segments fall, it is what
// reading every record says.
func TestNewestIsWhatReadingSays(t *testing.T) {
	t.Parallel()
	const n = 150
	_, dir := written(t, n, 3<<10)
	var recs []audit.Record
	for r, err := range audit.Read(dir) {
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, r)
	}
	files, err := segment.List(dir)
	if err != nil || len(files) < 8 {
		t.Fatalf("%d segments, %v", len(files), err)
	}
	check := func(t *testing.T) {
		for name, f := range map[string]lookup.Filter{
			"all": {}, "key": {Key: "k1"}, "kid": {KeyID: "k0.v1"}, "principal": {Principal: "jwt:corp:2"}, "action": {Action: "sign", Outcome: "ok"},
			"none": {Action: "decrypt"}, "part": {Key: "k"}, "request": {RequestID: "r77"}, "not plain": {Principal: "jwt:<x> \"y\""},
			"since": {Since: begin.Add(90 * time.Second)}, "until": {Until: begin.Add(30 * time.Second)},
			"between": {Key: "k1", Since: begin.Add(40*time.Second + 1), Until: begin.Add(120 * time.Second)},
			"never":   {Since: begin.Add(time.Hour)}, "before all": {Until: begin},
		} {
			for _, before := range []uint64{1, 57, n, n + 5} {
				var want []uint64
				for _, r := range slices.Backward(recs) {
					if r.Seq < before && f.Matches(&r) {
						want = append(want, r.Seq)
					}
				}
				for _, limit := range []int{3, 1000} {
					if got := all(t, dir, f, before, limit); !slices.Equal(got, want) {
						t.Errorf("%s before %d by %d: %v, want %v", name, before, limit, got, want)
					}
				}
			}
		}
		for seq := range uint64(n) {
			line, err := lookup.Line(t.Context(), dir, seq)
			r, perr := audit.ParseLine(line)
			if err != nil || perr != nil || r.Seq != seq {
				t.Errorf("line %d: %q, %v, %v", seq, line, err, perr)
			}
		}
		if _, err := lookup.Line(t.Context(), dir, n); !errors.Is(err, lookup.ErrGone) {
			t.Errorf("a line that is not there: %v", err)
		}
	}
	check(t)
	for _, f := range files[1:4] {
		compress(t, f.Path)
	}
	check(t)
	// A line that is being written counts as not there.
	last, err := os.OpenFile(files[len(files)-1].Path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(last, `{"seq":150,"time":"2026-03-01T1`); err != nil || last.Close() != nil {
		t.Fatal(err)
	}
	check(t)
}

// What was archived is not there, and nothing else is missing for it.
func TestArchivedSegments(t *testing.T) {
	t.Parallel()
	_, dir := written(t, 100, 8<<10)
	files, err := segment.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	first, _, err := files[2].FirstSeq()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files[:2] {
		if err := os.Remove(f.Path); err != nil {
			t.Fatal(err)
		}
	}
	got := all(t, dir, lookup.Filter{}, 100, 9)
	if len(got) != 100-int(first) || got[len(got)-1] != first {
		t.Errorf("%d records down to %d, want down to %d", len(got), got[len(got)-1], first)
	}
	for _, seq := range []uint64{0, first - 1} {
		if _, err := lookup.Line(t.Context(), dir, seq); !errors.Is(err, lookup.ErrGone) {
			t.Errorf("line %d: %v", seq, err)
		}
	}
	if got := all(t, dir, lookup.Filter{}, first, 9); len(got) != 0 {
		t.Errorf("before the first one: %v", got)
	}
}

// One question looks through so much and no more, and says where to go on.
func TestBoundedWork(t *testing.T) {
	t.Parallel()
	l, dir := written(t, 1, 64<<20)
	long := audit.Record{Action: "sign", Outcome: audit.OutcomeOK, Details: map[string]string{}}
	for i := range 60 {
		long.Details[fmt.Sprint(i)] = strings.Repeat("x", 1000)
	}
	const n = 700 // times 60 KB: more than one question looks through
	for range n / 50 {
		if _, err := l.Append(t.Context(), slices.Repeat([]audit.Record{long}, 50)...); err != nil {
			t.Fatal(err)
		}
	}
	calls := func() int {
		for before, calls := uint64(n+1), 1; ; calls++ {
			p, err := lookup.Newest(t.Context(), dir, lookup.Filter{Action: "none"}, before, 10)
			if err != nil || len(p.Records) != 0 {
				t.Fatalf("%d records, %v", len(p.Records), err)
			}
			if p.Next == 0 {
				return calls
			}
			before = p.Next
		}
	}
	if got := calls(); got != 2 {
		t.Errorf("42 MB were looked through in %d questions, want 2", got)
	}
	p, err := lookup.Newest(t.Context(), dir, lookup.Filter{}, n+1, 1000)
	if err != nil || len(p.Records) < 60 || len(p.Records) > 70 || p.Next != p.Records[len(p.Records)-1].Seq {
		t.Errorf("a page of long records has %d, next %d, %v", len(p.Records), p.Next, err)
	}
	files, err := segment.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	compress(t, files[0].Path)
	if got := calls(); got < 3 || got > 6 {
		t.Errorf("a compressed segment of 42 MB was looked through in %d questions", got)
	}
	again, err := lookup.Newest(t.Context(), dir, lookup.Filter{}, n+1, 1000)
	if err != nil || len(again.Records) != len(p.Records) || again.Next != p.Next {
		t.Errorf("compressed, the same page has %d records and the next %d, %v", len(again.Records), again.Next, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lookup.Newest(ctx, dir, lookup.Filter{Action: "none"}, n+1, 10); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
}

// Lines that are none are an error that names the file.
func TestDamagedLines(t *testing.T) {
	t.Parallel()
	for what, text := range map[string]string{
		"no record": "{\"seq\":3,\"time\":\"2026-03-01T12:00:03Z\",\"node\":\"n\",\"x\":1}\n", "no seq": "hello\n", "an empty line": "\n",
	} {
		_, dir := written(t, 3, 64<<20)
		f, err := os.OpenFile(segment.Path(dir, 1), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text + "{\"seq\":4,\"time\":\"2026-03-01T12:00:04Z\",\"node\":\"n\",\"action\":\"a\",\"outcome\":\"ok\"}\n"); err != nil || f.Close() != nil {
			t.Fatal(err)
		}
		if p, err := lookup.Newest(t.Context(), dir, lookup.Filter{}, 5, 10); err == nil {
			t.Errorf("%s: %+v", what, p)
		}
	}
	if p, err := lookup.Newest(t.Context(), t.TempDir(), lookup.Filter{}, 5, 10); err != nil || len(p.Records) != 0 || p.Next != 0 {
		t.Errorf("no log: %+v, %v", p, err)
	}
	if _, err := lookup.Newest(t.Context(), filepath.Join(t.TempDir(), "none"), lookup.Filter{}, 5, 10); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// A running log shows what is durable, proves what is vouched for, and tells
// the rest apart.
func TestLog(t *testing.T) {
	t.Parallel()
	l, dir := written(t, 50, 8<<10)
	v := audittest.New(t)
	log := v.Lookup(l, dir)
	if _, err := log.Checkpoint(t.Context(), false); !errors.Is(err, keys.ErrNotFound) {
		t.Errorf("before the first checkpoint: %v", err)
	}
	if _, err := log.Proof(t.Context(), 3); !errors.Is(err, keys.ErrNotFound) {
		t.Errorf("before the first checkpoint: %v", err)
	}
	signed, err := log.Checkpoint(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := log.Checkpoint(t.Context(), false); err != nil || string(again) != string(signed) {
		t.Errorf("the last one is %q, %v, want %q", again, err, signed)
	}
	for seq := range uint64(50) {
		file, err := log.Proof(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		p, err := verify.ParseProof(file)
		if err != nil {
			t.Fatal(err)
		}
		if r, _, err := p.Check(v.Keys); err != nil || r.RequestID != fmt.Sprintf("r%d", seq) {
			t.Errorf("record %d: %+v, %v", seq, r, err)
		}
		if _, _, err := p.Check(audittest.New(t).Keys); err == nil {
			t.Errorf("record %d: proved by anybody's key", seq)
		}
	}
	if _, err := log.Proof(t.Context(), 50); !errors.Is(err, keys.ErrNotFound) {
		t.Errorf("what is not there is proved: %v", err)
	}
	// Behind what was acknowledged there may be anything.
	files, err := segment.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := files[len(files)-1].Path
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(slices.Clone(whole), "{\"seq\":50,\"time\":\"2026-03-01T13:00:00Z\",\"node\":\"n\",\"action\":\"a\",\"outcome\":\"ok\"}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, before := range []uint64{0, 50, 51, 1000} {
		if p, err := log.Newest(t.Context(), lookup.Filter{}, before, 1); err != nil || len(p.Records) != 1 || p.Records[0].Seq != 49 || p.Next != 49 {
			t.Errorf("before %d: %+v, %v", before, p, err)
		}
	}
	// An altered line is not proved.
	if err := os.WriteFile(path, []byte(strings.Replace(string(whole), "jwt:corp:", "jwt:corq:", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	first, _, err := files[len(files)-1].FirstSeq()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Proof(t.Context(), first); !errors.Is(err, keys.ErrTampered) {
		t.Errorf("an altered line: %v", err)
	}
	if err := os.Remove(files[0].Path); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Proof(t.Context(), 0); !errors.Is(err, keys.ErrNotFound) {
		t.Errorf("an archived line: %v", err)
	}
	if err := os.WriteFile(path, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Newest(t.Context(), lookup.Filter{}, 0, 1); !errors.Is(err, keys.ErrAudit) {
		t.Errorf("a damaged log: %v", err)
	}
	if file, err := log.Keys(); err != nil || !strings.HasPrefix(string(file), "# keyhole-audit.v1\n") {
		t.Errorf("%q, %v", file, err)
	}
	none := lookup.New(lookup.Config{Dir: dir, Log: l, Keys: func() []byte { return nil }})
	if _, err := none.Keys(); !errors.Is(err, keys.ErrNotFound) {
		t.Errorf("no keys: %v", err)
	}
}

// The place of a line is found wherever it is, and whatever is behind the end.
func FuzzLine(f *testing.F) {
	f.Add(uint8(3), uint8(0), "")
	f.Add(uint8(40), uint8(39), "torn")
	f.Add(uint8(200), uint8(77), "{\"seq\":")
	f.Fuzz(func(t *testing.T, n, seq uint8, torn string) {
		if strings.Contains(torn, "\n") {
			return
		}
		dir := t.TempDir()
		var b strings.Builder
		for i := range int(n) {
			fmt.Fprintf(&b, "{\"seq\":%d,\"time\":\"2026-03-01T12:00:00Z\",\"node\":\"%s\"}\n", i, strings.Repeat("x", i*i%7919))
		}
		b.WriteString(torn)
		if err := os.WriteFile(segment.Path(dir, 1), []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		line, err := lookup.Line(t.Context(), dir, uint64(seq))
		if seq >= n {
			if err == nil {
				t.Errorf("the line %d of %d is %q", seq, n, line)
			}
			return
		}
		if err != nil || !strings.HasPrefix(string(line), fmt.Sprintf("{\"seq\":%d,", seq)) {
			t.Errorf("the line %d of %d is %q, %v", seq, n, line, err)
		}
	})
}
