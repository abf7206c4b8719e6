package term

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
)

// Refusals of Confirm.
var (
	ErrNoTerminal   = errors.New("this needs a confirmation, and there is no terminal to ask at; add --yes")
	ErrNotConfirmed = errors.New("not confirmed: nothing was done")
)

// Confirm asks the person at the terminal to type word before something that
// cannot be undone. Errors: ErrNoTerminal, ErrNotConfirmed, ctx's.
func (s *Streams) Confirm(ctx context.Context, question, word string) error {
	if !s.InTTY {
		return ErrNoTerminal
	}
	s.Sayf("%s\nType %s to confirm: ", Clean(question), Clean(word))
	line, err := bufio.NewReader(&reader{ctx, s.In}).ReadString('\n')
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case strings.TrimSpace(line) != word:
		return ErrNotConfirmed
	}
	return nil
}
