package segment

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// followEvery is how often a log that is followed is looked at.
const followEvery = 200 * time.Millisecond

// Follow calls each with the lines of the log in dir from segment n on, its
// first skip bytes left out, waits for more, and ends with ctx (nil) or the
// first error.
func Follow(ctx context.Context, dir string, n int, skip int64, each func(line []byte) error) error {
	t := time.NewTicker(followEvery)
	defer t.Stop()
	var in io.ReadCloser
	defer func() {
		if in != nil {
			in.Close()
		}
	}()
	var r *bufio.Reader
	var part []byte
	for {
		if in == nil {
			files, err := List(dir)
			if err != nil {
				return err
			}
			i := 0
			for i < len(files) && files[i].Number < n {
				i++
			}
			if i == len(files) {
				if !wait(ctx, t) {
					return nil
				}
				continue
			}
			if in, err = files[i].Open(); err != nil {
				return err
			}
			n, r, part = files[i].Number, bufio.NewReaderSize(in, 64<<10), nil
			if _, err := io.CopyN(io.Discard, r, skip); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			skip = 0
		}
		b, err := r.ReadBytes('\n')
		part = append(part, b...)
		switch {
		case err == nil:
			if err := each(bytes.Clone(part)); err != nil {
				return err
			}
			part = part[:0]
			continue
		case !errors.Is(err, io.EOF):
			return err
		case len(part) > MaxLine:
			return fmt.Errorf("%s: a line of more than %d bytes", Path(dir, n), MaxLine)
		}
		files, err := List(dir)
		if err != nil {
			return err
		}
		if last := files[len(files)-1].Number; last > n && len(part) == 0 {
			in.Close()
			in, n = nil, n+1
			continue
		}
		if !wait(ctx, t) {
			return nil
		}
	}
}

func wait(ctx context.Context, t *time.Ticker) bool {
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
