package admin

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/show"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func keyDeleteCmd(a *app.App) *cobra.Command {
	var yes bool
	var req api.DestroyRequest
	cmd := &cobra.Command{
		Use:   "delete KEY",
		Short: "Order the destruction of a key and all its versions",
		Long: `Orders the destruction of KEY: every version is out of use at once, and destroyed
in the HSM when the key's destroy delay (24 h at least) has passed; until then
keyhole key restore undoes it. The name is never free again.

A key that somebody used lately is refused; keyhole usage shows who. --force
with a --reason overrides that. Where the gateway wants two people for it, and
always with --force, nothing is done yet: the command ends with exit code 10,
and prints what another person has to enter.

It asks for confirmation and says who uses the key; scripts give --yes.`,
		Example: `  keyhole key delete payments --reason "replaced by payments-eu"`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if err := keys.CheckName(name); err != nil {
				return err
			}
			err := show.Confirm(a, cmd, yes, name, func(ctx context.Context, c *client.Client) string {
				return fmt.Sprintf("Deleting %s: nothing is signed, verified, encrypted or decrypted with it any more, at once, and what it encrypted is lost for good when its destroy delay has passed. %s",
					name, show.Users(ctx, c, keys.VersionID{Key: name}, time.Now()))
			})
			if err != nil {
				return err
			}
			res, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.ActResult, error) { return c.DeleteKey(ctx, name, req) })
			if err != nil {
				return err
			}
			return show.Act(a, res, func(k api.Key) string {
				return fmt.Sprintf("%s will be destroyed at %s, until then keyhole key restore %s undoes it", k.Name, app.Stamp(k.DeleteAt.Time), k.Name)
			})
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	show.ReasonFlag(cmd, &req.Reason)
	cmd.Flags().BoolVar(&req.Force, "force", false, "override what speaks against it; needs --reason")
	show.YesFlag(cmd, &yes)
	return cmd
}

func keyRestoreCmd(a *app.App) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "restore KEY",
		Short: "Undo delete while there still is time",
		Long: `Takes back the order to destroy a key, as long as its destroy delay has not
passed: its versions are again what they were, or what their timeline has made
of them since.`,
		Example: `  keyhole key restore payments --reason "still needed"`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Key, error) {
				return c.RestoreKey(ctx, args[0], api.VersionActRequest{Reason: reason})
			})
			if err != nil {
				return err
			}
			return a.Print(k, func(w io.Writer) error {
				return app.Line("%s is restored; its active version is %s", k.Name, show.Active(k))(w)
			})
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	show.ReasonFlag(cmd, &reason)
	return cmd
}
