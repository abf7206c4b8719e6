// Package lifecycle holds the commands about rotations, versions and their
// use.
package lifecycle

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/show"
	"keyhole/cmd/keyhole/internal/units"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Commands returns the commands.
func Commands(a *app.App) []*cobra.Command {
	return []*cobra.Command{rotateCmd(a), rotationCmd(a), versionCmd(a), usageCmd(a)}
}

func rotateCmd(a *app.App) *cobra.Command {
	var req api.RotateRequest
	var activateAt, announce string
	var wait bool
	cmd := &cobra.Command{
		Use:   "rotate KEY",
		Short: "Make a key's next version and, when its time has come, activate it",
		Long: `Generates the next version of KEY in the HSM, publishes it, and activates it:
at once, or as the key's policy has it, behind an announce time and
acknowledgements of agents, which the gateway waits for by itself. The old
version signs and encrypts no more then, and goes on to verify and decrypt.
Agents notice nothing: they name the key, not the version.

With --wait the command stays until the rotation has ended, and shows how it
stands; it ends with exit code 0 if the new version is active, and 9 if the
rotation was aborted. Ctrl-C leaves the rotation running.`,
		Example: `  keyhole rotate payments
  keyhole rotate payments --reason personnel-change --algorithm ES384
  keyhole rotate payments --activate-at 2027-01-01T02:00:00Z --note "change 4711"
  keyhole rotate payments --wait`,
		Args:        app.Operands,
		Annotations: map[string]string{app.Slow: "generating a key in the HSM"},
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if activateAt != "" {
				at, err := units.Moment("--activate-at", activateAt, time.Now())
				if err != nil {
					return err
				}
				req.ActivateAt = api.At(at)
			}
			if cmd.Flags().Changed("announce") {
				d, err := units.Span("--announce", announce)
				if err != nil {
					return err
				}
				req.Announce = new(api.Duration(d))
			}
			r, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Rotation, error) { return c.Rotate(ctx, args[0], req) })
			if err != nil {
				return err
			}
			return printRotation(a, cmd, r, wait, func(r api.Rotation) func(io.Writer) error { return app.Line("%s", show.Outcome(r)) })
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	f := cmd.Flags()
	f.StringVar(&req.Reason, "reason", "", "`WORD` for the record: "+string(keys.ReasonManual)+" (default), "+strings.Join(app.Reasons()[1:], ", "))
	f.StringVar(&req.Note, "note", "", "a few words for the record: `TEXT`")
	f.StringVar(&req.Algorithm, "algorithm", "", "change the key's algorithm to `NAME`, within its purpose")
	f.IntVar(&req.Bits, "bits", 0, "change the `SIZE` of RSA keys: 2048, 3072 or 4096")
	f.StringVar(&activateAt, "activate-at", "", "switch at this `MOMENT`, such as 2027-01-01T02:00:00Z or +2h")
	f.StringVar(&announce, "announce", "", "`TIME` from publication to switch, in place of the policy's; 0s: none")
	waitFlag(cmd, &wait)
	app.Complete(cmd, "reason", app.Reasons()...)
	app.Complete(cmd, "note")
	app.Complete(cmd, "algorithm", app.Algorithms()...)
	app.Complete(cmd, "bits", "2048", "3072", "4096")
	app.Complete(cmd, "activate-at")
	app.Complete(cmd, "announce", "0s", "1h", "1d")
	return cmd
}

func waitFlag(cmd *cobra.Command, wait *bool) {
	cmd.Flags().BoolVar(wait, "wait", false, "stay until the rotation has ended, and show how it stands")
}
