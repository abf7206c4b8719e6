// Package journal makes what is appended to files durable at the price of one
// write to the device.
//
// An fsync of a file that grows makes the file system write its own journal
// as well, and wait for it. This one is a file of fixed size whose blocks are
// all there: a write to it changes nothing but them. What was appended to a
// segment is put here too, and counts as durable; the segment itself is
// synced when there is no more room, and the journal begins anew.
//
// # Format
//
// Entries begin at blocks of 4 KiB, the first one at 0, each behind the one
// before, all of one generation. An entry is a head of 40 bytes, big-endian:
// magic (4), CRC-32C of all that follows (4), generation (8), number of the
// entry in it (4), number of the segment (4), offset there (8), length (8);
// then the bytes, and zeros up to the next block. The journal ends in front
// of the first block that is not such an entry: a torn write, or what an
// older generation left.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"
)

// Size of the file and of its blocks, in bytes.
const (
	Size  = 4 << 20
	block = 4 << 10
)

const (
	magic    = "KHJ1"
	headSize = 40
	maxKept  = 256 << 10 // of the buffer, between two entries
)

var table = crc32.MakeTable(crc32.Castagnoli)

// Entry is what was appended to a segment.
type Entry struct {
	Segment int   // its number
	Offset  int64 // there
	Bytes   []byte
}

// File is a journal that is open for writing. It is for one goroutine.
type File struct {
	path       string
	f          *os.File
	info       os.FileInfo // which file f is
	generation uint64
	number     uint32 // of the next entry
	offset     int64  // where it goes
	buf        []byte // aligned to block
}

// Open opens the journal at path, or makes it: write, fsync, rename, fsync of
// the directory. It returns the entries that it holds, in their order, and
// will begin anew. An error says what to do.
func Open(path string) (*File, []Entry, error) {
	content, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		content = make([]byte, Size)
		if err := create(path, content); err != nil {
			return nil, nil, fmt.Errorf("making the journal of the audit log: %w", err)
		}
	case err != nil:
		return nil, nil, fmt.Errorf("reading the journal of the audit log: %w", err)
	case len(content) != Size:
		return nil, nil, fmt.Errorf("%s is no journal of an audit log (%d bytes, not %d): put the right file back; without it what the log acknowledged last may be lost", path, len(content), Size)
	}
	f, err := openDirect(path)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the journal of the audit log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening the journal of the audit log: %w", err), f.Close())
	}
	entries, latest := parse(content)
	return &File{path: path, f: f, info: info, generation: latest + 1}, entries, nil
}

// create makes a file of which every block is written.
func create(path string, content []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// parse returns the entries in a journal and the latest generation that any
// block of it is from.
func parse(content []byte) (entries []Entry, latest uint64) {
	current := uint64(0)
	for at := 0; ; {
		e, generation, number, ok := read(content[at:])
		if at == 0 {
			current = generation
		}
		if !ok || generation != current || int(number) != len(entries) {
			break
		}
		entries = append(entries, e)
		if at += blocks(len(e.Bytes)); at >= len(content) {
			break
		}
	}
	for at := 0; at+headSize <= len(content); at += block {
		if string(content[at:at+4]) == magic {
			latest = max(latest, binary.BigEndian.Uint64(content[at+8:]))
		}
	}
	return entries, latest
}

// read reads the entry that b begins with.
func read(b []byte) (e Entry, generation uint64, number uint32, ok bool) {
	if len(b) < headSize || string(b[:4]) != magic {
		return e, 0, 0, false
	}
	length := binary.BigEndian.Uint64(b[32:])
	if length > uint64(len(b)-headSize) || crc32.Checksum(b[8:headSize+int(length)], table) != binary.BigEndian.Uint32(b[4:]) {
		return e, 0, 0, false
	}
	segment, offset := binary.BigEndian.Uint32(b[20:]), binary.BigEndian.Uint64(b[24:])
	if segment > 1<<31-1 || offset > 1<<62 {
		return e, 0, 0, false
	}
	e = Entry{Segment: int(segment), Offset: int64(offset), Bytes: b[headSize : headSize+int(length)]}
	return e, binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[16:]), true
}

// blocks returns how many bytes an entry of n bytes takes.
func blocks(n int) int { return (headSize + n + block - 1) / block * block }

// Fits reports whether there is room for an entry of n bytes.
func (j *File) Fits(n int) bool { return j.offset+int64(blocks(n)) <= Size }

// Put makes an entry that fits durable: one pwrite with O_DSYNC, stat. The
// last one sees that the file is still the one of its name. After an error
// the journal is to be opened anew.
func (j *File) Put(segment int, offset int64, b []byte) error {
	n := blocks(len(b))
	if cap(j.buf) < n {
		j.buf = aligned(max(n, 16*block))
	}
	buf := j.buf[:n]
	copy(buf, magic)
	binary.BigEndian.PutUint64(buf[8:], j.generation)
	binary.BigEndian.PutUint32(buf[16:], j.number)
	binary.BigEndian.PutUint32(buf[20:], uint32(segment))
	binary.BigEndian.PutUint64(buf[24:], uint64(offset))
	binary.BigEndian.PutUint64(buf[32:], uint64(len(b)))
	end := headSize + copy(buf[headSize:], b)
	clear(buf[end:])
	binary.BigEndian.PutUint32(buf[4:], crc32.Checksum(buf[8:end], table))
	_, err := j.f.WriteAt(buf, j.offset)
	if cap(j.buf) > maxKept {
		j.buf = nil
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(j.path)
	if err != nil {
		return err
	}
	if !os.SameFile(info, j.info) || info.Size() != Size {
		return fmt.Errorf("%s was moved, replaced or changed by somebody else", j.path)
	}
	j.offset += int64(n)
	j.number++
	return nil
}

// Restart begins anew: what was put is durable where it belongs.
func (j *File) Restart() {
	if j.number > 0 {
		j.generation, j.number, j.offset = j.generation+1, 0, 0
	}
}

// Close closes the file. What it holds stays.
func (j *File) Close() error { return j.f.Close() }

// aligned returns n bytes, a multiple of a block, at an address that is one:
// what writing past the page cache asks for.
func aligned(n int) []byte {
	b := make([]byte, n+block)
	skip := (block - int(uintptr(unsafe.Pointer(&b[0]))%block)) % block //nolint:gosec // only its address
	return b[skip : skip+n : skip+n]
}
