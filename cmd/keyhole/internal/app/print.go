package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyhole/cmd/keyhole/internal/term"
)

// Print writes an answer: as the API's own body, or as text.
func (a *App) Print(body any, text func(w io.Writer) error) error {
	if a.flags.output == outputJSON {
		return PrintJSON(a.Streams.Out, body)
	}
	return text(a.Streams.Out)
}

// PrintJSON writes JSON for people and programs.
func PrintJSON(w io.Writer, body any) error { return writeJSON(w, body, "  ") }

// PrintJSONLine writes JSON on one line.
func PrintJSONLine(w io.Writer, body any) error { return writeJSON(w, body, "") }

func writeJSON(w io.Writer, body any, indent string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", indent)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		return err
	}
	_, err := w.Write(term.CleanJSON(b.Bytes()))
	return err
}

// Line prints one line of text.
func Line(format string, args ...any) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := fmt.Fprintln(w, term.Clean(fmt.Sprintf(format, args...)))
		return err
	}
}

// OutFlag adds -O to a command whose result is bytes.
func OutFlag(cmd *cobra.Command, path *string, what string) {
	cmd.Flags().StringVarP(path, "out", "O", "", "write "+what+" to `FILE`, the bytes alone (-: to standard output)")
}

// CheckOut refuses -O beside -o json, which would be two answers.
func (a *App) CheckOut(path string) error {
	if path != "" && a.flags.output == outputJSON {
		return Usagef("-O FILE and -o json exclude each other")
	}
	return nil
}

// Stamp writes a time as RFC 3339 in UTC, to the second; "-" for none.
func Stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// Or returns text, or a dash where there is none.
func Or(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// TagsText writes tags in order of their names.
func TagsText(tags map[string]string) string {
	all := make([]string, 0, len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, k+"="+tags[k])
	}
	return Or(strings.Join(all, " "))
}
