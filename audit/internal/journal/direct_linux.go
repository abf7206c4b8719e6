package journal

import (
	"errors"
	"os"
	"syscall"
)

// openDirect opens a file so that a write is on the device when it returns,
// past the page cache where the file system can do that.
func openDirect(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_DSYNC|syscall.O_DIRECT, 0)
	if errors.Is(err, syscall.EINVAL) {
		f, err = os.OpenFile(path, os.O_WRONLY|syscall.O_DSYNC, 0)
	}
	return f, err
}
