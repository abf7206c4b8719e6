package spill

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"keyhole/keys"
)

func use(principal string, n uint64) keys.Usage {
	return keys.Usage{
		Key: "payments", Version: 3, Principal: principal, Applied: n, Processed: 2 * n, Bytes: 1 << 40, LastUse: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
	}
}

func open(tb testing.TB, dir string) *File {
	tb.Helper()
	f, err := Open(dir, "node")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return f
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func sorted(rows []keys.Usage) []keys.Usage {
	slices.SortFunc(rows, func(a, b keys.Usage) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Principal, b.Principal))
	})
	return rows
}

func holds(tb testing.TB, f *File, want ...keys.Usage) {
	tb.Helper()
	if diff := gocmp.Diff(sorted(append([]keys.Usage{}, want...)), sorted(f.Rows())); diff != "" {
		tb.Errorf("it holds (-want +got)\n%s", diff)
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := open(t, dir)
	holds(t, f)
	never := keys.Usage{Key: "mail", Version: 1, Principal: "mtls:a\xff\n\u2028\"", Processed: 1}
	must(t, f.Put([]keys.Usage{use("bob", 1), use("carol", 5)}))
	must(t, f.Put([]keys.Usage{use("bob", 7), never}))
	must(t, f.Put(nil))
	for range 2 { // once as after a crash, and once more
		holds(t, open(t, dir), use("bob", 7), use("carol", 5), never)
	}
	f = open(t, dir)
	f.Forget(use("bob", 0), use("carol", 9))
	holds(t, f, never)
	f.Forget(never)
	must(t, f.Tidy())
	holds(t, f)
	f = open(t, dir)
	holds(t, f)
	must(t, f.Put([]keys.Usage{use("bob", 1)}))
	must(t, f.Close())
	must(t, f.Put([]keys.Usage{use("carol", 2)}))
	holds(t, open(t, dir), use("bob", 1), use("carol", 2))
	info, err := os.Stat(filepath.Join(dir, Name))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// Wherever a crash cuts the file, what was promised before is there.
func TestTornAnywhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := open(t, dir)
	path := filepath.Join(dir, Name)
	var lengths []int64
	for n := range uint64(4) {
		must(t, f.Put([]keys.Usage{use("bob", n+1), use(fmt.Sprint(n), 1)}))
		info, err := os.Stat(path)
		must(t, err)
		lengths = append(lengths, info.Size())
	}
	data, err := os.ReadFile(path)
	must(t, err)
	for size := range len(data) + 1 {
		promised := uint64(0)
		for _, l := range lengths {
			if int64(size) >= l {
				promised++
			}
		}
		for _, zeros := range []int{0, 3} {
			torn := append(bytes.Clone(data[:size]), make([]byte, zeros)...)
			_, rows, _, bad := parse(torn)
			if bad > 0 || len(rows) != int(2*promised) || promised > 0 && rows[2*promised-2] != use("bob", promised) {
				t.Fatalf("cut at %d: bad %d, %+v, want %d Puts", size, bad, rows, promised)
			}
			if size%37 > 0 {
				continue
			}
			where := t.TempDir()
			must(t, os.WriteFile(filepath.Join(where, Name), torn, 0o600))
			f := open(t, where)
			if f.Len() != int(promised+min(promised, 1)) {
				t.Fatalf("cut at %d: %d rows, want %d Puts", size, f.Len(), promised)
			}
			must(t, f.Put([]keys.Usage{use("late", 1)}))
			must(t, f.Close())
			if again := open(t, where); again.Len() != f.Len() {
				t.Fatalf("cut at %d and used: %d rows, want %d", size, again.Len(), f.Len())
			}
		}
	}
}

// A line whose end got to the disk and whose middle did not was not promised.
func TestTornWithin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := open(t, dir)
	must(t, f.Put([]keys.Usage{use("bob", 1)}))
	before := f.size
	must(t, f.Put([]keys.Usage{use("bob", 2), use(strings.Repeat("long", 1000), 1)}))
	data, err := os.ReadFile(filepath.Join(dir, Name))
	must(t, err)
	clear(data[before+1000 : before+2000])
	must(t, os.WriteFile(filepath.Join(dir, Name), data, 0o600))
	holds(t, open(t, dir), use("bob", 1))
}

