package admin

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func versionCmd(a *app.App) *cobra.Command {
	cmd := app.Group(&cobra.Command{
		Use:     "version",
		Aliases: []string{"versions"},
		Short:   "Suspend, resume and revoke versions of keys",
		Long: `Suspends, resumes and revokes versions of keys. (The version of this program:
keyhole --version.)`,
		Example: `  keyhole version suspend payments.v3 --reason "incident 17"`,
	},
		versionAct(a, "suspend", "Take a version out of use until it is resumed",
			`Takes a version out of use, under suspicion, until it is resumed: it does not
sign, verify, encrypt or decrypt. If it was the active one and its predecessor
is still in its overlap, that one is active in the meantime.`, (*client.Client).Suspend),
		versionAct(a, "resume", "Undo suspend", `Puts a suspended version back to where its timeline has it.`, (*client.Client).Resume),
		revokeCmd(a))
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
	reasonFlag(cmd, &reason)
	return cmd
}

func reasonFlag(cmd *cobra.Command, reason *string) {
	cmd.Flags().StringVar(reason, "reason", "", "why, in a few words: `TEXT` for the audit log")
	app.Complete(cmd, "reason")
}

func actOn(a *app.App, cmd *cobra.Command, id keys.VersionID, reason string, do versionCall) error {
	k, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Key, error) {
		return do(c, ctx, id, api.VersionActRequest{Reason: reason})
	})
	if err != nil {
		return err
	}
	v, err := versionIn(k, id)
	if err != nil {
		return err
	}
	return a.Print(k, func(w io.Writer) error {
		return app.Line("%s is %s; the active version of %s is %s", v.KeyID, v.State, k.Name, activeText(k))(w)
	})
}

// versionIn finds a version in a key's description; number 0 means the active
// one.
func versionIn(k api.Key, id keys.VersionID) (api.Version, error) {
	n := id.Number
	if n == 0 {
		n = k.ActiveVersion
	}
	if n == 0 {
		return api.Version{}, keys.Errorf(keys.ErrNoActiveVersion, "key %q has no active version; name one, as %s.vN", k.Name, k.Name)
	}
	for _, v := range k.Versions {
		if v.Version == n {
			return v, nil
		}
	}
	return api.Version{}, keys.Errorf(keys.ErrVersionNotFound, "key %q has no version %d", k.Name, n)
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

It asks for confirmation; scripts give --yes.`,
		Example: `  keyhole version revoke payments.v3 --reason "incident 17: key custodian's laptop stolen"
  keyhole version revoke payments.v3 --reason "incident 17" --yes`,
		Args:        app.Operands,
		Annotations: map[string]string{app.Slow: "revoking"},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := app.VersionArg(args[0])
			if err != nil {
				return err
			}
			if !yes {
				question := fmt.Sprintf("Revoking %s cannot be undone: its signatures stop being valid and its ciphertexts stop opening, everywhere.", id)
				if err := a.Streams.Confirm(cmd.Context(), question, id.String()); err != nil {
					return err
				}
			}
			return actOn(a, cmd, id, reason, (*client.Client).Revoke)
		},
		ValidArgsFunction: a.CompleteVersions,
	}
	reasonFlag(cmd, &reason)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
