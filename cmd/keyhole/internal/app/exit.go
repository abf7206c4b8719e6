package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/keys"
)

// The exit codes. Scripts rely on them.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitUsage       = 2
	ExitInvalid     = 3
	ExitRefused     = 4
	ExitNotFound    = 5
	ExitConflict    = 6
	ExitUnavailable = 7
	ExitItems       = 8
	ExitAborted     = 9
	ExitPending     = 10
	ExitInterrupted = 130
)

// ExitHelp describes the exit codes.
const ExitHelp = `  0    done
  1    any other error
  2    wrong usage or input: unknown command or flag, bad argument, a request that makes no sense
  3    not authentic: verify answered "not valid", or a ciphertext does not open
  4    refused: not authenticated, or not allowed by policy
  5    no such key, version or rotation, or none that you may see
  6    not possible now: the name is taken, the version's state forbids it, a rotation runs, changed meanwhile
  7    the gateway or its HSM cannot be reached, is overloaded or took too long: try again later
  8    a batch, trigger or repair went through, and some of its items failed
  9    the rotation that was waited for was aborted
  10   nothing is done yet: another person must approve it first
  130  interrupted (Ctrl-C); 143 terminated
`

// Silent is an end whose reason was already printed as the answer.
type Silent struct{ Code int }

func (s Silent) Error() string { return fmt.Sprintf("exit code %d", s.Code) }

// Left is an interruption that leaves something going on.
type Left struct{ Text string }

func (l *Left) Error() string { return l.Text }

// Unwrap returns context.Canceled.
func (l *Left) Unwrap() error { return context.Canceled }

// exitTable maps errors to codes: the first row with an error that it is
// decides.
var exitTable = []struct {
	code int
	errs []error
}{
	{ExitRefused, []error{keys.ErrUnauthenticated, keys.ErrForbidden}},
	{ExitInvalid, []error{keys.ErrDecrypt}},
	{ExitNotFound, []error{keys.ErrKeyNotFound, keys.ErrVersionNotFound, keys.ErrNotFound}},
	{ExitConflict, []error{keys.ErrKeyExists, keys.ErrKeyRetired, keys.ErrConflict, keys.ErrRotationRunning, keys.ErrVersionState, keys.ErrNoActiveVersion, keys.ErrNotSubscribed, keys.ErrInUse}},
	{ExitUnavailable, []error{
		keys.ErrRateLimited, keys.ErrOverloaded, keys.ErrTimeout, keys.ErrHSM, keys.ErrAudit, keys.ErrStore, keys.ErrStale, keys.ErrTampered, context.DeadlineExceeded,
	}},
	{ExitUsage, []error{
		keys.ErrMalformed, keys.ErrInvalid, keys.ErrWrongPurpose, keys.ErrUnsupported, keys.ErrTooLarge, keys.ErrMediaType, keys.ErrMethod,
		term.ErrInput, term.ErrBinary, term.ErrNoTerminal,
	}},
}

// exitCode returns the code that an error ends the program with.
func exitCode(err error) int {
	var said Silent
	var usage *usageError
	var items *ItemsError
	var conn *client.ConnError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &said):
		return said.Code
	case errors.As(err, &items):
		return ExitItems
	case errors.As(err, &usage):
		return ExitUsage
	case errors.Is(err, context.Canceled):
		return ExitInterrupted
	}
	for _, row := range exitTable {
		for _, e := range row.errs {
			if errors.Is(err, e) {
				return row.code
			}
		}
	}
	if errors.As(err, &conn) {
		return ExitUnavailable
	}
	return ExitError
}

// Report writes the one line about a command's error and returns the exit
// code. What came before the command's own code began was about its usage.
func (a *App) Report(ctx context.Context, cmd *cobra.Command, err error) int {
	if err != nil && !a.running {
		err = &usageError{text: err.Error(), cmd: cmd}
	}
	code := exitCode(err)
	var said Silent
	switch {
	case err == nil || errors.As(err, &said):
		return code
	case ctx.Err() != nil:
		text := "interrupted"
		var left *Left
		if errors.As(err, &left) {
			text += ": " + left.Text
		}
		a.Streams.Sayf("keyhole: %s\n", term.Clean(text))
		return ExitInterrupted
	}
	line := errorText(err)
	if hint := a.hint(ctx, err); hint != "" {
		line += "; " + hint
	}
	a.Streams.Sayf("keyhole: %s\n", term.Clean(line))
	return code
}

// errorText is what people need of an error: the gateway's words rather than
// the way to them.
func errorText(err error) string {
	var batch *Stopped
	var usage *usageError
	var refused *client.Error
	var conn *client.ConnError
	var said *keys.Error
	switch {
	case errors.As(err, &batch):
		return batch.Error()
	case errors.As(err, &usage):
		return usage.Error()
	case errors.As(err, &refused):
		return refused.Error()
	case errors.As(err, &conn):
		return conn.Error()
	case errors.As(err, &said):
		return said.Detail
	}
	return err.Error()
}

// Unavailable reports whether err may pass by itself: the gateway or its HSM
// cannot be reached, is overloaded or took too long.
func Unavailable(err error) bool { return exitCode(err) == ExitUnavailable }
