package merkle

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// levels is more than any log can reach: 2^48 records.
const levels = 48

// Tree is the right edge of a Merkle tree: the roots of the complete subtrees
// that its leaves make up, one for each set bit of the size. The zero value
// is the empty tree. Trees are values: a copy stays as it is.
type Tree struct {
	size int64
	edge [levels]tlog.Hash // of level i, if bit i of size is set
}

// Size returns the number of leaves.
func (t *Tree) Size() int64 { return t.size }

// Append adds a leaf and appends to stored the nodes that are complete by
// that: the leaf itself and each subtree that it ends, in the order in which
// a File stores them.
func (t *Tree) Append(stored []byte, leaf tlog.Hash) []byte {
	stored = append(stored, leaf[:]...)
	level, h := 0, leaf
	for ; t.size>>level&1 == 1; level++ {
		h = tlog.NodeHash(t.edge[level], h)
		stored = append(stored, h[:]...)
	}
	t.edge[level] = h
	t.size++
	return stored
}

// Root returns the tree's hash (RFC 6962, 2.1).
func (t *Tree) Root() tlog.Hash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	level := bits.TrailingZeros64(uint64(t.size))
	h := t.edge[level]
	for level++; t.size>>level > 0; level++ {
		if t.size>>level&1 == 1 {
			h = tlog.NodeHash(t.edge[level], h)
		}
	}
	return h
}

// Restore returns the tree of the first size leaves, as r stores it.
func Restore(size int64, r tlog.HashReader) (Tree, error) {
	t := Tree{size: size}
	if size < 0 || size >= 1<<levels {
		return t, fmt.Errorf("a log cannot have %d records", size)
	}
	var at []int
	var indexes []int64
	for level := levels - 1; level >= 0; level-- {
		if size>>level&1 == 1 {
			at = append(at, level)
			indexes = append(indexes, tlog.StoredHashIndex(level, size>>level-1))
		}
	}
	hashes, err := r.ReadHashes(indexes)
	if err != nil {
		return t, err
	}
	for i, level := range at {
		t.edge[level] = hashes[i]
	}
	return t, nil
}

// LeafHash is the hash of a line, with its newline: SHA-256 of a zero byte
// and the line.
func LeafHash(line []byte) tlog.Hash {
	if len(line) < len(leafBuffer{}) {
		var b leafBuffer // spares the hash state of the general case
		n := copy(b[1:], line)
		return sha256.Sum256(b[:1+n])
	}
	return tlog.RecordHash(line)
}

type leafBuffer [1024]byte
