package harden

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// writeByAll is the permission bit of everybody to write.
const writeByAll = 0o002

// Exposed is a directory in which everybody can put another file in the place
// of one that is trusted.
type Exposed struct {
	Dir  string
	Mode fs.FileMode
}

// Error says what to do.
func (e *Exposed) Error() string {
	return fmt.Sprintf("everybody can exchange what is in %s (mode %04o); run: chmod o-w %s", e.Dir, e.Mode.Perm(), e.Dir)
}

// Exchangeable returns an *Exposed if everybody could exchange the file or
// directory at path: the mode of a directory on the way to it lets everybody
// write, and is not sticky. The way is followed through symbolic links, for
// each of which the same holds. What is not there yet is judged by the
// directories that are. Other errors mean that the way could not be followed.
func Exchangeable(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("finding %s: %w", path, err)
	}
	return exchangeable(path, 0)
}

// maxLinks bounds the symbolic links on the way, as the kernel does.
const maxLinks = 40

func exchangeable(path string, links int) error {
	if links > maxLinks {
		return fmt.Errorf("%s: too many symbolic links", path)
	}
	for at := path; ; at = filepath.Dir(at) {
		if at != path {
			info, err := os.Stat(at)
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				return fmt.Errorf("looking at %s: %w", at, err)
			case info.Mode().Perm()&writeByAll != 0 && info.Mode()&fs.ModeSticky == 0:
				return &Exposed{Dir: at, Mode: info.Mode()}
			}
		}
		info, err := os.Lstat(at)
		if err == nil && info.Mode()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(at)
			if err != nil {
				return fmt.Errorf("following %s: %w", at, err)
			}
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(at), to)
			}
			if err := exchangeable(to, links+1); err != nil {
				return err
			}
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// SecretMode reports whether the mode of a file lets nobody read a secret in
// it who should not: nobody but its owner, or, where its owner is root, its
// group. The latter is how container platforms hand a secret to a process of
// another user.
func SecretMode(info fs.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	if ok && owner.Uid == 0 {
		return info.Mode().Perm()&0o037 == 0
	}
	return info.Mode().Perm()&0o077 == 0
}
