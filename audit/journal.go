package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"keyhole/audit/internal/journal"
	"keyhole/audit/segment"
)

// persist makes b durable, which stands at the end of the segment: in the
// journal, or where that has no room, by an fsync of the segment, after which
// the journal begins anew.
func (l *Log) persist(b []byte) error {
	if l.journal.Fits(len(b)) {
		return l.journal.Put(l.seg.number, l.seg.size, b)
	}
	if err := l.seg.f.Sync(); err != nil {
		return err
	}
	l.journal.Restart()
	return nil
}

// endJournal leaves nothing in the journal but how long the segment is.
func (l *Log) endJournal() error {
	if err := l.seg.f.Sync(); err != nil {
		return err
	}
	l.journal.Restart()
	return l.journal.Put(l.seg.number, l.seg.size, nil)
}

// openJournal opens the journal and brings what it holds into the segment
// that it is of, durably, up to its byte end (negative: all). restored counts
// the bytes that were not there.
func openJournal(dir string, end int64) (j *journal.File, restored int64, err error) {
	j, entries, err := journal.Open(filepath.Join(dir, journalName))
	if err != nil {
		return nil, 0, err
	}
	if restored, err = replay(dir, entries, end); err != nil {
		return nil, 0, errors.Join(err, j.Close())
	}
	return j, restored, nil
}

// replay writes what a journal holds into the last segment, where a loss of
// power took it: open, pread, pwrite, ftruncate where there is something to
// cut, fsync. What is there is written once more, for an fsync that failed in
// another process leaves pages that are read as if they were on the disk.
// Entries for older segments are in them: a segment is synced before the next
// one is made.
func replay(dir string, entries []journal.Entry, end int64) (restored int64, err error) {
	files, err := segment.List(dir)
	if err != nil {
		return 0, fmt.Errorf("opening the audit log: %w", err)
	}
	last := 0
	if len(files) > 0 && !files[len(files)-1].Compressed {
		last = files[len(files)-1].Number
	}
	var want []byte
	begin := int64(-1)
	for _, e := range entries {
		switch {
		case len(files) == 0 || e.Segment > files[len(files)-1].Number:
			return 0, fmt.Errorf("the audit log was cut: its journal holds lines of %s, which is not there; put the file back", segment.Path(dir, e.Segment))
		case e.Segment < last || last == 0:
			continue
		case begin < 0:
			begin = e.Offset
		case e.Offset != begin+int64(len(want)):
			return 0, fmt.Errorf("the journal of the audit log is not as it was written: something is missing in front of byte %d of %s; put the file %s back",
				e.Offset, segment.Path(dir, e.Segment), journalName)
		}
		want = append(want, e.Bytes...)
	}
	if begin < 0 {
		return 0, nil
	}
	if end >= 0 {
		want = want[:max(0, min(int64(len(want)), end-begin))]
	}
	return restore(segment.Path(dir, last), begin, want)
}

// restore sees to it that want stands in a file from a byte on. What a loss
// of power can leave in its place is nothing, or zeros; anything else was put
// there by somebody.
func restore(path string, begin int64, want []byte) (restored int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("opening the audit log: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("opening the audit log: %w", err)
	}
	if info.Size() < begin {
		return 0, fmt.Errorf("the audit log was cut: %s has %d bytes, and its journal goes on from byte %d. Keep a copy of the directory, "+
			"then put the missing lines back from a backup or the SIEM; keyhole audit verify says more. If this is a copy that was made while the gateway ran, move the file %s away: what was acknowledged last is not in the copy then", path, info.Size(), begin, journalName)
	}
	found := make([]byte, info.Size()-begin)
	if _, err := f.ReadAt(found, begin); err != nil && len(found) > 0 {
		return 0, fmt.Errorf("reading the audit log: %w", err)
	}
	same := common(found, want)
	if same < len(want) {
		if rest := bytes.TrimLeft(found[same:], "\x00"); len(rest) > 0 {
			return 0, fmt.Errorf("the audit log is damaged and is not written on: from byte %d on %s is not what its journal says that it is: somebody altered one of them. "+
				"Keep a copy of the directory, then put both back from a backup", begin+int64(same), path)
		}
		restored = int64(len(want) - same)
	}
	if _, err := f.WriteAt(want, begin); err != nil {
		return 0, fmt.Errorf("restoring the end of the audit log: %w", err)
	}
	if restored > 0 {
		if err := f.Truncate(begin + int64(len(want))); err != nil {
			return 0, fmt.Errorf("restoring the end of the audit log: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("restoring the end of the audit log: %w", err)
	}
	return restored, nil
}

// common returns how long the common beginning of two slices is.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
