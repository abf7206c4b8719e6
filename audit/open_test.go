package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"keyhole/audit"
)

// written makes a log of n records and returns its only segment.
func written(t *testing.T, dir string, n int) []byte {
	t.Helper()
	l := open(t, config(dir))
	recs := make([]audit.Record, n)
	for i := range recs {
		recs[i] = rec(fmt.Sprint("r", i))
	}
	appendTo(t, l, recs...)
	closeLog(t, l)
	return readFile(t, segment(dir))
}

func TestTornLineIsCut(t *testing.T) {
	t.Parallel()
	whole := written(t, t.TempDir(), 3)
	last := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	first := bytes.IndexByte(whole, '\n') + 1
	tests := map[string]struct {
		file []byte
		keep int // records
		cut  int
	}{
		"one byte":          {whole[:last+1], 2, 1},
		"half a line":       {whole[:(last+len(whole))/2], 2, (last+len(whole))/2 - last},
		"no newline":        {whole[:len(whole)-1], 2, len(whole) - 1 - last},
		"zeros":             {append(bytes.Clone(whole), make([]byte, 5000)...), 3, 5000},
		"more than a line":  {append(bytes.Clone(whole), bytes.Repeat([]byte("x"), 3<<20)...), 3, 3 << 20},
		"the very first":    {whole[:first-1], 0, first - 1},
		"nothing but zeros": {make([]byte, 100), 0, 100},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			writeFile(t, segment(dir), tt.file)
			if _, err := collect(dir); !errors.Is(err, audit.ErrTorn) && len(tt.file) < 1<<20 {
				t.Errorf("Read of it: %v", err)
			}
			l := open(t, config(dir))
			if first := appendTo(t, l, rec("next")); first != uint64(tt.keep)+1 {
				t.Errorf("the next record has seq %d", first)
			}
			closeLog(t, l)
			got := readAll(t, dir)
			if len(got) != tt.keep+2 {
				t.Fatalf("%d records", len(got))
			}
			r := got[tt.keep]
			if r.Action != audit.ActionRecover || r.Outcome != audit.OutcomeOK || r.Details["bytes_cut"] != strconv.Itoa(tt.cut) {
				t.Errorf("the cut of %d bytes is recorded as %+v", tt.cut, r)
			}
		})
	}
}

func TestDamageIsRefused(t *testing.T) {
	t.Parallel()
	whole := written(t, t.TempDir(), 1000) // longer than what Open looks at
	lines := bytes.SplitAfter(whole, []byte("\n"))
	lines = lines[:len(lines)-1]
	n := len(lines)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	without := func(i int) []byte { return join(append(append([][]byte{}, lines[:i]...), lines[i+1:]...)...) }
	replaced := func(i int, line string) []byte {
		changed := append([][]byte{}, lines...)
		changed[i] = []byte(line)
		return join(changed...)
	}
	edit := func(i int, from, to string) []byte {
		return replaced(i, strings.Replace(string(lines[i]), from, to, 1))
	}
	tests := map[string]struct {
		file []byte
		line int
	}{
		"not JSON, last":      {replaced(n-1, "garbage\n"), n},
		"not JSON, last but":  {replaced(n-2, "garbage\n"), n - 1},
		"empty line":          {join(whole, []byte("\n")), n + 1},
		"zeros before a line": {replaced(n-3, "\x00\x00\x00\n"), n - 2},
		"unknown member":      {edit(n-2, `{"seq"`, `{"x":1,"seq"`), n - 1},
		"something behind":    {edit(n-2, "}\n", "} {}\n"), n - 1},
		"two lines in one":    {edit(n-2, "}\n", "}"), n - 1},
		"missing":             {without(n - 3), n - 2},
		"twice":               {join(whole, lines[n-1]), n + 1},
		"swapped":             {join(join(lines[:n-2]...), lines[n-1], lines[n-2]), n - 1},
		"array":               {replaced(n-1, "[1]\n"), n},
		"earlier time":        {edit(n-1, `"time":"20`, `"time":"19`), n},
		"line too long":       {replaced(n-1, `{"seq":`+strings.Repeat("1", 3<<20)+"}\n"), n},
		"far from the end":    {replaced(3, "garbage\n"), 4},
		"first missing":       {without(0), 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			writeFile(t, segment(dir), tt.file)
			_, err := collect(dir)
			wantLine(t, err, dir, tt.line)
			_, err = audit.Open(config(dir)) // no checkpoint vouches for any line: all are read
			wantLine(t, err, dir, tt.line)
			if got := readFile(t, segment(dir)); !bytes.Equal(got, tt.file) {
				t.Error("the refused file was changed")
			}
		})
	}
	t.Run("short log not from 0", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		writeFile(t, segment(dir), lines[1])
		_, err := audit.Open(config(dir))
		wantLine(t, err, dir, 1)
	})
}

func TestDamageDoesNotKeepTheLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, segment(dir), []byte("garbage\n"))
	for range 2 {
		_, err := audit.Open(config(dir))
		wantLine(t, err, dir, 1)
	}
	writeFile(t, segment(dir), nil)
	closeLog(t, open(t, config(dir)))
}

func TestSeveralSegments(t *testing.T) {
	t.Parallel()
	whole := written(t, t.TempDir(), 6)
	lines := bytes.SplitAfter(whole, []byte("\n"))
	path := func(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%08d.jsonl", n)) }
	lay := func(t *testing.T, first int, parts ...[][]byte) string {
		dir := t.TempDir()
		for i, p := range parts {
			writeFile(t, path(dir, first+i), bytes.Join(p, nil))
		}
		writeFile(t, filepath.Join(dir, "00000001.hashes"), []byte("not a segment"))
		writeFile(t, filepath.Join(dir, "1.jsonl"), []byte("neither"))
		return dir
	}
	for name, dir := range map[string]string{
		"two":           lay(t, 1, lines[:2], lines[2:6]),
		"new one empty": lay(t, 1, lines[:2], lines[2:6], nil),
	} {
		l := open(t, config(dir))
		if first := appendTo(t, l, rec("next")); first != 6 {
			t.Errorf("%s: the next seq is %d", name, first)
		}
		closeLog(t, l)
		got := readAll(t, dir)
		if last := got[len(got)-1]; last.Seq != 6 || got[0].Seq+uint64(len(got)) != 7 {
			t.Errorf("%s: read %d to %d", name, got[0].Seq, last.Seq)
		}
	}
	if _, err := audit.Open(config(lay(t, 7, lines[2:4], lines[4:6]))); err == nil {
		t.Error("a log opens whose beginning is gone and for which no checkpoint vouches")
	}
	dir := lay(t, 1, lines[:2], lines[2:4], lines[4:6])
	if err := os.Remove(path(dir, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := collect(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read without the middle segment: %v", err)
	}
	if _, err := audit.Open(config(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open without the middle segment: %v", err)
	}
	torn := [][]byte{lines[0], lines[1][:10]}
	dir = lay(t, 1, torn, nil)
	if l, err := audit.Open(config(dir)); err == nil {
		l.Close()
		t.Error("a torn line in front of an empty segment was passed over")
	}
	if _, err := collect(lay(t, 1, torn, lines[1:3])); !errors.Is(err, audit.ErrTorn) {
		t.Errorf("Read over a torn segment: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	if _, err := audit.Open(audit.Config{}); err == nil {
		t.Error("no directory")
	}
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, nil)
	if _, err := audit.Open(config(file)); err == nil {
		t.Error("a file in place of the directory")
	}
	if _, err := audit.Open(config(filepath.Join(file, "sub"))); err == nil {
		t.Error("a directory below a file")
	}
	if _, err := collect(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read of no directory: %v", err)
	}
}

func TestNodeDefaultsToTheHost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, audit.Config{Dir: dir})
	appendTo(t, l, rec("x"))
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if r := readAll(t, dir)[0]; r.Node != host {
		t.Errorf("node %q, want %q", r.Node, host)
	}
}
