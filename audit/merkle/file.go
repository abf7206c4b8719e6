package merkle

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

// File is the stored nodes of a tree. Reading is safe for concurrent use and
// beside one writer that only appends.
type File struct {
	f *os.File
}

// OpenFile opens a file of nodes for reading and writing; one that does not
// exist is made, with mode 0600.
func OpenFile(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &File{f}, nil
}

// ReadFile opens a file of nodes for reading.
func ReadFile(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &File{f}, nil
}

// Put writes the nodes that were stored by leaves from number first on. They
// are durable only after Sync.
func (f *File) Put(first int64, stored []byte) error {
	_, err := f.f.WriteAt(stored, offset(tlog.StoredHashCount(first)))
	return err
}

// Cut removes every node that a tree of size leaves does not have.
func (f *File) Cut(size int64) error { return f.f.Truncate(offset(tlog.StoredHashCount(size))) }

// Sync makes what was put durable.
func (f *File) Sync() error { return f.f.Sync() }

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// Leaves returns how many whole leaves the file can hold the nodes of, by its
// length alone.
func (f *File) Leaves() (int64, error) {
	info, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	nodes := info.Size() / tlog.HashSize
	lo, hi := int64(0), nodes // the largest n with StoredHashCount(n) <= nodes
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if tlog.StoredHashCount(mid) <= nodes {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo, nil
}

// ErrShort says that the file ends before a node that is asked for.
var ErrShort = errors.New("the file of hashes is too short")

// ReadHashes implements tlog.HashReader.
func (f *File) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		switch _, err := f.f.ReadAt(hashes[i][:], offset(index)); {
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("%w: node %d is not there", ErrShort, index)
		case err != nil:
			return nil, err
		}
	}
	return hashes, nil
}

func offset(nodes int64) int64 { return nodes * tlog.HashSize }
