package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"keyhole/keys"
)

// creating keeps goroutines that open the same new file apart: closing a
// file drops every POSIX lock that the process has on it, SQLite's too.
var creating sync.Mutex

// smallestDatabase is the size of the smallest page, in bytes.
const smallestDatabase = 512

// prepareFile makes sure that the database file exists and is the owner's
// alone; SQLite gives the files beside it the same mode.
func prepareFile(path string) (fs.FileInfo, error) {
	creating.Lock()
	defer creating.Unlock()
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createFile(path); err != nil {
			return nil, err
		}
		info, err = os.Stat(path)
	}
	switch {
	case err != nil:
		return nil, unusable(path, err)
	case !info.Mode().IsRegular():
		return nil, keys.Errorf(keys.ErrStore, "the store %s is no regular file", path)
	case info.Size() > 0 && info.Size() < smallestDatabase: // SQLite would take it for an empty one
		return nil, noDatabase(path)
	case info.Mode().Perm()&0o007 != 0:
		return nil, keys.Errorf(keys.ErrStore, "everybody may use the store %s (mode %04o): see that nobody altered it, then chmod 600 it", path, info.Mode().Perm())
	case info.Mode().Perm()&0o070 != 0:
		// Container platforms give the group access when they mount a volume.
		if err := os.Chmod(path, info.Mode().Perm()&^0o077); err != nil {
			return nil, unusable(path, err)
		}
	}
	return info, nil
}

// createFile makes an empty file of mode 0600, durably: open with O_EXCL,
// close, fsync of the directory. It is no error if another process was
// faster.
func createFile(path string) error {
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return keys.Errorf(keys.ErrStore, "the directory %s for the store does not exist: make it, with mode 700", dir)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return unusable(path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return unusable(path, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return unusable(path, err)
	}
	return nil
}

func noDatabase(path string) error {
	return keys.Errorf(keys.ErrStore, "%s is no SQLite database: choose another file for the store, or put back a copy of it", path)
}

// unusable words what the system said about the operator's file.
func unusable(path string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return keys.Errorf(keys.ErrStore, "the store %s cannot be used: %s", path, err)
}
