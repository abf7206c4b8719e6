package dev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// dir is a directory that `keyholed dev` owns.
type dir string

func (d dir) path(name string) string { return filepath.Join(string(d), name) }

// marker names the file that tells a directory of ours, and that is locked
// while a `keyholed dev` uses it.
const marker = ".keyhole-dev"

const markerText = "This directory belongs to `keyholed dev`: a development gateway with throw-away keys.\n"

// Errors of Prepare.
var (
	ErrForeign = errors.New("the directory is not one of keyholed dev")
	ErrInUse   = errors.New("another keyholed dev uses the directory")
)

// enter makes the directory if need be, takes its lock, and closes it to
// others. Whatever holds files but not the marker is left alone: ErrForeign.
func enter(name string) (dir, *os.File, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return "", nil, err
	}
	d := dir(name)
	if err := os.MkdirAll(name, 0o700); err != nil {
		return "", nil, fmt.Errorf("making the directory: %w", err)
	}
	info, err := os.Stat(name)
	if err != nil {
		return "", nil, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return "", nil, fmt.Errorf("%w: %s belongs to another user (uid %d)", ErrForeign, name, st.Uid)
	}
	if _, err := os.Lstat(d.path(marker)); errors.Is(err, os.ErrNotExist) {
		entries, err := os.ReadDir(name)
		if err != nil {
			return "", nil, err
		}
		if len(entries) > 0 {
			return "", nil, fmt.Errorf("%w: %s holds %q and more; choose an empty or a new directory", ErrForeign, name, entries[0].Name())
		}
	}
	lock, err := os.OpenFile(d.path(marker), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", nil, fmt.Errorf("opening %s: %w", d.path(marker), err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return "", nil, fmt.Errorf("%w: %s", ErrInUse, name)
		}
		return "", nil, fmt.Errorf("locking %s: %w", d.path(marker), err)
	}
	if err := mark(d, lock); err != nil {
		return "", nil, errors.Join(err, unlock(lock))
	}
	return d, lock, nil
}

// mark makes the directory ours, once its lock is held.
func mark(d dir, lock *os.File) error {
	info, err := lock.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		if _, err := lock.WriteString(markerText); err != nil {
			return err
		}
	}
	return os.Chmod(string(d), 0o700) //nolint:gosec // a directory needs its x bit
}

// unlock gives the lock up, also where a child process that is just being
// started holds the file open.
func unlock(lock *os.File) error {
	return errors.Join(syscall.Flock(int(lock.Fd()), syscall.LOCK_UN), lock.Close())
}

// write replaces a file whole, with mode 0600: write a new one beside it,
// fsync, rename, fsync of the directory. A crash leaves the old or the new.
func (d dir) write(name string, data []byte) error {
	f, err := os.CreateTemp(string(d), ".new-*") // 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), d.path(name))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", name, err), os.Remove(f.Name()))
	}
	parent, err := os.Open(filepath.Dir(d.path(name)))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// keep writes a file unless there is one: what the user may have edited.
func (d dir) keep(name string, data []byte) error {
	if _, err := os.Lstat(d.path(name)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return d.write(name, data)
}
