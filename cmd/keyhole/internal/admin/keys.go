package admin

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func keyCmd(a *app.App) *cobra.Command {
	return app.Group(&cobra.Command{
		Use:     "key",
		Aliases: []string{"keys"},
		Short:   "List, show, create and change keys",
		Long:    "Lists, shows, creates and changes keys.",
		Example: `  keyhole key create payments --algorithm ES256`,
	}, keyListCmd(a), keyShowCmd(a), keyPublicCmd(a), keyCreateCmd(a), keyUpdateCmd(a))
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
				for k, err := range c.Keys(ctx) {
					if err != nil {
						return all, err
					}
					all.Keys = append(all.Keys, k)
				}
				return all, nil
			})
			if err != nil {
				return err
			}
			return a.Print(list, func(w io.Writer) error {
				rows := [][]string{{"NAME", "PURPOSE", "ALGORITHM", "ACTIVE", "VERSIONS", "TOKEN", "TAGS"}}
				for _, k := range list.Keys {
					rows = append(rows, []string{k.Name, k.Purpose, k.Algorithm, activeText(k), fmt.Sprint(len(k.Versions)), k.Token, app.TagsText(k.Tags)})
				}
				return term.Table(w, rows...)
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
			return a.Print(k, keyText(k))
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
			v, err := versionIn(k, id)
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

func activeText(k api.Key) string {
	if k.ActiveVersion == 0 {
		return "none"
	}
	return fmt.Sprintf("%s.v%d", k.Name, k.ActiveVersion)
}

// keyText writes a key for people.
func keyText(k api.Key) func(io.Writer) error {
	return func(w io.Writer) error {
		err := term.Table(w,
			[]string{"name", k.Name},
			[]string{"purpose", k.Purpose},
			[]string{"algorithm", fmt.Sprintf("%s (%d bits)", k.Algorithm, k.Bits)},
			[]string{"active", activeText(k)},
			[]string{"rotation", periodText(k.Policy.Period)},
			[]string{"token", k.Token},
			[]string{"tags", app.TagsText(k.Tags)},
			[]string{"description", app.Or(k.Description)},
			[]string{"created", app.Stamp(k.CreatedAt.Time)},
			[]string{"epoch", fmt.Sprint(k.Epoch)},
		)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		rows := [][]string{{"VERSION", "STATE", "ALGORITHM", "CREATED", "ACTIVATED", "ENDED", "NOTE"}}
		for _, v := range k.Versions {
			rows = append(rows, []string{
				v.KeyID, v.State, v.Algorithm, app.Stamp(v.CreatedAt.Time), app.Stamp(v.ActivateAt.Time), endText(v), noteText(v),
			})
		}
		return term.Table(w, rows...)
	}
}

// endText is when a version's use ended, by whatever did it last.
func endText(v api.Version) string {
	end := v.DeactivatedAt
	for _, t := range []api.Time{v.SuspendedAt, v.RevokedAt, v.DestroyedAt} {
		if t.After(end.Time) {
			end = t
		}
	}
	return app.Stamp(end.Time)
}

// noteText is what else people should know of a version.
func noteText(v api.Version) string {
	var notes []string
	if v.RevokeReason != "" {
		notes = append(notes, v.RevokeReason)
	}
	if !v.DestroyAt.IsZero() && v.DestroyedAt.IsZero() {
		notes = append(notes, "will be destroyed at "+app.Stamp(v.DestroyAt.Time))
	}
	if v.DestroyedAt.IsZero() && (!v.HSM.NeverExtractable || !v.HSM.AlwaysSensitive) {
		notes = append(notes, "NOT proven non-extractable")
	}
	return app.Or(strings.Join(notes, "; "))
}
