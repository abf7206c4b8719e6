package audit

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit/checkpoint"
	"keyhole/audit/segment"
	"keyhole/keys"
)

// Checkpoint signs the log as it is now and keeps that, durably. If nothing
// was recorded since the last one, and its key is still the signer's, that
// one is returned. Errors: keys.ErrAudit, and those of the signer.
func (l *Log) Checkpoint(s note.Signer) (signed []byte, c checkpoint.Checkpoint, err error) {
	l.vouching.Lock()
	defer l.vouching.Unlock()
	l.mu.Lock()
	head, closed := l.head, l.closed
	l.mu.Unlock()
	if closed {
		return nil, c, errClosed
	}
	c = checkpoint.Checkpoint{Origin: l.origin, Size: head.Size(), Root: head.Root()}
	if l.signed != nil && c == l.vouched && l.signer == s.Name() {
		return l.signed, c, nil
	}
	if signed, err = checkpoint.Sign(c, s); err != nil {
		return nil, c, fmt.Errorf("signing a checkpoint of the audit log: %w", err)
	}
	// What is vouched for must be found again after a loss of power, by those
	// too who do not know of the journal. All segments but the last are synced.
	files, err := segment.List(l.dir)
	if err == nil && len(files) > 0 {
		err = syncFile(files[len(files)-1].Path)
	}
	if err := errors.Join(err, l.nodes.Sync(), appendDurably(l.checkpoints, checkpoint.AppendTo(signed))); err != nil {
		return nil, c, fmt.Errorf("%w: keeping a checkpoint: %w", keys.ErrAudit, err)
	}
	l.signed, l.vouched, l.signer = signed, c, s.Name()
	return signed, c, nil
}

// Vouched returns the last checkpoint, signed, or nil if there is none.
func (l *Log) Vouched() (signed []byte, c checkpoint.Checkpoint) {
	l.vouching.Lock()
	defer l.vouching.Unlock()
	return l.signed, l.vouched
}

// Size returns how many records are durable.
func (l *Log) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(l.head.Size())
}

// Prove returns the proof that the record with the given seq is in the log
// that the last checkpoint vouches for, or any earlier size of it (RFC 6962,
// 2.1.1), and the record's leaf hash. Errors: keys.ErrNotFound (there is no
// such record in a log of that size), ErrAudit.
func (l *Log) Prove(seq uint64, size int64) (leaf tlog.Hash, proof tlog.RecordProof, err error) {
	_, vouched := l.Vouched()
	if size < 0 || size > vouched.Size || seq >= uint64(size) {
		return leaf, nil, keys.Errorf(keys.ErrNotFound, "no checkpoint vouches for the record %d yet; ask for one first", seq)
	}
	root := vouched.Root
	if size < vouched.Size {
		root, err = tlog.TreeHash(size, l.nodes)
	}
	var hashes []tlog.Hash
	if err == nil {
		hashes, err = l.nodes.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(seq))})
	}
	if err == nil {
		leaf = hashes[0]
		proof, err = tlog.ProveRecord(size, int64(seq), l.nodes)
	}
	if err == nil {
		err = tlog.CheckRecord(proof, size, root, int64(seq), leaf) // the file may be damaged
	}
	if err != nil {
		return leaf, nil, fmt.Errorf("%w: proving the record %d: %w", keys.ErrAudit, seq, err)
	}
	return leaf, proof, nil
}
