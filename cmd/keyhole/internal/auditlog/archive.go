package auditlog

import (
	"io"

	"github.com/spf13/cobra"

	"keyhole/audit/archive"
	"keyhole/cmd/keyhole/internal/app"
)

func archiveCmd(a *app.App) *cobra.Command {
	var keysFile string
	var o archive.Options
	cmd := &cobra.Command{
		Use:   "archive DIR",
		Short: "Compress sealed segments, or move them away",
		Long: `Compresses the segments of the log in DIR that are sealed and vouched for by a
checkpoint, where they are, or with --to moves them compressed into another directory.
Each line is checked against the Merkle tree before, and again in the copy. A gateway
may be writing the log. What remains can still be verified; segments that an exporter
has not sent yet are not moved.

Keep what was moved: to verify the whole history lay the segments beside the others.`,
		Example: `  keyhole audit archive audit --key audit-keys.pem
  keyhole audit archive audit --key audit-keys.pem --to /mnt/archive/keyhole --keep 7`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Dir = args[0]
			if o.Keep < 0 {
				return app.Usagef("--keep is %d; it cannot be below 0", o.Keep)
			}
			var err error
			if o.Keys, err = readKeys(keysFile); err != nil {
				return err
			}
			stop := a.Streams.Waiting("archiving " + o.Dir)
			done, err := archive.Log(cmd.Context(), o)
			stop()
			if err != nil {
				return err
			}
			return a.Print(map[string]any{"archived": done}, func(w io.Writer) error {
				for _, s := range done {
					if err := say(w, "%s: records %d to %d, %d bytes became %d", s.Path, s.First, s.Last, s.Before, s.After); err != nil {
						return err
					}
				}
				if len(done) == 0 {
					return say(w, "There is nothing to archive.")
				}
				return nil
			})
		},
	}
	directory(cmd)
	keysFlag(cmd, &keysFile)
	cmd.Flags().StringVar(&o.To, "to", "", "move the segments into `DIR`")
	cmd.Flags().IntVar(&o.Keep, "keep", 0, "leave the newest `N` sealed segments alone")
	_ = cmd.RegisterFlagCompletionFunc("to", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	})
	app.Complete(cmd, "keep")
	return cmd
}
