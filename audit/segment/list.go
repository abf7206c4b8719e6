package segment

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// Compressed is what the name of a compressed segment ends in.
const Compressed = ".gz"

// Path returns the name of an uncompressed segment.
func Path(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%08d.jsonl", n)) }

// Number returns the number of the segment with the given path, 0 if that is
// no segment's.
func Number(path string) int {
	base := filepath.Base(path)
	if !name.MatchString(base) {
		return 0
	}
	n, err := strconv.Atoi(base[:8])
	if err != nil {
		return 0
	}
	return n
}

// File is one segment.
type File struct {
	Number     int // from 1
	Path       string
	Compressed bool
}

var name = regexp.MustCompile(`^[0-9]{8}\.jsonl(\.gz)?$`)

// List returns the segments in dir in their order. The first ones may have
// been archived; behind the first that is there none is missing. A segment
// that is there in both forms, as a crash while compressing leaves it, is
// listed uncompressed.
func List(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir) // sorted: .jsonl comes before .jsonl.gz
	if err != nil {
		return nil, err
	}
	var files []File
	for _, e := range entries {
		if !name.MatchString(e.Name()) {
			continue
		}
		n, err := strconv.Atoi(e.Name()[:8])
		if err != nil {
			return nil, err
		}
		f := File{Number: n, Path: filepath.Join(dir, e.Name()), Compressed: filepath.Ext(e.Name()) == Compressed}
		switch {
		case len(files) == 0:
		case files[len(files)-1].Number == n:
			continue
		case files[len(files)-1].Number != n-1:
			return nil, fmt.Errorf("%s is missing: %w", Path(dir, files[len(files)-1].Number+1), fs.ErrNotExist)
		}
		files = append(files, f)
	}
	return files, nil
}

// Open opens a segment for reading its lines.
func (f File) Open() (io.ReadCloser, error) {
	file, err := os.Open(f.Path)
	if err != nil || !f.Compressed {
		return file, err
	}
	z, err := gzip.NewReader(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", f.Path, err), file.Close())
	}
	return zipped{z, file}, nil
}

type zipped struct {
	*gzip.Reader
	file *os.File
}

func (z zipped) Close() error { return errors.Join(z.Reader.Close(), z.file.Close()) }
