package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"keyhole/audit/segment"
)

// Every durable change of the disk is made in this file. Each function
// returns nil only when its effect survives a loss of power, and lists the
// system calls that see to that.

// makeDir makes a directory for this user alone: mkdir 0700, open and fsync
// of its parent. One that exists is taken as it is.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

// syncDir makes the names in a directory durable: open, fsync.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openFile is a segment that is open for writing at its end.
type openFile struct {
	path   string
	number int
	f      *os.File
	info   os.FileInfo // which file f is
	size   int64       // bytes that are durable and acknowledged
	last   []byte      // the line that ends there; empty: none
}

// createSegment makes an empty segment that must not exist: open
// O_CREAT|O_EXCL|O_APPEND 0600, fsync, fsync of the directory.
func createSegment(path string) (*openFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Sync(), syncDir(filepath.Dir(path))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &openFile{path: path, number: segment.Number(path), f: f, info: info}, nil
}

// openSegment opens a segment for writing behind its first size bytes, of
// which last are the end, and cuts what is behind them: open O_APPEND, fstat,
// pread, ftruncate where there is something to cut, fsync. It returns the
// number of bytes cut. A file that does not hold those bytes is left alone.
func openSegment(path string, size int64, last []byte) (s *openFile, cut int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if cut = info.Size() - size; cut < 0 {
		return nil, 0, fmt.Errorf("%s has %d bytes, %d fewer than were acknowledged: somebody cut or replaced it; put it back", path, info.Size(), -cut)
	}
	found := make([]byte, len(last))
	if _, err := f.ReadAt(found, size-int64(len(last))); err != nil && len(last) > 0 {
		return nil, 0, err
	}
	if !bytes.Equal(found, last) {
		return nil, 0, fmt.Errorf("%s is not the file that was written: somebody changed or replaced it; put it back", path)
	}
	if cut > 0 {
		if err := f.Truncate(size); err != nil {
			return nil, 0, err
		}
	}
	if err := f.Sync(); err != nil {
		return nil, 0, err
	}
	return &openFile{path: path, number: segment.Number(path), f: f, info: info, size: size, last: last}, cut, nil
}

// append adds lines at the end: write, persist, stat. The last one sees that
// the file is still the one of that name and holds these bytes at its end,
// and not one that was moved, removed or cut while the log had it open.
// After an error the segment is not to be written again.
func (s *openFile) append(b []byte, persist func(b []byte) error) error {
	if _, err := s.f.Write(b); err != nil {
		return err
	}
	if err := persist(b); err != nil {
		return err
	}
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	size := s.size + int64(len(b))
	if !os.SameFile(info, s.info) || info.Size() != size {
		return fmt.Errorf("%s was moved, replaced or changed by somebody else", s.path)
	}
	s.size = size
	s.last = append(s.last[:0], b[bytes.LastIndexByte(b[:len(b)-1], '\n')+1:]...)
	return nil
}

// syncFile makes what was written to a file durable: open, fsync.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// writeFile makes a small file that must not exist: open O_CREAT|O_EXCL 0600,
// write, fsync, rename onto its name, fsync of the directory.
func writeFile(path string, content []byte) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// appendDurably adds b at the end of a file that is open for that: write,
// fsync. What an error leaves of b is cut off again, as well as can be.
func appendDurably(f *os.File, b []byte) error {
	n, err := f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err != nil && n > 0 {
		return errors.Join(err, cutEnd(f, int64(n)))
	}
	return err
}

// cutEnd removes the last n bytes of a file: fstat, ftruncate, fsync.
func cutEnd(f *os.File, n int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(info.Size()-n), f.Sync())
}
