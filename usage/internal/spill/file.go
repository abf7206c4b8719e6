package spill

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"keyhole/keys"
)

// Name is the name of the file in its directory.
const Name = "usage.spill"

// compactSize is the size beyond which a file is written anew when most of it
// is out of date.
const compactSize = 1 << 20

// triple is what rows are about.
type triple struct {
	key       string
	version   uint32
	principal string
}

func of(u keys.Usage) triple { return triple{u.Key, u.Version, u.Principal} }

// File is the file. Only one process may have it, and its methods must not be
// called at the same time.
type File struct {
	path string
	node string
	rows map[triple]keys.Usage // what is in the file, or shall be

	file  *os.File // nil: the file is not known to be as rows says, and is to be written anew
	size  int64
	fresh int64 // size when it was written anew
}

// Open opens the file of a node in a directory, or makes it, with mode 0600.
// Its error, where a person has to decide, is a *keys.Error of the kind
// keys.ErrStore.
func Open(dir, node string) (*File, error) {
	f := &File{path: filepath.Join(dir, Name), node: node, rows: map[triple]keys.Usage{}}
	data, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading what was counted while the store was down: %w", err)
	}
	h, rows, _, bad := parse(data)
	switch {
	case bad > 0:
		return nil, keys.Errorf(keys.ErrStore, "line %d of %s is damaged: it counts uses that the store does not have yet; "+
			"put the file back as it was, or move it away, and those uses are lost from the counters", bad, f.path)
	case h.Format != 0 && h.Node != node:
		return nil, keys.Errorf(keys.ErrStore, "%s counts uses of the gateway %q, and this one is called %q: "+
			"start it once under the old name, or move the file away, and those uses are lost from the counters", f.path, h.Node, node)
	}
	for _, u := range rows {
		f.rows[of(u)] = u
	}
	return f, f.write() // also shows that it can be written
}

// Rows returns what is in the file: for each triple what is counted beyond
// what the store holds.
func (f *File) Rows() []keys.Usage {
	all := make([]keys.Usage, 0, len(f.rows))
	for _, u := range f.rows {
		all = append(all, u)
	}
	return all
}

// Len returns how many triples are in the file.
func (f *File) Len() int { return len(f.rows) }

// Put has the file hold these rows, in the place of those of the same
// triples. They are on the disk when it returns nil; after an error, those
// that were there before still are, and these may be.
func (f *File) Put(rows []keys.Usage) error {
	if len(rows) == 0 {
		return nil
	}
	before := make(map[triple]*keys.Usage, len(rows))
	for _, u := range rows {
		if old, was := f.rows[of(u)]; was {
			before[of(u)] = &old
		} else {
			before[of(u)] = nil
		}
		f.rows[of(u)] = u
	}
	err := f.add(rows)
	if err == nil {
		return nil
	}
	for t, u := range before {
		if u == nil {
			delete(f.rows, t)
		} else {
			f.rows[t] = *u
		}
	}
	return fmt.Errorf("keeping usage while the store is down: %w", err)
}

// Forget takes the rows of these triples out. Before Tidy they may come back
// after a crash.
func (f *File) Forget(rows ...keys.Usage) {
	f.drop()
	for _, u := range rows {
		delete(f.rows, of(u))
	}
}

// Tidy writes the file anew if it may not be as it shall be. After an error
// it may be tried again.
func (f *File) Tidy() error {
	if f.file != nil {
		return nil
	}
	return f.write()
}

// Close closes the file. Put may be called all the same.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}

// add appends a line, or writes the file anew.
func (f *File) add(rows []keys.Usage) error {
	if f.file == nil || f.size > compactSize && f.size > 4*f.fresh {
		return f.write()
	}
	b := body{}
	for _, u := range rows {
		b.Rows = append(b.Rows, rowOf(u))
	}
	line, err := appendLine(nil, b)
	if err != nil {
		return err
	}
	n, err := f.file.Write(line)
	f.size += int64(n)
	if err == nil {
		err = f.file.Sync()
	}
	if err != nil {
		f.drop() // what a failed write or sync left is not known
	}
	return err
}

func (f *File) drop() {
	if f.file != nil {
		_ = f.file.Close() // it is given up for another failure
		f.file = nil
	}
}

// write puts a new file with all rows in the place of the old one: written,
// synced, renamed, and the directory synced.
func (f *File) write() (err error) {
	f.drop()
	data, err := appendLine(nil, head{Format: format, Node: f.node})
	if err != nil {
		return err
	}
	for part := range slices.Chunk(f.Rows(), 1024) {
		b := body{}
		for _, u := range part {
			b.Rows = append(b.Rows, rowOf(u))
		}
		if data, err = appendLine(data, b); err != nil {
			return err
		}
	}
	next := f.path + ".new"
	file, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = file.Close() // for another failure
		}
	}()
	if _, err = file.Write(data); err != nil {
		return err
	}
	if err = file.Sync(); err != nil {
		return err
	}
	if err = os.Rename(next, f.path); err != nil {
		return err
	}
	if err = syncDir(filepath.Dir(f.path)); err != nil {
		return err
	}
	f.file, f.size, f.fresh = file, int64(len(data)), int64(len(data))
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
