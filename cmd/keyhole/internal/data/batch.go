package data

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
)

func batchFlag(cmd *cobra.Command, batch *bool) {
	cmd.Flags().BoolVar(batch, "batch", false,
		"FILE holds one request of the API as JSON a line; answers go out the same way, {\"result\":...} or {\"error\":...} a line (exit code 8 if an item failed)")
}

// Bounds of what goes out in one request; the gateway takes no more items,
// and a body of this size unless it is set up tighter.
const (
	batchItems = api.MaxBatch
	batchBytes = 512 << 10
)

// runBatch sends the lines of FILE in batches and writes one line of answer
// for each, in order. An input of any length takes little memory. spoilt says
// which results are bad news (nil: none is).
func runBatch[In, Out any](a *app.App, cmd *cobra.Command, args []string,
	send func(c *client.Client, ctx context.Context, key string, items []In) ([]api.BatchItem[Out], error), spoilt func(*Out) bool,
) error {
	if err := aloneFlag(cmd, "batch"); err != nil {
		return err
	}
	c, err := a.Connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx := cmd.Context()
	in, err := a.Streams.Open(ctx, app.FileArg(args, 1))
	if err != nil {
		return err
	}
	defer in.Close()

	lines := lineReader{path: app.FileArg(args, 1), r: bufio.NewReaderSize(in, 64<<10)}
	out := bufio.NewWriter(a.Streams.Out)
	var done, failed, bad int
	for {
		items, rerr := readItems[In](&lines)
		if len(items) > 0 {
			results, err := send(c, ctx, args[0], items)
			if err != nil {
				return &app.Stopped{Done: done, Err: err}
			}
			for _, r := range results {
				switch {
				case r.Error != nil:
					failed++
				case spoilt != nil && spoilt(r.Result):
					bad++
				}
				if err := app.PrintJSONLine(out, r); err != nil {
					return err
				}
			}
			if err := out.Flush(); err != nil {
				return err
			}
			done += len(items)
		}
		switch {
		case errors.Is(rerr, io.EOF):
			return batchEnd(done, failed, bad)
		case ctx.Err() != nil:
			return ctx.Err()
		case rerr != nil:
			return &app.Stopped{Done: done, Err: rerr}
		}
	}
}

// batchEnd is the end of a batch that went through.
func batchEnd(done, failed, bad int) error {
	switch {
	case failed > 0:
		return &app.ItemsError{Failed: failed, Done: done}
	case bad > 0:
		return app.Silent{Code: app.ExitInvalid}
	}
	return nil
}

// lineReader reads lines and counts them.
type lineReader struct {
	path string
	r    *bufio.Reader
	n    int
	back []byte // a line put back
}

// next returns the next line that is not blank. The error is io.EOF at the
// end.
func (l *lineReader) next() ([]byte, error) {
	if line := l.back; line != nil {
		l.back = nil
		return line, nil
	}
	for {
		var line []byte
		for more := true; more; {
			part, err := l.r.ReadSlice('\n')
			line = append(line, part...)
			switch {
			case len(line) > term.MaxInput:
				return nil, fmt.Errorf("%w: line %d of %s has more than %d bytes", term.ErrInput, l.n+1, term.Name(l.path), term.MaxInput)
			case err != nil && !errors.Is(err, bufio.ErrBufferFull) && (!errors.Is(err, io.EOF) || len(line) == 0):
				return nil, err
			}
			more = errors.Is(err, bufio.ErrBufferFull)
		}
		l.n++
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return line, nil
		}
	}
}

// readItems reads the items of one request: as many as fit. What was read
// before an error is returned with it.
func readItems[In any](l *lineReader) ([]In, error) {
	var items []In
	for size := 0; len(items) < batchItems; {
		line, err := l.next()
		if err != nil {
			return items, err
		}
		if size > 0 && size+len(line) > batchBytes {
			l.back = line
			break
		}
		size += len(line)
		item, err := decodeLine[In](line)
		if err != nil {
			return items, fmt.Errorf("%w: line %d of %s is not one request as JSON: %w", term.ErrInput, l.n, term.Name(l.path), err)
		}
		items = append(items, item)
	}
	return items, nil
}

func decodeLine[In any](line []byte) (item In, err error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&item); err != nil {
		return item, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return item, errors.New("something follows it")
	}
	return item, nil
}

// aloneFlag refuses other flags of the command beside this one.
func aloneFlag(cmd *cobra.Command, name string) error {
	var other string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != name && cmd.InheritedFlags().Lookup(f.Name) == nil {
			other = f.Name
		}
	})
	if other != "" {
		return app.Usagef("--%s and --%s exclude each other: the lines say it for each item", name, other)
	}
	return nil
}
