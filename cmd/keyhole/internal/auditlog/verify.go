package auditlog

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"keyhole/audit/checkpoint"
	"keyhole/audit/verify"
	"keyhole/cmd/keyhole/internal/app"
)

func verifyCmd(a *app.App) *cobra.Command {
	var keysFile string
	var since []string
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Check that nothing in an audit log was changed",
		Long: `Checks every line of the log in DIR against its Merkle tree, the signature of
every checkpoint, and that each checkpoint goes on from the one before. Names the
first line that was altered, inserted, moved or taken away.

A log can be cut together with its checkpoints. --since-checkpoint holds it against
one that was kept elsewhere: by a copy of the file "checkpoints", by an auditor, in
the SIEM. It may be repeated, and a file may hold many.

Exit code 0: the log is what was signed for. 3: it is not; what is wrong was printed.
1 and 2: it could not be checked.`,
		Example: `  keyhole audit verify audit --key audit-keys.pem
  keyhole audit verify audit --key audit-keys.pem --since-checkpoint last-audit.checkpoint -o json`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			o := verify.Options{Dir: args[0]}
			var err error
			if o.Keys, err = readKeys(keysFile); err != nil {
				return err
			}
			for _, path := range since {
				notes, err := readCheckpoints(path)
				if err != nil {
					return err
				}
				o.Since = append(o.Since, notes...)
			}
			stop := a.Streams.Waiting("verifying " + o.Dir)
			r, err := verify.Log(cmd.Context(), o)
			stop()
			if err != nil {
				return err
			}
			if err := a.Print(r, func(w io.Writer) error { return writeResult(w, r) }); err != nil {
				return err
			}
			if len(r.Findings) > 0 {
				return app.Silent{Code: app.ExitInvalid}
			}
			return nil
		},
	}
	directory(cmd)
	keysFlag(cmd, &keysFile)
	cmd.Flags().StringArrayVar(&since, "since-checkpoint", nil, "`FILE` of checkpoints that were kept elsewhere; may be repeated")
	return cmd
}

// readCheckpoints reads a file of signed notes; a last one that lacks the
// empty line behind it counts.
func readCheckpoints(path string) ([][]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, app.Usagef("the checkpoint: %s", err)
	}
	b = append(bytes.TrimRight(b, "\n"), "\n\n"...)
	var notes [][]byte
	for n, err := range checkpoint.Notes(bytes.NewReader(b), nil) {
		if err != nil {
			return nil, app.Usagef("%s: %s", path, err)
		}
		notes = append(notes, n.Signed)
	}
	if len(notes) == 0 {
		return nil, app.Usagef("%s holds no checkpoint", path)
	}
	return notes, nil
}

func writeResult(w io.Writer, r *verify.Result) error {
	var text strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&text, "%s: %s\n", strings.ToUpper(string(f.Kind)), f.Text)
	}
	if len(r.Findings) > 0 {
		fmt.Fprintf(&text, "\nThis log is NOT what was signed for. Up to record %d it agrees with a checkpoint.\n", r.Vouched)
		return say(w, "%s", strings.TrimSuffix(text.String(), "\n"))
	}
	fmt.Fprintf(&text, "The log %s is good: %d records", r.Origin, r.Records)
	if r.Archived > 0 {
		fmt.Fprintf(&text, ", the first %d of them archived (their hashes were checked)", r.Archived)
	}
	fmt.Fprintf(&text, ".\n%d checkpoints vouch for the first %d.", r.Checkpoints, r.Vouched)
	if n := r.Records - r.Vouched; n > 0 {
		fmt.Fprintf(&text, " Nobody vouches yet for the last %d.", n)
	}
	if r.Torn {
		text.WriteString("\nThe last line has no end yet: the log is being written, or there was a crash.")
	}
	return say(w, "%s", text.String())
}
