package lifecycle

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

func versionCmd(a *app.App) *cobra.Command {
	cmd := app.Group(&cobra.Command{
		Use:     "version",
		Aliases: []string{"versions"},
		Short:   "Suspend, resume, revoke, destroy and restore versions of keys",
		Long: `Suspends, resumes, revokes, destroys and restores versions of keys. (The version
of this program: keyhole --version.)`,
		Example: `  keyhole version suspend payments.v3 --reason "incident 17"`,
	},
		versionAct(a, "suspend", "Take a version out of use until it is resumed",
			`Takes a version out of use, under suspicion, until it is resumed: it does not
sign, verify, encrypt or decrypt. If it was the active one and its predecessor
is still in its overlap, that one is active in the meantime.`, (*client.Client).Suspend),
		versionAct(a, "resume", "Undo suspend", `Puts a suspended version back to where its timeline has it.`, (*client.Client).Resume),
		revokeCmd(a), destroyCmd(a),
		versionAct(a, "restore", "Undo destroy while there still is time",
			`Takes back the order to destroy a version, as long as its destroy delay has not
passed: it is again what it was, or what its timeline has made of it since.`, (*client.Client).Restore))
	return cmd
}

type versionCall func(c *client.Client, ctx context.Context, id keys.VersionID, req api.VersionActRequest) (api.Key, error)

func versionAct(a *app.App, act, short, long string, do versionCall) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     act + " KEY.vN",
		Short:   short,
		Long:    long,
		Example: fmt.Sprintf("  keyhole version %s payments.v3 --reason \"incident 17\"", act),
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := app.VersionArg(args[0])
			if err != nil {
				return err
			}
			return actOn(a, cmd, id, reason, do)
		},
		ValidArgsFunction: a.CompleteVersions,
	}
	show.ReasonFlag(cmd, &reason)
	return cmd
}

func actOn(a *app.App, cmd *cobra.Command, id keys.VersionID, reason string, do versionCall) error {
	k, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Key, error) {
		return do(c, ctx, id, api.VersionActRequest{Reason: reason})
	})
	if err != nil {
		return err
	}
	v, err := show.Version(k, id)
	if err != nil {
		return err
	}
	return a.Print(k, func(w io.Writer) error {
		return app.Line("%s is %s; the active version of %s is %s", v.KeyID, v.State, k.Name, show.Active(k))(w)
	})
}

func revokeCmd(a *app.App) *cobra.Command {
	var yes bool
	var reason string
	cmd := &cobra.Command{
		Use:   "revoke KEY.vN",
		Short: "Declare a version compromised, at once and for good",
		Long: `Declares a version compromised, at once and for good: its signatures are not
valid any more, its ciphertexts do not open for agents, and it never comes
back. If it was the active one, a successor is generated and activated.

It asks for confirmation and says who uses the version; scripts give --yes.`,
		Example: `  keyhole version revoke payments.v3 --reason "incident 17: key custodian's laptop stolen"
  keyhole version revoke payments.v3 --reason "incident 17" --yes`,
		Args:        app.Operands,
		Annotations: map[string]string{app.Slow: "revoking"},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := app.VersionArg(args[0])
			if err != nil {
				return err
			}
			err = show.Confirm(a, cmd, yes, id.String(), func(ctx context.Context, c *client.Client) string {
				return fmt.Sprintf("Revoking %s cannot be undone: its signatures stop being valid and its ciphertexts stop opening, everywhere. %s",
					id, show.Users(ctx, c, id, time.Now()))
			})
			if err != nil {
				return err
			}
			return actOn(a, cmd, id, reason, (*client.Client).Revoke)
		},
		ValidArgsFunction: a.CompleteVersions,
	}
	show.ReasonFlag(cmd, &reason)
	show.YesFlag(cmd, &yes)
	return cmd
}

func destroyCmd(a *app.App) *cobra.Command {
	var yes bool
	var req api.DestroyRequest
	cmd := &cobra.Command{
		Use:   "destroy KEY.vN",
		Short: "Order the destruction of a version in the HSM",
		Long: `Orders the destruction of a version that is not the active one. It is out of use
at once, and destroyed in the HSM when the key's destroy delay (24 h at least)
has passed; until then keyhole version restore undoes it.

A version that somebody used lately is refused; keyhole usage shows who.
--force with a --reason overrides that. Where the gateway wants two people for
it, and always with --force, nothing is done yet: the command ends with exit
code 10, and prints what another person has to enter.

It asks for confirmation and says who uses the version; scripts give --yes.`,
		Example: `  keyhole version destroy payments.v3 --reason "replaced a year ago"
  keyhole version destroy payments.v3 --reason "till-7 is scrap" --force --yes`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := app.VersionArg(args[0])
			if err != nil {
				return err
			}
			err = show.Confirm(a, cmd, yes, id.String(), func(ctx context.Context, c *client.Client) string {
				return fmt.Sprintf("Destroying %s: what it signed is not verified by the gateway any more, and what it encrypted is lost, at once, and for good when its destroy delay has passed. %s",
					id, show.Users(ctx, c, id, time.Now()))
			})
			if err != nil {
				return err
			}
			res, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.ActResult, error) { return c.Destroy(ctx, id, req) })
			if err != nil {
				return err
			}
			return show.Act(a, res, func(k api.Key) string {
				v, err := show.Version(k, id)
				if err != nil {
					return id.String() + " is gone"
				}
				return fmt.Sprintf("%s is %s; it will be destroyed at %s, until then keyhole version restore %s undoes it", v.KeyID, v.State, app.Stamp(v.DestroyAt.Time), v.KeyID)
			})
		},
		ValidArgsFunction: a.CompleteVersions,
	}
	show.ReasonFlag(cmd, &req.Reason)
	cmd.Flags().BoolVar(&req.Force, "force", false, "override what speaks against it; needs --reason")
	show.YesFlag(cmd, &yes)
	return cmd
}
