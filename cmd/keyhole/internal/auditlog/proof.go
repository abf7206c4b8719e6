package auditlog

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"keyhole/audit"
	"keyhole/audit/checkpoint"
	"keyhole/audit/verify"
	"keyhole/cmd/keyhole/internal/app"
)

func proveCmd(a *app.App) *cobra.Command {
	var under, out string
	cmd := &cobra.Command{
		Use:   "prove [DIR] SEQ",
		Short: "Make the proof that a record is in the log",
		Long: `Writes a proof file (c2sp.org/tlog-proof) for the record SEQ of the log in DIR: the
record, its path in the Merkle tree and the checkpoint that vouches for it. Who has
the public audit keys can check it without the log: keyhole audit verify-proof.

Without DIR the gateway makes the proof, under a checkpoint that it signs if none
vouches for the record yet.`,
		Example: `  keyhole audit prove audit 4711 -O record.proof
  keyhole audit prove 4711 -O record.proof`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.CheckOut(out); err != nil {
				return err
			}
			seq, err := strconv.ParseUint(args[len(args)-1], 10, 63)
			if err != nil {
				return app.Usagef("%q is no record's number; take the \"seq\" of its line", args[len(args)-1])
			}
			if len(args) == 1 {
				if under != "" {
					return app.Usagef("--checkpoint needs DIR: the gateway proves under its last one")
				}
				return proveByGateway(a, cmd, seq, out)
			}
			var signed []byte
			if under != "" {
				notes, err := readCheckpoints(under)
				if err != nil {
					return err
				}
				signed = notes[len(notes)-1]
			}
			p, err := verify.Prove(args[0], seq, signed)
			if err != nil {
				return err
			}
			return writeDocument(a, out, p.Marshal())
		},
	}
	directory(cmd)
	app.OutFlag(cmd, &out, "the proof")
	cmd.Flags().StringVar(&under, "checkpoint", "", "`FILE` of the checkpoint to prove it under (default: the log's last one)")
	return cmd
}

// proved is the answer of verify-proof.
type proved struct {
	Valid  bool          `json:"valid"`
	Reason string        `json:"reason,omitempty"`
	Origin string        `json:"origin,omitempty"`
	Size   int64         `json:"size,omitempty"` // of the log that the checkpoint vouches for
	Record *audit.Record `json:"record,omitempty"`
}

func verifyProofCmd(a *app.App) *cobra.Command {
	var keysFile string
	cmd := &cobra.Command{
		Use:     "verify-proof FILE",
		Short:   "Check a proof by the public audit keys alone",
		Long:    "Checks a proof file and prints the record that it proves. Exit code 3: it proves nothing.",
		Example: `  keyhole audit verify-proof record.proof --key audit-keys.pem`,
		Args:    app.Operands,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			known, err := readKeys(keysFile)
			if err != nil {
				return err
			}
			file, err := a.Streams.Read(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var out proved
			p, err := verify.ParseProof(file)
			var r audit.Record
			var c checkpoint.Checkpoint
			if err == nil {
				r, c, err = p.Check(known)
			}
			if err == nil {
				out = proved{Valid: true, Origin: c.Origin, Size: c.Size, Record: &r}
			} else {
				out.Reason = err.Error()
			}
			if err := a.Print(out, func(w io.Writer) error {
				if !out.Valid {
					return say(w, "NOT valid: %s", out.Reason)
				}
				return say(w, "valid: the log %s with %d records holds this one:\n%s", out.Origin, out.Size, strings.TrimSuffix(string(p.Line), "\n"))
			}); err != nil {
				return err
			}
			if !out.Valid {
				return app.Silent{Code: app.ExitInvalid}
			}
			return nil
		},
	}
	keysFlag(cmd, &keysFile)
	return cmd
}

// exists refuses a directory that is not there before anything waits for it.
func exists(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = errors.New(dir + " is not the directory of an audit log")
	}
	if err != nil {
		return app.Usagef("%s", err)
	}
	return nil
}
