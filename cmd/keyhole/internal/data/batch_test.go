package data

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
)

// batches reads all requests that an input makes.
func batches(r io.Reader) (sizes []int, items []api.SignRequest, err error) {
	l := lineReader{path: "-", r: bufio.NewReaderSize(r, 4096)}
	for {
		some, err := readItems[api.SignRequest](&l)
		if len(some) > 0 {
			sizes = append(sizes, len(some))
			items = append(items, some...)
		}
		if err != nil {
			return sizes, items, err
		}
	}
}

func lines(n, payload int) string {
	var b strings.Builder
	for range n {
		text, err := json.Marshal(api.SignRequest{Payload: make([]byte, payload)})
		if err != nil {
			panic(err)
		}
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.String()
}

// Requests hold as many lines as the gateway takes, by number and by size,
// and no line is lost or sent twice.
func TestReadItems(t *testing.T) {
	t.Parallel()
	equal := func(a, b []int) bool {
		if len(a) != len(b) {
			return false
		}
		for i := range a {
			if a[i] != b[i] {
				return false
			}
		}
		return true
	}
	for name, tt := range map[string]struct {
		in   string
		want []int
	}{
		"nothing":           {"", nil},
		"blank lines":       {"\n  \n\r\n", nil},
		"one":               {lines(1, 3), []int{1}},
		"no end of line":    {strings.TrimSuffix(lines(2, 3), "\n"), []int{2}},
		"1000":              {lines(1000, 3), []int{1000}},
		"1001":              {lines(1001, 3), []int{1000, 1}},
		"halves of a bound": {lines(5, 180<<10), []int{2, 2, 1}}, // 240 KiB in base64
		"larger than it":    {lines(2, 600<<10), []int{1, 1}},
		"small and large":   {lines(1, 3) + lines(1, 600<<10) + lines(1, 3), []int{1, 1, 1}},
	} {
		for _, r := range []io.Reader{strings.NewReader(tt.in), iotest.HalfReader(strings.NewReader(tt.in))} {
			sizes, _, err := batches(r)
			if !errors.Is(err, io.EOF) || !equal(sizes, tt.want) {
				t.Errorf("%s: %v, %v, want %v", name, sizes, err, tt.want)
			}
		}
	}
}

func TestReadItemsRefuses(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{`{`, `[]`, `"x"`, `{"payload":7}`, `{"payload":"!"}`, `{"nothing":1}`, `{} {}`, `{}x`, "\xff"} {
		_, items, err := batches(strings.NewReader("{\"payload\":\"\"}\n\n" + bad + "\n"))
		if !errors.Is(err, term.ErrInput) || !strings.Contains(err.Error(), "line 3 of standard input") || len(items) != 1 {
			t.Errorf("%q: %v after %d items", bad, err, len(items))
		}
	}
	if _, _, err := batches(io.LimitReader(zeros{}, term.MaxInput+2)); !errors.Is(err, term.ErrInput) {
		t.Errorf("an endless line: %v", err)
	}
	if _, _, err := batches(iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a broken input: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Whatever comes in, each line that is an item goes out once and in order.
func FuzzReadItems(f *testing.F) {
	f.Add([]byte(lines(3, 3)))
	f.Add([]byte("{\"payload\":\"aGk=\"}\r\n\n{}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		_, items, err := batches(bytes.NewReader(in))
		if err == nil || !errors.Is(err, io.EOF) && !errors.Is(err, term.ErrInput) {
			t.Fatalf("ended with %v", err)
		}
		count := 0
		for line := range bytes.SplitSeq(in, []byte("\n")) {
			if len(bytes.TrimSpace(line)) > 0 {
				count++
			}
		}
		if errors.Is(err, io.EOF) && len(items) != count {
			t.Fatalf("%d items out of %d lines", len(items), count)
		}
	})
}
