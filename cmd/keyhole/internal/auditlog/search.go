package auditlog

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"keyhole/audit"
	"keyhole/audit/lookup"
	"keyhole/audit/segment"
	"keyhole/cmd/keyhole/internal/app"
)

// filter is what to show. Empty members match everything.
type filter struct {
	lookup.Filter
	since, until string
}

func (f *filter) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.Key, "key", "", "only records about the key `NAME`")
	fl.StringVar(&f.KeyID, "kid", "", "only records about the version `ID`, such as payments.v3")
	fl.StringVar(&f.Principal, "principal", "", "only records of `PRINCIPAL`")
	fl.StringVar(&f.Action, "action", "", "only records of `ACTION`, such as sign or rotate")
	fl.StringVar(&f.Outcome, "outcome", "", "only records with `OUTCOME`: ok, denied, error or intent")
	fl.StringVar(&f.RequestID, "request", "", "only records of the request `ID`")
	fl.StringVar(&f.since, "since", "", "only records from `TIME` on: RFC 3339, or a duration back from now such as 2h")
	fl.StringVar(&f.until, "until", "", "only records before `TIME`")
	for _, name := range []string{"key", "kid", "principal", "action", "request", "since", "until"} {
		app.Complete(cmd, name)
	}
	app.Complete(cmd, "outcome", audit.OutcomeOK, audit.OutcomeDenied, audit.OutcomeError, audit.OutcomeIntent)
}

func (f *filter) parse(now time.Time) error {
	for _, t := range []struct {
		name, text string
		at         *time.Time
	}{{"--since", f.since, &f.Since}, {"--until", f.until, &f.Until}} {
		if t.text == "" {
			continue
		}
		if d, err := time.ParseDuration(t.text); err == nil && d >= 0 {
			*t.at = now.Add(-d)
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			return app.Usagef("%s %q is no time; write 2026-01-31T12:00:00Z, or 2h for two hours ago", t.name, t.text)
		}
		*t.at = at
	}
	return nil
}

// show prints a line of the log: as it is, or for people.
func show(a *app.App, line []byte, r *audit.Record) error {
	if !a.Text() {
		_, err := a.Streams.Out.Write(line)
		return err
	}
	about := r.KeyID
	if about == "" {
		about = r.Key
	}
	text := fmt.Sprintf("%d  %s  %-6s  %-12s  %-20s  %s", r.Seq, r.Time.Format("2006-01-02T15:04:05.000Z"), r.Outcome, r.Action, about, r.Principal)
	if r.Reason != "" {
		text += "  (" + r.Reason + ")"
	}
	return say(a.Streams.Out, "%s", text)
}

func searchCmd(a *app.App) *cobra.Command {
	var f filter
	limit := 0
	cmd := &cobra.Command{
		Use:   "search [DIR]",
		Short: "Find records in an audit log",
		Long: `Prints the records of the log in DIR that every flag given agrees with, oldest
first; with -o json the lines as they are in the log. It does not verify them: see
keyhole audit verify.

Without DIR the gateway searches its log, newest first. Name the private key of a
client certificate by KEYHOLE_KEY then: --key is a key's name here.`,
		Example: `  keyhole audit search audit --key payments --action rotate
  keyhole audit search audit --principal jwt:corp:mallory --outcome denied --since 24h -o json | jq .reason`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return app.Usagef("--limit is %d; it cannot be below 0", limit)
			}
			if err := f.parse(time.Now()); err != nil {
				return err
			}
			if len(args) == 0 {
				return searchGateway(a, cmd, &f, limit)
			}
			if err := exists(args[0]); err != nil {
				return err
			}
			files, err := segment.List(args[0])
			if err != nil {
				return err
			}
			shown, may := 0, f.Sieve()
			for l, err := range segment.Lines(files) {
				if errors.Is(err, segment.ErrTorn) {
					break // it is being written
				}
				if err != nil {
					return err
				}
				if cmd.Context().Err() != nil {
					return cmd.Context().Err()
				}
				if !may(l.Bytes) {
					continue
				}
				r, err := audit.ParseLine(l.Bytes)
				if err != nil {
					return l.Errorf("%w", err)
				}
				if !f.Matches(&r) {
					continue
				}
				if err := show(a, l.Bytes, &r); err != nil {
					return err
				}
				if shown++; limit > 0 && shown == limit {
					break
				}
			}
			return nil
		},
	}
	directory(cmd)
	f.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 0, "stop after `N` records (0: none)")
	app.Complete(cmd, "limit")
	return cmd
}

func tailCmd(a *app.App) *cobra.Command {
	var f filter
	lines, follow := 10, false
	cmd := &cobra.Command{
		Use:   "tail DIR",
		Short: "Print the last records of an audit log, and with -f what comes",
		Long: `Prints the last records of the log in DIR that every flag given agrees with, and with
-f goes on with those that are written, also across segments, until Ctrl-C.`,
		Example: `  keyhole audit tail audit -f --outcome denied`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(exists(args[0]), f.parse(time.Now())); err != nil {
				return err
			}
			if lines < 0 {
				return app.Usagef("--lines is %d; it cannot be below 0", lines)
			}
			number, offset, err := showLast(a, args[0], lines, &f)
			if err != nil || !follow {
				return err
			}
			return segment.Follow(cmd.Context(), args[0], number, offset, func(line []byte) error {
				r, err := audit.ParseLine(line)
				if err != nil {
					return err
				}
				if !f.Matches(&r) {
					return nil
				}
				return show(a, line, &r)
			})
		},
	}
	directory(cmd)
	f.flags(cmd)
	cmd.Flags().IntVarP(&lines, "lines", "n", lines, "print the last `N` records that match")
	app.Complete(cmd, "lines")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with records as they are written, until Ctrl-C")
	return cmd
}

// showLast prints the last n records that match and returns where the log
// ended.
func showLast(a *app.App, dir string, n int, f *filter) (number int, offset int64, err error) {
	files, err := segment.List(dir)
	if err != nil {
		return 0, 0, err
	}
	type found struct {
		line []byte
		r    audit.Record
	}
	var last []found
	may := f.Sieve()
	// From the back, segment by segment, until there are enough.
	for i := len(files) - 1; i >= 0; i-- {
		var here []found
		for l, err := range segment.Lines(files[i : i+1]) {
			if errors.Is(err, segment.ErrTorn) {
				break
			}
			if err != nil {
				return 0, 0, err
			}
			if i == len(files)-1 {
				number, offset = files[i].Number, l.Offset+int64(len(l.Bytes))
			}
			if !may(l.Bytes) {
				continue
			}
			r, err := audit.ParseLine(l.Bytes)
			if err != nil {
				return 0, 0, l.Errorf("%w", err)
			}
			if f.Matches(&r) {
				here = append(here, found{append([]byte(nil), l.Bytes...), r})
			}
			if len(here) > 2*n+1000 {
				here = append(here[:0], here[len(here)-n:]...)
			}
		}
		last = append(here, last...)
		if len(last) >= n {
			break
		}
	}
	for _, l := range last[max(0, len(last)-n):] {
		if err := show(a, l.line, &l.r); err != nil {
			return 0, 0, err
		}
	}
	if len(files) > 0 && number == 0 {
		number = files[len(files)-1].Number
	}
	return number, offset, nil
}
