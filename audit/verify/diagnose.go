package verify

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit/merkle"
	"keyhole/audit/segment"
)

// diagnose tells what it is when a line does not have the seq that is next.
func (v *verifier) diagnose(want uint64, line segment.Line, seq uint64, ok bool) error {
	v.fatal = true
	// The stored hashes may tell an earlier line that was altered, or more
	// about this one.
	if c := v.trusted(want); c != nil {
		return v.locate(c)
	}
	f := Finding{Seq: want, File: line.File, Line: line.Number}
	where := fmt.Sprintf("%s:%d", line.File, line.Number)
	switch {
	case !ok:
		f.Kind, f.Text = Altered, fmt.Sprintf("%s is no line of an audit log; the record %d should be there", where, want)
	case seq > want:
		f.Kind, f.Text = Missing, fmt.Sprintf("%s is the record %d; the records from %d to %d are missing in front of it", where, seq, want, seq-1)
	default:
		f.Kind, f.Text = Inserted, fmt.Sprintf("%s is a record %d once more; the record %d should be there", where, seq, want)
	}
	v.found(f)
	return nil
}

// trusted returns a checkpoint for more than n records with which the stored
// hashes agree, or nil.
func (v *verifier) trusted(n uint64) *vouched {
	for v.hashes != nil && !v.unvouched() {
		c, err := v.take(1<<63 - 1)
		if err != nil || c == nil {
			return nil
		}
		if uint64(c.Size) <= n {
			continue
		}
		if v.storedLeavesOf(c) {
			return c
		}
	}
	return nil
}

// storedLeavesOf reports whether the stored hashes of the records behind the
// last good checkpoint are those that c vouches for.
func (v *verifier) storedLeavesOf(c *vouched) bool {
	if root, err := tlog.TreeHash(c.Size, v.hashes); err != nil || root != c.Root {
		return false
	}
	tree := v.good
	var buf []byte
	for tree.Size() < c.Size {
		leaf, err := v.leaf(uint64(tree.Size()))
		if err != nil {
			return false
		}
		buf = tree.Append(buf[:0], leaf)
	}
	return tree.Root() == c.Root
}

// locate names the first line that is not what a checkpoint vouches for. The
// lines before the last good checkpoint are.
func (v *verifier) locate(c *vouched) error {
	v.fatal = true
	from := uint64(v.good.Size())
	rewritten := Finding{Kind: Rewritten, Seq: from, File: v.files[0].Path,
		Text: fmt.Sprintf("the records from %d to %d are not those that %s, signed by %s, vouches for; the stored hashes are not either, and cannot tell which of them it is",
			from, c.Size-1, c.where, c.by)}
	if v.hashes == nil {
		v.found(rewritten)
		return nil
	}
	if !v.storedLeavesOf(c) {
		v.found(rewritten)
		return nil
	}
	files, _, err := segment.From(v.files, from)
	if err != nil {
		return fmt.Errorf("reading the audit log: %w", err)
	}
	i := from
	var odd *oddLine
	for line, err := range segment.Lines(files) {
		if err != nil {
			if errors.Is(err, segment.ErrTorn) {
				break
			}
			return fmt.Errorf("reading the audit log: %w", err)
		}
		leaf := merkle.LeafHash(line.Bytes)
		if odd != nil {
			v.found(v.classify(odd, &leaf))
			return nil
		}
		if seq, ok := segment.Seq(line.Bytes); ok && seq < from && i == from {
			continue // the segment begins in front of the range
		}
		if i >= uint64(c.Size) {
			break
		}
		stored, err := v.leaf(i)
		switch {
		case err != nil:
			v.found(rewritten) // the nodes inside the stored tree are not those of its root
			return nil
		case stored == leaf:
			i++
		default:
			odd = &oddLine{seq: i, file: line.File, line: line.Number, leaf: leaf, vouch: c}
		}
	}
	if odd != nil {
		v.found(v.classify(odd, nil))
		return nil
	}
	v.found(rewritten)
	return nil
}

// oddLine is the first line whose hash is not the stored one.
type oddLine struct {
	seq   uint64 // that it should have
	file  string
	line  int
	leaf  tlog.Hash
	vouch *vouched
}

// classify tells what was done, by the hashes stored for the places around.
// next is the hash of the line behind, nil if there is none.
func (v *verifier) classify(odd *oddLine, next *tlog.Hash) Finding {
	f := Finding{Seq: odd.seq, File: odd.file, Line: odd.line}
	where := fmt.Sprintf("%s:%d", odd.file, odd.line)
	here, err := v.leaf(odd.seq)
	ahead, aerr := v.leaf(odd.seq + 1)
	skipped := uint64(0) // how many are missing, if this line is a later one
	for n := uint64(1); n <= 1<<16 && odd.seq+n < uint64(odd.vouch.Size); n++ {
		if later, err := v.leaf(odd.seq + n); err != nil {
			break
		} else if later == odd.leaf {
			skipped = n
			break
		}
	}
	switch {
	case err == nil && aerr == nil && next != nil && odd.leaf == ahead && *next == here:
		f.Kind, f.Text = Reordered, fmt.Sprintf("%s and the line behind it, the records %d and %d, have changed places", where, odd.seq+1, odd.seq)
	case skipped > 0:
		f.Kind, f.Text = Missing, fmt.Sprintf("%s is the record %d; the records from %d to %d are missing in front of it", where, odd.seq+skipped, odd.seq, odd.seq+skipped-1)
	case err == nil && next != nil && *next == here:
		f.Kind, f.Text = Inserted, fmt.Sprintf("%s was inserted in front of the record %d", where, odd.seq)
	default:
		f.Kind, f.Text = Altered, fmt.Sprintf("%s, the record %d, was altered", where, odd.seq)
	}
	return f
}

// leaf returns the stored hash of a record.
func (v *verifier) leaf(seq uint64) (tlog.Hash, error) {
	h, err := v.hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(seq))})
	if err != nil {
		return tlog.Hash{}, err
	}
	return h[0], nil
}
