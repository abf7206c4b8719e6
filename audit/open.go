package audit

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"keyhole/audit/checkpoint"
	"keyhole/audit/merkle"
	"keyhole/audit/segment"
)

// Files of a log beside its segments.
const (
	hashesName      = "hashes"      // the nodes of the Merkle tree
	checkpointsName = "checkpoints" // signed notes
	originName      = "origin"      // what the log is called in its checkpoints
	journalName     = "journal"     // what may not be in the segment yet
)

// openFiles finds where the log ends, compares it with the last checkpoint,
// and opens everything there.
func (l *Log) openFiles() error {
	j, restored, err := openJournal(l.dir, -1)
	if err != nil {
		return err
	}
	l.journal = j
	files, err := segment.List(l.dir)
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	torn, err := l.openLast(files)
	if err != nil {
		return err
	}
	if err := l.openCheckpoints(); err != nil {
		return err
	}
	if l.nodes, err = merkle.OpenFile(filepath.Join(l.dir, hashesName)); err != nil {
		return fmt.Errorf("opening the hashes of the audit log: %w", err)
	}
	rebuilt, err := l.openTree(files)
	if err != nil {
		return err
	}
	if l.origin == "" {
		if err := l.beginOrigin(); err != nil {
			return err
		}
	}
	if torn == 0 && restored == 0 && !rebuilt {
		return nil
	}
	if restored > 0 {
		l.log.Warn("brought the end of the audit log back from its journal", "file", l.seg.path, "bytes", restored)
	}
	if torn > 0 {
		l.log.Warn("cut an unfinished line off the audit log; it was never acknowledged", "file", l.seg.path, "bytes", torn)
	}
	if err := l.write(l.recovered(nil, repair{cut: torn, restored: restored, rebuilt: rebuilt})); err != nil {
		return fmt.Errorf("recording the repair of the audit log: %w", err)
	}
	l.head = l.tree
	return nil
}

// openLast opens the last segment for writing at its end.
func (l *Log) openLast(files []segment.File) (torn int64, err error) {
	n := 1
	if len(files) > 0 {
		n = files[len(files)-1].Number
		if files[len(files)-1].Compressed { // the crash came between compressing it and making the next one
			n++
		}
	}
	path := segment.Path(l.dir, n)
	var end segment.Tail
	last := chain{}
	switch _, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		if l.seg, err = createSegment(path); err != nil {
			return 0, fmt.Errorf("beginning the audit log: %w", err)
		}
	case err != nil:
		return 0, fmt.Errorf("opening the audit log: %w", err)
	default:
		if end, err = readTail(path, n, &last); err != nil {
			return 0, damaged(err)
		}
	}
	if len(end.Line) == 0 && len(files) > 0 { // a crash came between making a segment and its first record
		if err := l.endOf(files, n, &last); err != nil {
			return 0, err
		}
	}
	if last.started {
		l.seq, l.last, l.wrote = last.prev.Seq+1, last.prev.Time, last.prev.Time
	}
	if l.seg != nil {
		return 0, nil
	}
	seg, cut, err := openSegment(path, end.Size, end.Line)
	if err != nil {
		return 0, fmt.Errorf("opening the audit log: %w", err)
	}
	l.seg = seg
	return cut, l.dateSegment(files[len(files)-1])
}

// endOf finds the last record in front of segment n, which has none.
func (l *Log) endOf(files []segment.File, n int, last *chain) error {
	before := files[len(files)-1]
	if before.Number == n {
		if len(files) == 1 {
			return nil // nothing was ever written
		}
		before = files[len(files)-2]
	}
	if !before.Compressed {
		t, err := readTail(before.Path, before.Number, last)
		if err == nil && t.Torn != 0 {
			return fmt.Errorf("the audit log is damaged and is not written on: %s ends in the middle of a line; put it back from a backup", before.Path)
		}
		if err != nil {
			return damaged(err)
		}
		return nil
	}
	for line, err := range segment.Lines([]segment.File{before}) {
		if err == nil {
			_, err = last.next(line.Bytes)
		}
		if err != nil {
			return damaged(err)
		}
	}
	return nil
}

