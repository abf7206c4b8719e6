package admin

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/show"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func keyCmd(a *app.App) *cobra.Command {
	return app.Group(&cobra.Command{
		Use:     "key",
		Aliases: []string{"keys"},
		Short:   "List, show, create, change, delete and restore keys",
		Long:    "Lists, shows, creates, changes, deletes and restores keys.",
		Example: `  keyhole key create payments --algorithm ES256`,
	}, keyListCmd(a), keyShowCmd(a), keyPublicCmd(a), keyCreateCmd(a), keyUpdateCmd(a), keyDeleteCmd(a), keyRestoreCmd(a))
}

func keyListCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the keys that you may see",
		Long:    "Lists the keys that you may see, in order of their names.",
		Example: `  keyhole key list
  keyhole key list -o json | jq -r '.keys[].name'`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.KeyList, error) {
				all := api.KeyList{Keys: []api.Key{}}
				for after := ""; ; {
					list, err := c.KeysPage(ctx, after, 0)
					if err != nil {
						return all, err
					}
					all.Keys = append(all.Keys, list.Keys...)
					all.Damaged = append(all.Damaged, list.Damaged...)
					if list.Next <= after { // names grow from page to page
						return all, nil
					}
					after = list.Next
				}
			})
			if err != nil {
				return err
			}
			return a.Print(list, func(w io.Writer) error {
				rows := [][]string{{"NAME", "PURPOSE", "ALGORITHM", "ACTIVE", "VERSIONS", "TOKEN", "TAGS"}}
				for _, k := range list.Keys {
					rows = append(rows, []string{k.Name, k.Purpose, k.Algorithm, show.Active(k), fmt.Sprint(len(k.Versions)), k.Token, app.TagsText(k.Tags)})
				}
				if err := term.Table(w, rows...); err != nil || len(list.Damaged) == 0 {
					return err
				}
				return app.Line("DAMAGED, what is stored of them was altered, nothing is done with them: %s", strings.Join(list.Damaged, " "))(w)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func keyShowCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "show KEY",
		Short:   "Show a key and its versions",
		Long:    "Shows a key and its versions, newest first. -o json also holds the public keys.",
		Example: `  keyhole key show payments`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Key, error) { return c.Key(ctx, args[0]) })
			if err != nil {
				return err
			}
			return a.Print(k, show.Key(k))
		},
		ValidArgsFunction: a.CompleteKeys,
	}
}

func keyPublicCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:   "public KEY[.vN]",
		Short: "Print the public key of a version, as PEM",
		Long: `Prints the public key of version N of KEY (of the active version if left out)
as PEM, for openssl and others. -o json prints the description of the version.`,
		Example: `  keyhole key public payments.v3 > payments.v3.pem
  openssl dgst -sha256 -verify payments.v3.pem -signature invoice.sig invoice.txt`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := app.KeyOrVersion(args[0])
			if err != nil {
				return err
			}
			k, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Key, error) { return c.Key(ctx, id.Key) })
			if err != nil {
				return err
			}
			v, err := show.Version(k, id)
			if err != nil {
				return err
			}
			if v.PublicKey == "" {
				return keys.Errorf(keys.ErrWrongPurpose, "%s is a secret key (%s): there is no public key", v.KeyID, v.Algorithm)
			}
			return a.Print(v, func(w io.Writer) error {
				_, err := io.WriteString(w, v.PublicKey)
				return err
			})
		},
		ValidArgsFunction: a.CompleteKeys,
	}
}