// What was promised and is not as it was written is not passed over.
func TestDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := open(t, dir)
	for n := range uint64(3) {
		must(t, f.Put([]keys.Usage{use("bob", n+1)}))
	}
	data, err := os.ReadFile(filepath.Join(dir, Name))
	must(t, err)
	for i, b := range data {
		if b == '\n' && i == len(data)-1 {
			continue // the last line without its end was not promised
		}
		where := t.TempDir()
		bad := bytes.Clone(data)
		bad[i] ^= 0x20
		must(t, os.WriteFile(filepath.Join(where, Name), bad, 0o600))
		_, err := Open(where, "node")
		var told *keys.Error
		if !errors.As(err, &told) || !errors.Is(err, keys.ErrStore) || !strings.Contains(told.Detail, where) {
			t.Fatalf("byte %d altered: %v", i, err)
		}
		if got, err := os.ReadFile(filepath.Join(where, Name)); err != nil || !bytes.Equal(got, bad) {
			t.Fatalf("byte %d altered: the file was touched (%v)", i, err)
		}
	}
	if _, err := Open(dir, "other"); !errors.Is(err, keys.ErrStore) || !strings.Contains(err.Error(), `"node"`) {
		t.Errorf("of another node: %v", err)
	}
	newer, err := appendLine(nil, head{Format: format + 1, Node: "node"})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, Name), newer, 0o600))
	if _, err := Open(dir, "node"); !errors.Is(err, keys.ErrStore) {
		t.Errorf("a newer format: %v", err)
	}
}

// After a failure nothing is promised, nothing that was is lost, and all is
// well once the disk is.
func TestFailures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := open(t, dir)
	must(t, f.Put([]keys.Usage{use("bob", 1)}))
	must(t, os.Mkdir(filepath.Join(dir, Name+".new"), 0o700)) // in the way of a new file
	_ = f.file.Close()                                        // the disk is gone
	for range 2 {
		if err := f.Put([]keys.Usage{use("bob", 9), use("carol", 9)}); err == nil {
			t.Fatal("it was kept")
		}
	}
	holds(t, f, use("bob", 1))
	f.Forget(use("bob", 1))
	if err := f.Tidy(); err == nil {
		t.Fatal("it is tidy")
	}
	holds(t, f)
	must(t, os.Remove(filepath.Join(dir, Name+".new")))
	must(t, f.Tidy())
	must(t, f.Tidy())
	f = open(t, dir)
	holds(t, f)
	must(t, f.Put([]keys.Usage{use("carol", 2)}))
	holds(t, open(t, dir), use("carol", 2))
	if _, err := Open(filepath.Join(dir, "missing"), "node"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in no directory: %v", err)
	}
	if _, err := Open(filepath.Join(dir, Name), "node"); err == nil {
		t.Error("a file as directory was opened")
	}
}

// The file does not grow with the number of Puts.
func TestCompacts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := open(t, dir)
	must(t, f.Put([]keys.Usage{use("bob", 1)}))
	f.size = compactSize + 1 // as if much had been written
	must(t, f.Put([]keys.Usage{use("bob", 2)}))
	if f.size > 1000 {
		t.Errorf("it has %d bytes", f.size)
	}
	holds(t, open(t, dir), use("bob", 2))
}

func FuzzParse(f *testing.F) {
	dir := f.TempDir()
	s := open(f, dir)
	f.Add([]byte(nil))
	must(f, s.Put([]keys.Usage{use("bob", 1), {Key: "a", Principal: "\xff"}}))
	data, err := os.ReadFile(filepath.Join(dir, Name))
	must(f, err)
	f.Add(data)
	f.Add(append(data, 0, 0, '\n'))
	f.Add(bytes.Replace(data, []byte("bob"), []byte("bib"), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, rows, _, bad := parse(data)
		if bad > 0 {
			return
		}
		if len(rows) > 0 && h.Format != format {
			t.Fatalf("%d rows of nobody", len(rows))
		}
		again, err := appendLine(nil, head{Format: format, Node: h.Node})
		must(t, err)
		for _, u := range rows {
			again, err = appendLine(again, body{Rows: []row{rowOf(u)}})
			must(t, err)
		}
		_, back, cut, bad := parse(again)
		if cut || bad > 0 || !gocmp.Equal(rows, back) {
			t.Fatalf("%+v came back as %+v (cut %v, bad %d)", rows, back, cut, bad)
		}
	})
}
