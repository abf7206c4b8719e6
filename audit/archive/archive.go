// Package archive compresses and moves the sealed segments of an audit log,
// also while a gateway writes it. A segment goes only when a signed
// checkpoint vouches for every line of it, when each line agrees with the
// tree, and when the copy, read back, does too; it is moved only when every
// exporter has sent it. The hashes and checkpoints
// stay: what remains can be verified without what has gone, and what has
// gone can be laid beside it at any time.
package archive

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit/checkpoint"
	"keyhole/audit/export"
	"keyhole/audit/merkle"
	"keyhole/audit/segment"
)

// Options say what to do.
type Options struct {
	Dir  string
	Keys *checkpoint.Keys
	// To is where the segments go, compressed; "": they stay where they are,
	// compressed.
	To string
	// Keep is how many of the sealed segments, the newest, are left alone.
	Keep int
	// Done is told of each segment that was archived. It may be nil.
	Done func(Segment)
}

// Segment is one that was archived.
type Segment struct {
	Path   string `json:"path"` // where it is now
	First  uint64 `json:"first"`
	Last   uint64 `json:"last"`
	Before int64  `json:"before"` // bytes
	After  int64  `json:"after"`
}

// Log archives what it may of a log and returns what it has archived. Errors
// leave the segment that they are about where it was.
func Log(ctx context.Context, o Options) ([]Segment, error) {
	files, err := segment.List(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no audit log in %s", o.Dir)
	}
	signed, err := checkpoint.Last(filepath.Join(o.Dir, "checkpoints"))
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoints of the audit log: %w", err)
	}
	if signed == nil {
		return nil, errors.New("the audit log has no checkpoint yet: nothing in it is vouched for, and nothing is archived")
	}
	c, _, err := checkpoint.Open(signed, o.Keys)
	if err != nil {
		return nil, fmt.Errorf("the last checkpoint of the audit log: %w; nothing is archived", err)
	}
	hashes, err := merkle.ReadFile(filepath.Join(o.Dir, "hashes"))
	if err != nil {
		return nil, fmt.Errorf("reading the hashes of the audit log: %w", err)
	}
	defer hashes.Close()
	root, err := tlog.TreeHash(c.Size, hashes)
	if err != nil || root != c.Root {
		return nil, errors.Join(errors.New("the stored hashes are not those that the last checkpoint vouches for; run keyhole audit verify; nothing is archived"), err)
	}
	if o.To != "" {
		if err := os.MkdirAll(o.To, 0o700); err != nil {
			return nil, fmt.Errorf("making the archive: %w", err)
		}
	}
	cursors, err := export.Cursors(o.Dir)
	if err != nil {
		return nil, err
	}
	a := archiver{Options: o, hashes: hashes, vouched: c, cursors: cursors}
	done := []Segment{}
	for _, f := range files[:max(0, len(files)-1-o.Keep)] { // the last one is being written
		if ctx.Err() != nil {
			return done, ctx.Err()
		}
		if o.To == "" && f.Compressed {
			continue
		}
		s, ok, err := a.segment(f)
		if err != nil {
			return done, fmt.Errorf("archiving %s: %w", f.Path, err)
		}
		if !ok {
			break // nor may any behind it
		}
		done = append(done, s)
		if o.Done != nil {
			o.Done(s)
		}
	}
	return done, nil
}

type archiver struct {
	Options
	hashes  *merkle.File
	vouched checkpoint.Checkpoint
	cursors map[string]uint64 // of exporters
}

// segment archives one; ok is false if it is not vouched for as a whole.
func (a *archiver) segment(f segment.File) (s Segment, ok bool, err error) {
	if s.First, s.Last, err = a.check(f); err != nil {
		return s, false, err
	}
	if s.Last >= uint64(a.vouched.Size) {
		return s, false, nil
	}
	for _, next := range a.cursors {
		if a.To != "" && s.Last >= next {
			return s, false, nil // somebody is still to be sent it
		}
	}
	info, err := os.Stat(f.Path)
	if err != nil {
		return s, false, err
	}
	s.Before = info.Size()
	dir := a.To
	if dir == "" {
		dir = a.Dir
	}
	s.Path = segment.Path(dir, f.Number) + segment.Compressed
	if err := a.copy(f, s.Path); err != nil {
		return s, false, err
	}
	first, last, err := a.check(segment.File{Number: f.Number, Path: s.Path, Compressed: true})
	if err == nil && (first != s.First || last != s.Last) {
		err = fmt.Errorf("the copy holds the records %d to %d, not %d to %d", first, last, s.First, s.Last)
	}
	if err != nil {
		return s, false, errors.Join(fmt.Errorf("reading the copy back: %w", err), os.Remove(s.Path))
	}
	if info, err = os.Stat(s.Path); err != nil {
		return s, false, err
	}
	s.After = info.Size()
	// From here on the copy is the segment.
	return s, true, errors.Join(os.Remove(f.Path), syncDir(a.Dir))
}

// check compares each line of a segment with the tree.
func (a *archiver) check(f segment.File) (first, last uint64, err error) {
	n := 0
	for l, err := range segment.Lines([]segment.File{f}) {
		if err != nil {
			return 0, 0, err
		}
		seq, ok := segment.Seq(l.Bytes)
		if !ok || n > 0 && seq != last+1 {
			return 0, 0, l.Errorf("it is not the next line; run keyhole audit verify")
		}
		if n == 0 {
			first = seq
		}
		last = seq
		n++
		if seq >= uint64(a.vouched.Size) {
			continue // nobody vouches for it, and the segment stays
		}
		stored, err := a.hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(seq))})
		if err != nil {
			return 0, 0, err
		}
		if stored[0] != merkle.LeafHash(l.Bytes) {
			return 0, 0, l.Errorf("it is not the line that was recorded; run keyhole audit verify")
		}
	}
	if n == 0 {
		return 0, 0, errors.New("it has no lines")
	}
	return first, last, nil
}

// copy writes a segment compressed: into a new file, fsync, rename, fsync of
// the directory.
func (a *archiver) copy(f segment.File, to string) (err error) {
	tmp := to + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Sync(), out.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
