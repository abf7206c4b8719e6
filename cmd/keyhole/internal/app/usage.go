package app

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageError is a command line that makes no sense.
type usageError struct {
	text string
	cmd  *cobra.Command // whose help to read; nil: none
}

func (e *usageError) Error() string {
	if e.cmd == nil {
		return e.text
	}
	return fmt.Sprintf("%s; see %s --help", e.text, e.cmd.CommandPath())
}

// Usagef says what is wrong with the command line or the input.
func Usagef(format string, args ...any) error { return &usageError{text: fmt.Sprintf(format, args...)} }

// Group makes a command that holds others: by itself it shows its help, and
// it knows better when a subcommand is misspelt.
func Group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		text := fmt.Sprintf("there is no command %q", cmd.CommandPath()+" "+args[0])
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			text += "; did you mean " + strings.Join(near, " or ") + "?"
		}
		return errors.New(text)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(subs...)
	return cmd
}

// Operands accepts as many operands as the names in cmd.Use, of which those
// in brackets may be left out, and those with dots repeated.
func Operands(cmd *cobra.Command, args []string) error {
	var need, most int
	var missing string
	line := strings.TrimSuffix(cmd.UseLine(), " [flags]")
	for _, word := range strings.Fields(cmd.Use)[1:] {
		if most++; strings.HasSuffix(strings.TrimSuffix(word, "]"), "...") {
			most = math.MaxInt
		}
		if !strings.HasPrefix(word, "[") {
			if need++; need == len(args)+1 {
				missing = word
			}
		}
	}
	switch {
	case missing != "":
		return fmt.Errorf("%s is missing: %s", missing, line)
	case len(args) > most:
		return fmt.Errorf("%q is one operand too many: %s", args[most], line)
	}
	return nil
}

// flagError adds to an unknown flag the one that was probably meant.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	best, least := "", 3
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if d := distance(f.Name, unknown.GetSpecifiedName()); d < least && !f.Hidden {
			best, least = f.Name, d
		}
	})
	if best == "" {
		return err
	}
	return fmt.Errorf("%w; did you mean --%s?", err, best)
}

// distance is the number of changed, missing and added letters between two
// words (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// Complete offers the words to the shell as values of a flag.
func Complete(cmd *cobra.Command, flag string, words ...string) {
	// It fails for a flag that does not exist, or twice for one: the tests
	// look at each flag's completion.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(slices.Clone(words), cobra.ShellCompDirectiveNoFileComp))
}
