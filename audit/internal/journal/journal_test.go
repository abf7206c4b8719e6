package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func open(t *testing.T, path string) (*File, []Entry) {
	t.Helper()
	j, entries, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j, entries
}

func put(t *testing.T, j *File, segment int, offset int64, b []byte) {
	t.Helper()
	if !j.Fits(len(b)) {
		t.Fatalf("%d bytes do not fit", len(b))
	}
	if err := j.Put(segment, offset, b); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, got []Entry, want ...Entry) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i].Segment != want[i].Segment || got[i].Offset != want[i].Offset || !bytes.Equal(got[i].Bytes, want[i].Bytes) {
			t.Errorf("entry %d: segment %d, offset %d, %d bytes", i, got[i].Segment, got[i].Offset, len(got[i].Bytes))
		}
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j, entries := open(t, path)
	check(t, entries)
	want := []Entry{
		{1, 0, []byte("a")}, {1, 1, nil}, {1, 1, bytes.Repeat([]byte("b"), block-headSize)},
		{1, 4000, bytes.Repeat([]byte("c"), block-headSize+1)}, {99999999, 1 << 40, bytes.Repeat([]byte("d"), 300<<10)},
	}
	for _, e := range want {
		put(t, j, e.Segment, e.Offset, e.Bytes)
	}
	k, entries := open(t, path)
	check(t, entries, want...)
	_, entries = open(t, path) // opening changes nothing
	check(t, entries, want...)
	put(t, k, 2, 7, []byte("e"))
	_, entries = open(t, path)
	check(t, entries, Entry{2, 7, []byte("e")})
	k.Restart()
	put(t, k, 3, 0, []byte("f"))
	_, entries = open(t, path)
	check(t, entries, Entry{3, 0, []byte("f")})
}

func TestFull(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j, _ := open(t, path)
	n := 0
	for ; j.Fits(100); n++ {
		put(t, j, 1, int64(100*n), bytes.Repeat([]byte{byte(n)}, 100))
	}
	if n != Size/block {
		t.Errorf("%d entries fit", n)
	}
	if _, entries := open(t, path); len(entries) != n {
		t.Errorf("%d entries of %d came back", len(entries), n)
	}
	j.Restart()
	if !j.Fits(Size-headSize) || j.Fits(Size-headSize+1) {
		t.Error("an empty journal has another size")
	}
}

// Whatever is torn ends the journal, and what an older generation left
// behind it is not read.
func TestTorn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j, _ := open(t, path)
	for i := range 10 {
		put(t, j, 1, int64(i), []byte("old"))
	}
	j.Restart()
	long := bytes.Repeat([]byte("new"), 3000) // three blocks
	put(t, j, 1, 10, long)
	put(t, j, 1, 9010, long)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 5, 9, 20, 30, 35, 100, 2 * block, 3 * block, 3*block + 7, 4 * block, 5*block + 99} {
		b := bytes.Clone(whole)
		b[at] ^= 0x40
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		k, entries := open(t, path)
		want := []Entry{{1, 10, long}}
		if at < 3*block {
			want = nil
		}
		check(t, entries, want...)
		if k.generation <= 2 {
			t.Errorf("generation %d comes again", k.generation)
		}
	}
}

func TestForeignFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	for _, n := range []int{0, 1, Size - 1, Size + 1} {
		if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(path); err == nil {
			t.Errorf("%d bytes are taken for a journal", n)
		}
	}
	if _, _, err := Open(filepath.Join(path, "x")); err == nil {
		t.Error("a journal below a file")
	}
}

func TestMode(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	open(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func FuzzParse(f *testing.F) {
	path := filepath.Join(f.TempDir(), "journal")
	j, _, err := Open(path)
	if err != nil {
		f.Fatal(err)
	}
	defer j.Close()
	for i := range 3 {
		if err := j.Put(1, int64(i), fmt.Append(nil, "line", i)); err != nil {
			f.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:4*block])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, _ := parse(b)
		at := 0
		for _, e := range entries {
			if e.Segment < 0 || e.Offset < 0 || at+len(e.Bytes)+headSize > len(b) {
				t.Fatalf("segment %d, offset %d, %d bytes at %d of %d", e.Segment, e.Offset, len(e.Bytes), at, len(b))
			}
			at += blocks(len(e.Bytes))
		}
	})
}

func BenchmarkPut(b *testing.B) {
	j, _, err := Open(filepath.Join(b.TempDir(), "journal"))
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	line := bytes.Repeat([]byte("x"), 512)
	for b.Loop() {
		if !j.Fits(len(line)) {
			j.Restart()
		}
		if err := j.Put(1, 0, line); err != nil {
			b.Fatal(err)
		}
	}
}
