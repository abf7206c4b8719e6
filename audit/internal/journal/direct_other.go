//go:build !linux

package journal

import "os"

// openDirect opens a file so that a write is on the device when it returns.
func openDirect(path string) (*os.File, error) { return os.OpenFile(path, os.O_WRONLY|os.O_SYNC, 0) }
