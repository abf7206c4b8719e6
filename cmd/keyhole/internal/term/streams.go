// Package term is what the commands see of the world around the gateway:
// standard streams, files, the person at the terminal.
package term

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/mattn/go-isatty"
)

// Streams are the standard streams, and whether a person sits at them.
type Streams struct {
	In                    io.Reader
	Out, Err              io.Writer
	InTTY, OutTTY, ErrTTY bool
}

// Std returns the streams of the process.
func Std() Streams {
	tty := func(f *os.File) bool { return isatty.IsTerminal(f.Fd()) }
	return Streams{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InTTY: tty(os.Stdin), OutTTY: tty(os.Stdout), ErrTTY: tty(os.Stderr),
	}
}

// Sayf writes to standard error, as it is. Should that fail, there is nobody
// left to tell.
func (s *Streams) Sayf(format string, args ...any) { _, _ = fmt.Fprintf(s.Err, format, args...) }

// Notef tells the person at the terminal something that no script needs; it
// is silent where standard error is no terminal.
func (s *Streams) Notef(format string, args ...any) {
	if s.ErrTTY {
		s.Sayf("%s\n", Clean(fmt.Sprintf(format, args...)))
	}
}

// MaxInput bounds what is read into memory, in bytes. Gateways take far less.
const MaxInput = 64 << 20

// ErrInput is an input that cannot be used: absent, unreadable or too large.
var ErrInput = errors.New("unusable input")

// Open opens a file, or standard input for "-". Reading ends with ctx.
func (s *Streams) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	if path == "-" {
		if s.InTTY {
			s.Notef("reading from the terminal; end with Ctrl-D")
		}
		return io.NopCloser(&reader{ctx, s.In}), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{&reader{ctx, f}, f}, nil
}

// Read reads a file, or standard input for "-", whole. The error is ErrInput
// or ctx's.
func (s *Streams) Read(ctx context.Context, path string) ([]byte, error) {
	f, err := s.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxInput+1))
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	case len(b) > MaxInput:
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrInput, Name(path), MaxInput)
	}
	return b, nil
}

// Name is path as people read it.
func Name(path string) string {
	if path == "-" {
		return "standard input"
	}
	return path
}

// reader leaves a blocked Read when ctx ends. The read that it leaves behind
// ends with the process.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	type result struct {
		n   int
		err error
	}
	buf := make([]byte, len(p)) // p is the caller's again once this returns
	done := make(chan result, 1)
	go func() {
		n, err := r.r.Read(buf)
		done <- result{n, err}
	}()
	select {
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	case res := <-done:
		return copy(p, buf[:res.n]), res.err
	}
}
