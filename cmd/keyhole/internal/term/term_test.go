package term

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func TestWriteBytes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in, pipe, tty string
		refused       bool
	}{
		{"", "", "", false},
		{"text", "text", "text\n", false},
		{"text\n", "text\n", "text\n", false},
		{"a\tb\nü€\n\n", "a\tb\nü€\n\n", "a\tb\nü€\n\n", false},
		{"\x1b]0;owned\x07", "\x1b]0;owned\x07", "", true},
		{"a\rb", "a\rb", "", true},
		{"\u202egnp", "\u202egnp", "", true}, // right-to-left override
		{"\xff\xfe", "\xff\xfe", "", true},
		{"\x00", "\x00", "", true},
	} {
		for _, tty := range []bool{false, true} {
			var out bytes.Buffer
			s := Streams{Out: &out, OutTTY: tty}
			err := s.WriteBytes([]byte(tt.in))
			want := tt.pipe
			if tty {
				want = tt.tty
			}
			if refused := tty && tt.refused; refused != errors.Is(err, ErrBinary) || refused != (err != nil) || out.String() != want {
				t.Errorf("%q to a terminal (%v): %q, %v", tt.in, tty, out.String(), err)
			}
		}
	}
	data := []byte("text and more")[:4]
	s := Streams{Out: io.Discard, OutTTY: true}
	if err := s.WriteBytes(data); err != nil || string(data[:5]) != "text " {
		t.Errorf("the caller's bytes became %q, %v", data[:5], err)
	}
}

func TestWriteFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out bytes.Buffer
	s := Streams{Out: &out, OutTTY: true}
	put := func(path, text string, secret bool) {
		t.Helper()
		if err := s.WriteFile(path, []byte(text), secret); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	is := func(path, text string, mode os.FileMode) {
		t.Helper()
		b, err := os.ReadFile(path)
		info, serr := os.Stat(path)
		if err != nil || serr != nil || string(b) != text || mode != 0 && info.Mode().Perm() != mode {
			t.Errorf("%s holds %q, %v; mode %v", path, b, err, info.Mode())
		}
	}
	path := filepath.Join(dir, "f")
	put(path, "a\x1b", true)
	is(path, "a\x1b", 0o600)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	put(path, "public", false)
	is(path, "public", 0o640) // as its owner had it
	put(path, "secret", true)
	is(path, "secret", 0o600)
	link := filepath.Join(dir, "link")
	if err := os.Symlink("f", link); err != nil {
		t.Fatal(err)
	}
	put(link, "through", false)
	is(path, "through", 0o600)
	put("-", "\x1bout", true)
	if out.String() != "\x1bout" {
		t.Errorf("standard output got %q", out.String())
	}
	put(os.DevNull, "x", true)

	// A failure leaves nothing behind, and the old file as it was.
	if err := s.WriteFile(filepath.Join(dir, "none", "f"), nil, true); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("into a directory that is not there: %v", err)
	}
	if err := s.WriteFile(dir, []byte("x"), true); err == nil {
		t.Error("a directory was written")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var errs bytes.Buffer
	s := Streams{In: iotest.OneByteReader(strings.NewReader("hello")), Err: &errs, InTTY: true, ErrTTY: true}
	if b, err := s.Read(ctx, "-"); err != nil || string(b) != "hello" || !strings.Contains(errs.String(), "Ctrl-D") {
		t.Errorf("standard input: %q, %v, %q", b, err, errs.String())
	}
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte{0, 1, 255}, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Read(ctx, path); err != nil || !bytes.Equal(b, []byte{0, 1, 255}) {
		t.Errorf("a file: %q, %v", b, err)
	}
	for _, bad := range []string{filepath.Dir(path), path + ".none"} {
		if _, err := s.Read(ctx, bad); !errors.Is(err, ErrInput) {
			t.Errorf("%s: %v, want ErrInput", bad, err)
		}
	}
	s.In = endless{}
	if _, err := s.Read(ctx, "-"); !errors.Is(err, ErrInput) {
		t.Errorf("an endless input: %v, want ErrInput", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A read that never returns does not hold up Ctrl-C.
func TestReadEndsWithContext(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	s := Streams{In: readFunc(func(p []byte) (int, error) { close(started); return r.Read(p) }), Err: io.Discard, InTTY: true}
	go func() { <-started; cancel() }()
	if _, err := s.Read(ctx, "-"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
	if err := s.Confirm(ctx, "sure?", "yes"); !errors.Is(err, context.Canceled) {
		t.Errorf("Confirm: %v, want Canceled", err)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func TestConfirm(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]error{
		"payments.v3\n": nil, "  payments.v3 \r\n": nil, "payments.v3": nil,
		"y\n": ErrNotConfirmed, "\n": ErrNotConfirmed, "": ErrNotConfirmed, "payments.v33\n": ErrNotConfirmed,
	} {
		s := Streams{In: strings.NewReader(answer), Err: io.Discard, InTTY: true}
		if err := s.Confirm(t.Context(), "sure?", "payments.v3"); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", answer, err, want)
		}
	}
	s := Streams{In: strings.NewReader("payments.v3\n"), Err: io.Discard}
	if err := s.Confirm(t.Context(), "sure?", "payments.v3"); !errors.Is(err, ErrNoTerminal) {
		t.Errorf("without a terminal: %v", err)
	}
	s = Streams{In: iotest.ErrReader(io.ErrClosedPipe), Err: io.Discard, InTTY: true}
	if err := s.Confirm(t.Context(), "sure?", "payments.v3"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a terminal that went away: %v", err)
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "plain \"text\" ü": "plain \"text\" ü", "a\nb": `a\nb`, "\x1b[31mred": `\x1b[31mred`, "\"\n\\": `"\n\\`, "a\xffb": `a\xffb`, "\u202e": `\u202e`,
	} {
		if got := Clean(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := Table(&b, []string{"NAME", "X"}, []string{"a\tb", "1"}, []string{"longer than that", ""}); err != nil {
		t.Fatal(err)
	}
	want := "NAME              X\na\\tb              1\nlonger than that  \n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		s := Streams{Err: &b, ErrTTY: true}
		stop := s.Waiting("generating")
		time.Sleep(2500 * time.Millisecond) // of the bubble's clock
		stop()
		if got := b.String(); got != "\rgenerating ... 1 s\rgenerating ... 2 s\r"+strings.Repeat(" ", 18)+"\r" {
			t.Errorf("%q", got)
		}
		b.Reset()
		s.Waiting("quick")()
		s.ErrTTY = false
		s.Waiting("unseen")()
		s.Notef("unseen")
		if b.Len() != 0 {
			t.Errorf("%q", b.String())
		}
	})
}
