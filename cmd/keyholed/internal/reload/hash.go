package reload

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
)

// maxHashed bounds what is read of one file.
const maxHashed = 64 << 20

// Hash returns the SHA-256 over the SHA-256 of each of files, in hexadecimal.
// A missing file counts as 32 zero bytes.
func Hash(files ...string) (string, error) {
	sum := sha256.New()
	for _, name := range files {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			sum.Write(make([]byte, sha256.Size))
			continue
		}
		if err != nil {
			return "", err
		}
		one := sha256.New()
		_, err = io.Copy(one, io.LimitReader(f, maxHashed))
		if err = errors.Join(err, f.Close()); err != nil {
			return "", err
		}
		sum.Write(one.Sum(nil))
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