func readTail(path string, n int, c *chain) (segment.Tail, error) {
	return segment.ReadTail(path, func(line []byte, whole bool) error {
		if !c.started {
			c.fromSeq = n == 1 && whole
		}
		_, err := c.next(line)
		return err
	})
}

// dateSegment notes when the segment that is written on began.
func (l *Log) dateSegment(f segment.File) error {
	for line, err := range segment.Lines([]segment.File{f}) {
		if err != nil {
			return fmt.Errorf("opening the audit log: %w", err)
		}
		r, err := ParseLine(line.Bytes)
		if err != nil {
			return damaged(line.Errorf("%w", err))
		}
		l.segBegan = r.Time
		break
	}
	return nil
}

func damaged(err error) error {
	var line *LineError
	if !errors.As(err, &line) {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	err = fmt.Errorf("the audit log is damaged and is not written on: %w. Keep a copy of the directory, then put the file back from a backup", err)
	if line.Offset > 0 {
		err = fmt.Errorf("%w. If the machine lost power when this line was written, nothing from it on was acknowledged, and cutting there is safe: truncate -s %d %s",
			err, line.Offset, line.File)
	}
	return err
}

// altered is damage that no crash explains.
func altered(err error) error {
	return fmt.Errorf("the audit log is damaged and is not written on: %w. Keep a copy of the directory, then put the file back from a backup", err)
}

// openCheckpoints reads the last checkpoint, checks its signature if audit
// keys are known, and cuts what a crash left behind it.
func (l *Log) openCheckpoints() error {
	path := filepath.Join(l.dir, checkpointsName)
	origin, err := os.ReadFile(filepath.Join(l.dir, originName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	l.origin = string(origin)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the checkpoints of the audit log: %w", err)
	}
	l.checkpoints = f
	torn := 0
	for n, err := range checkpoint.Notes(f, func(bytes int) { torn = bytes }) {
		if err != nil {
			return fmt.Errorf("the checkpoints of the audit log are damaged: %s: %w; put the file back from a backup", path, err)
		}
		l.signed = n.Signed
	}
	if torn > 0 {
		if err := cutEnd(f, int64(torn)); err != nil {
			return fmt.Errorf("cutting an unfinished checkpoint off %s: %w", path, err)
		}
	}
	if l.signed == nil {
		return nil
	}
	if l.keys == nil {
		l.vouched, err = checkpoint.Peek(l.signed)
	} else {
		l.vouched, l.signer, err = checkpoint.Open(l.signed, l.keys)
	}
	if err != nil {
		return fmt.Errorf("the last checkpoint in %s cannot be believed: %w; run keyhole audit verify %s", path, err, l.dir)
	}
	switch {
	case l.origin == "":
		l.origin = l.vouched.Origin
	case l.origin != l.vouched.Origin:
		return fmt.Errorf("the last checkpoint in %s is of the log %q, this log is %q: the directory was put together from two; put the right files back",
			path, l.vouched.Origin, l.origin)
	}
	if uint64(l.vouched.Size) > l.seq {
		return fmt.Errorf("the audit log was cut: its last checkpoint vouches for %d records, and there are %d. Keep a copy of the directory, "+
			"then put the missing lines back from a backup or the SIEM; keyhole audit verify %s says more", l.vouched.Size, l.seq, l.dir)
	}
	return nil
}

// beginOrigin gives the log a name that no other log has.
func (l *Log) beginOrigin() error {
	var b [4]byte
	rand.Read(b[:])
	l.origin = "keyhole/" + l.node + "/" + hex.EncodeToString(b[:])
	if err := writeFile(filepath.Join(l.dir, originName), []byte(l.origin)); err != nil {
		return fmt.Errorf("naming the audit log: %w", err)
	}
	return nil
}

// openTree restores the tree as of the last checkpoint and grows it by the
// lines behind. Where the stored nodes are not what the checkpoint vouches
// for, they are made anew from all lines, if those are. rebuilt says that
// this was done.
func (l *Log) openTree(files []segment.File) (rebuilt bool, err error) {
	start := time.Now()
	tree, err := merkle.Restore(l.vouched.Size, l.nodes)
	switch {
	case err == nil && tree.Root() == l.vouched.Root || l.vouched.Size == 0:
	case err != nil && !errors.Is(err, merkle.ErrShort):
		return false, fmt.Errorf("reading the hashes of the audit log: %w", err)
	default:
		if tree, err = l.rebuild(files); err != nil {
			return false, err
		}
		rebuilt = true
	}
	if err := l.grow(&tree, files, l.seq); err != nil {
		return false, err
	}
	l.tree, l.head = tree, tree
	if d := time.Since(start); d > time.Second {
		l.log.Info("hashed the audit log behind its last checkpoint", "records", l.seq-uint64(l.vouched.Size), "duration", d)
	}
	return rebuilt, nil
}

// rebuild makes the nodes up to the last checkpoint anew.
func (l *Log) rebuild(files []segment.File) (tree merkle.Tree, err error) {
	const advice = "keep a copy of the directory, put the file back from a backup, and run keyhole audit verify"
	path := filepath.Join(l.dir, hashesName)
	if l.keys == nil || l.signer == "" {
		return tree, fmt.Errorf("%s does not hold what the last checkpoint says, and no audit key is known that the checkpoint could be checked with; %s", path, advice)
	}
	if len(files) == 0 || files[0].Number != 1 {
		return tree, fmt.Errorf("%s does not hold what the last checkpoint says, and cannot be made anew: the first segments were archived; %s, or unpack all segments into %s", path, advice, l.dir)
	}
	l.log.Warn("the hashes of the audit log are not what its last checkpoint vouches for; making them anew from the lines", "file", path)
	if err := l.grow(&tree, files, uint64(l.vouched.Size)); err != nil {
		return tree, err
	}
	if tree.Root() != l.vouched.Root {
		return tree, fmt.Errorf("the audit log was altered: neither %s nor the lines are what the checkpoint by %s vouches for; "+
			"keep a copy of the directory and run keyhole audit verify %s, which names the first such line", path, l.signer, l.dir)
	}
	return tree, nil
}

// putEvery bounds the memory of hashes that are not written yet.
const putEvery = 1 << 20

// grow adds the lines from the tree's size up to seq end, and stores their
// nodes.
func (l *Log) grow(tree *merkle.Tree, files []segment.File, end uint64) error {
	next := uint64(tree.Size())
	if next == end {
		return nil
	}
	rest, ok, err := segment.From(files, next)
	if err != nil {
		return damaged(err)
	}
	if !ok {
		return fmt.Errorf("the audit log lacks the segment with record %d, which no checkpoint vouches for; put it back", next)
	}
	var stored []byte
	first := tree.Size()
	put := func() error {
		err := l.nodes.Put(first, stored)
		stored, first = stored[:0], tree.Size()
		if err != nil {
			return fmt.Errorf("storing the hashes of the audit log: %w", err)
		}
		return nil
	}
	for line, err := range segment.Lines(rest) {
		if errors.Is(err, ErrTorn) {
			break // it was cut meanwhile
		}
		if err != nil {
			return damaged(err)
		}
		switch seq, ok := segment.Seq(line.Bytes); {
		case !ok || seq > next:
			return altered(line.Errorf("it is not the record %d", next))
		case seq < next:
			continue
		}
		stored = tree.Append(stored, merkle.LeafHash(line.Bytes))
		next++
		if len(stored) >= putEvery {
			if err := put(); err != nil {
				return err
			}
		}
		if next == end {
			break
		}
	}
	if next != end {
		return fmt.Errorf("the audit log ends with %d records, not %d", next, end)
	}
	return put()
}

// closeFiles closes what is open. The last segment is closed by whoever gave
// it up, if it was.
func (l *Log) closeFiles() error {
	var errs []error
	if l.seg != nil && l.fault == nil {
		errs = append(errs, l.endJournal(), l.seg.f.Close())
	}
	if l.journal != nil {
		errs = append(errs, l.journal.Close())
	}
	if l.nodes != nil {
		errs = append(errs, l.nodes.Close())
	}
	if l.checkpoints != nil {
		errs = append(errs, l.checkpoints.Close())
	}
	return errors.Join(errs...)
}
