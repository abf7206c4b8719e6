package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"keyhole/hsm"
	"keyhole/keys"
)

// rehearsal copies the database at path, as a process that has ended left it,
// into a directory of its own, and returns the copy's path. The caller has
// the store's lock. A database that is not there is not there in the copy.
func rehearsal(path string) (copied, dir string, err error) {
	if dir, err = os.MkdirTemp("", "keyhole-rehearsal-"); err != nil {
		return "", "", StoreError(fmt.Errorf("making a place for a copy of the database: %w", err))
	}
	copied = filepath.Join(dir, "keyhole.db")
	for _, suffix := range []string{"", "-wal"} { // what was committed may be in the second one only
		if err := copyFile(copied+suffix, path+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", "", errors.Join(StoreError(fmt.Errorf("copying the database: %w", err)), os.RemoveAll(dir))
		}
	}
	return copied, dir, nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// rehearsedSeal is sealOf for a rehearsal: where a key would be made, it
// returns one that nothing is sealed by.
func rehearsedSeal(ctx context.Context, token *hsm.HSM, path string, create bool) ([]byte, error) {
	key, err := token.StoreKey(ctx, false)
	if !errors.Is(err, keys.ErrNotFound) {
		return key, HSMError(err)
	}
	if _, serr := os.Stat(path); serr == nil && !create {
		return nil, foreignStore(path, err)
	}
	return throwAway(), nil
}

// sealSize is that of what hsm.HSM.StoreKey returns.
const sealSize = 32
