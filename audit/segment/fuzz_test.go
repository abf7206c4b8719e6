package segment

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// The end of a segment, whatever is in the file: what is whole and what is
// torn make up the file, and the last line is the last one.
func FuzzReadTail(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("a\nb\n"))
	f.Add([]byte("a\nb\ntorn"))
	f.Add([]byte("\n\n\x00\n"))
	f.Add(bytes.Repeat([]byte("x"), 70_000))
	f.Add(append(bytes.Repeat([]byte("line\n"), 20_000), "torn"...))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "00000001.jsonl")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		lines := 0
		tail, err := ReadTail(path, func(line []byte, _ bool) error {
			lines++
			if !bytes.Contains(content, line) {
				t.Fatalf("the line %q is not in the file", line)
			}
			return nil
		})
		if err != nil {
			if e := (*LineError)(nil); !errors.As(err, &e) { // a line that is too long
				t.Fatal(err)
			}
			return
		}
		end := bytes.LastIndexByte(content, '\n') + 1
		if tail.Size != int64(end) || tail.Torn != int64(len(content)-end) || (lines == 0) != (end == 0) {
			t.Fatalf("%d bytes, %d torn, %d lines; want %d and %d", tail.Size, tail.Torn, lines, end, len(content)-end)
		}
		if end > 0 && !bytes.HasSuffix(content[:end], tail.Line) {
			t.Fatalf("the last line is %q", tail.Line)
		}
	})
}
