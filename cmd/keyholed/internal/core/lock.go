package core

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"keyhole/cmd/keyholed/internal/exit"
)

// ErrStoreInUse says that another keyholed has the database.
var ErrStoreInUse = errors.New("the key database is in use")

// lockStore takes the database at path for this process, by flock on
// path.lock, until the file is closed or the process ends. Two gateways over
// one database would each take the other's rotations for interrupted ones,
// and undo them. The file is not the database itself: closing that would drop
// SQLite's own locks.
func lockStore(path string) (*os.File, error) {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved // one database has one lock, whatever it is called
	}
	path += ".lock"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, StoreError(fmt.Errorf("opening the lock of the key database: %w", err))
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, exit.With(exit.Store, "another keyholed runs on this database; each gateway needs its own", fmt.Errorf("%w: %s is locked", ErrStoreInUse, path))
		}
		return nil, StoreError(fmt.Errorf("locking %s: %w", path, err))
	}
	return f, nil
}
