package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
)

// print writes an answer: as the API's own body, or as text.
func (a *app) print(body any, text func(w io.Writer) error) error {
	if a.flags.output == outputJSON {
		return printJSON(a.Streams.Out, body)
	}
	return text(a.Streams.Out)
}

func printJSON(w io.Writer, body any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(body)
}

// line prints one line of text.
func line(format string, args ...any) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := fmt.Fprintln(w, term.Clean(fmt.Sprintf(format, args...)))
		return err
	}
}

// outFlag adds -O to a command whose result is bytes.
func outFlag(cmd *cobra.Command, path *string, what string) {
	cmd.Flags().StringVarP(path, "out", "O", "", "write "+what+" to `FILE`, the bytes alone (-: to standard output)")
}

// checkOut refuses -O beside -o json, which would be two answers.
func (a *app) checkOut(path string) error {
	if path != "" && a.flags.output == outputJSON {
		return usagef("-O FILE and -o json exclude each other")
	}
	return nil
}

// stamp writes a time as RFC 3339 in UTC, to the second; "-" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// or returns text, or a dash where there is none.
func or(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func tagsText(tags map[string]string) string {
	all := make([]string, 0, len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, k+"="+tags[k])
	}
	return or(strings.Join(all, " "))
}

func periodText(d api.Duration) string {
	switch day := 24 * time.Hour; {
	case d.Std() == 0:
		return "never"
	case d.Std()%day == 0:
		return fmt.Sprintf("%dd", d.Std()/day)
	}
	return d.Std().String()
}
