package term

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrBinary refuses to send bytes to a terminal that could act on them.
var ErrBinary = errors.New("the output is binary, or holds control characters that a terminal would act on; write it to a file with -O FILE, or to the terminal all the same with -O -")

// WriteBytes writes data as it is. To a terminal it writes text only, and
// ends the line: a plaintext must not be able to play tricks there.
func (s *Streams) WriteBytes(data []byte) error {
	if s.OutTTY {
		if !printable(data) {
			return ErrBinary
		}
		if len(data) > 0 && data[len(data)-1] != '\n' {
			data = append(bytes.Clone(data), '\n')
		}
	}
	_, err := s.Out.Write(data)
	return err
}

func printable(data []byte) bool {
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		if r == utf8.RuneError && n == 1 || !unicode.IsPrint(r) && r != '\n' && r != '\t' {
			return false
		}
		data = data[n:]
	}
	return true
}

// WriteFile writes data, and nothing else, to a file ("-": standard output,
// whatever it is). A regular file is replaced whole or not at all; where
// secret is set it is its owner's only.
func (s *Streams) WriteFile(path string, data []byte, secret bool) error {
	if path == "-" {
		_, err := s.Out.Write(data)
		return err
	}
	perm := os.FileMode(0o666) // less the umask
	if info, err := os.Stat(path); err == nil {
		if !info.Mode().IsRegular() { // a pipe or a device
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.Write(data)
			return errors.Join(err, f.Close())
		}
		perm = info.Mode().Perm()
		if target, err := filepath.EvalSymlinks(path); err == nil {
			path = target
		}
	}
	if secret {
		perm = 0o600
	}
	temp := filepath.Join(filepath.Dir(path), ".keyhole-"+rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// Clean makes a text from elsewhere safe to print in one line: what is not
// printable becomes an escape.
func Clean(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return text
	}
	quoted := strconv.Quote(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// CleanJSON makes JSON safe to print, and changes nothing of what it says:
// what is not printable in its strings becomes an escape.
func CleanJSON(text []byte) []byte {
	unsafe := func(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) } // JSON itself escapes what is below
	if !bytes.ContainsFunc(text, unsafe) {
		return text
	}
	out := make([]byte, 0, len(text)+64)
	for _, r := range string(text) {
		switch {
		case !unsafe(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// Table aligns rows of cells, made safe to print.
func Table(w io.Writer, rows ...[]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = Clean(cell)
		}
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}
