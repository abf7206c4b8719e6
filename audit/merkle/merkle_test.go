package merkle_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit/merkle"
)

// hashes is what tlog itself stores.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = h[x]
	}
	return out, nil
}

func line(i int) []byte { return fmt.Appendf(nil, "{\"seq\":%d}\n", i) }

// The tree, its file and tlog agree at every size.
func TestAgreesWithTlog(t *testing.T) {
	t.Parallel()
	f, err := merkle.OpenFile(filepath.Join(t.TempDir(), "hashes"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var tree merkle.Tree
	var ref hashes
	for i := range 300 {
		root, err := tlog.TreeHash(int64(i), ref)
		if err != nil || root != tree.Root() || tree.Size() != int64(i) {
			t.Fatalf("size %d: root %s, want %s (%v)", tree.Size(), tree.Root(), root, err)
		}
		if got, err := tlog.TreeHash(int64(i), f); err != nil || got != root {
			t.Fatalf("size %d: the file's root is %s, want %s (%v)", i, got, root, err)
		}
		if n, err := f.Leaves(); err != nil || n != int64(i) {
			t.Fatalf("the file has %d leaves, want %d (%v)", n, i, err)
		}
		restored, err := merkle.Restore(int64(i), f)
		if err != nil || restored != tree && restored.Root() != tree.Root() {
			t.Fatalf("size %d: restored %s (%v)", i, restored.Root(), err)
		}
		stored, err := tlog.StoredHashes(int64(i), line(i), ref)
		if err != nil {
			t.Fatal(err)
		}
		ref = append(ref, stored...)
		if err := f.Put(int64(i), tree.Append(nil, merkle.LeafHash(line(i)))); err != nil {
			t.Fatal(err)
		}
	}
	// A restored tree goes on as the first one.
	restored, err := merkle.Restore(123, f)
	if err != nil {
		t.Fatal(err)
	}
	for i := 123; i < 300; i++ {
		restored.Append(nil, merkle.LeafHash(line(i)))
	}
	if restored.Root() != tree.Root() {
		t.Error("a restored tree went another way")
	}
}

func TestLeafHashOfLongLines(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 1022, 1023, 1024, 1025, 5000} {
		b := make([]byte, n)
		if merkle.LeafHash(b) != tlog.RecordHash(b) {
			t.Errorf("%d bytes", n)
		}
	}
}

func TestShortFile(t *testing.T) {
	t.Parallel()
	f, err := merkle.OpenFile(filepath.Join(t.TempDir(), "hashes"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var tree merkle.Tree
	for i := range 10 {
		if err := f.Put(int64(i), tree.Append(nil, merkle.LeafHash(line(i)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Cut(7); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Leaves(); n != 7 || err != nil {
		t.Errorf("%d leaves, %v", n, err)
	}
	if _, err := merkle.Restore(8, f); !errors.Is(err, merkle.ErrShort) {
		t.Errorf("restoring more than there is: %v", err)
	}
	if _, err := merkle.Restore(-1, f); err == nil {
		t.Error("a tree of negative size")
	}
	if _, err := merkle.Restore(1<<48, f); err == nil {
		t.Error("a tree without end")
	}
}

func BenchmarkAppend(b *testing.B) {
	var tree merkle.Tree
	buf := make([]byte, 0, 4096)
	l := make([]byte, 420)
	b.SetBytes(int64(len(l)))
	b.ReportAllocs()
	for b.Loop() {
		buf = tree.Append(buf[:0], merkle.LeafHash(l))
	}
}
