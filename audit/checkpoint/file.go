package checkpoint

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
)

// A file of checkpoints is signed notes one behind the other, each followed
// by an empty line.

// maxNote is more than any signed checkpoint needs.
const maxNote = 64 << 10

// AppendTo returns the bytes that add a signed note to a file of checkpoints.
func AppendTo(signed []byte) []byte { return append(bytes.Clone(signed), '\n') }

// Notes yields the signed notes of a file of checkpoints, in order, with the
// number of their first line. A last one that is cut short, as a crash leaves
// it, is not yielded; torn is told its bytes.
func Notes(r io.Reader, torn func(bytes int)) iter.Seq2[Numbered, error] {
	return func(yield func(Numbered, error) bool) {
		sc := bufio.NewScanner(r)
		sc.Buffer(make([]byte, 4096), maxNote)
		sc.Split(splitLines)
		var signed []byte
		line, first, inSignatures := 0, 1, false
		for sc.Scan() {
			line++
			text := sc.Bytes()
			if inSignatures && (len(text) == 1 || !bytes.HasPrefix(text, []byte("— "))) {
				if text[0] != '\n' {
					yield(Numbered{}, fmt.Errorf("line %d: there must be an empty line behind a checkpoint", line))
					return
				}
				if !yield(Numbered{Line: first, Signed: bytes.Clone(signed)}, nil) {
					return
				}
				signed, first, inSignatures = signed[:0], line+1, false
				continue
			}
			if len(signed)+len(text) > maxNote {
				yield(Numbered{}, fmt.Errorf("line %d: a checkpoint cannot be so long", line))
				return
			}
			signed = append(signed, text...)
			inSignatures = inSignatures || bytes.HasPrefix(text, []byte("— "))
		}
		if err := sc.Err(); err != nil {
			yield(Numbered{}, fmt.Errorf("line %d: %w", line+1, err))
			return
		}
		if len(signed) > 0 && torn != nil {
			torn(len(signed))
		}
	}
}

// Numbered is a signed note and where it is in its file.
type Numbered struct {
	Line   int // from 1
	Signed []byte
}

// splitLines keeps the newlines.
func splitLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i+1], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// Last returns the last signed note of a file of checkpoints, or nil if
// it has none.
func Last(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var last []byte
	for n, err := range Notes(f, nil) {
		if err != nil {
			return nil, err
		}
		last = n.Signed
	}
	return last, nil
}
