package admin

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
)

func jwksCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:   "jwks [KEY]",
		Short: "Print the published public keys as a JWK Set",
		Long: `Prints the public keys of KEY, or of all keys that you may see, as a JWK Set
(RFC 7517): versions about to be active, active, and deactivated. It is JSON in
either output format.`,
		Example: `  keyhole jwks payments > jwks.json`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			key := ""
			if len(args) > 0 {
				key = args[0]
			}
			set, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.JWKS, error) { return c.JWKS(ctx, key) })
			if err != nil {
				return err
			}
			return app.PrintJSON(a.Streams.Out, set)
		},
		ValidArgsFunction: a.CompleteKeys,
	}
}

func statusCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:   "status [KEY]",
		Short: "Show what has become of each published version",
		Long: `Shows the state of each version whose public key was ever published, of KEY or
of all keys that you may see. A version is missing from the JWK Set when it may
not be trusted any more; this says why.`,
		Example: `  keyhole status payments`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			key := ""
			if len(args) > 0 {
				key = args[0]
			}
			set, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.StatusSet, error) { return c.Status(ctx, key) })
			if err != nil {
				return err
			}
			return a.Print(set, func(w io.Writer) error {
				rows := [][]string{{"VERSION", "STATE", "REVOKED"}}
				for _, v := range set.Keys {
					rows = append(rows, []string{v.KeyID, v.State, app.Stamp(v.RevokedAt.Time)})
				}
				return term.Table(w, rows...)
			})
		},
		ValidArgsFunction: a.CompleteKeys,
	}
}

func whoamiCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "whoami",
		Short:   "Show who you are to the gateway",
		Long:    "Shows who you are to the gateway, by which credentials, and until when.",
		Example: `  keyhole whoami`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			who, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.WhoAmI, error) { return c.WhoAmI(ctx) })
			if err != nil {
				return err
			}
			return a.Print(who, func(w io.Writer) error {
				return term.Table(w,
					[]string{"principal", who.Principal},
					[]string{"groups", app.Or(strings.Join(who.Groups, " "))},
					[]string{"method", who.Method},
					[]string{"expires", app.Stamp(who.ExpiresAt.Time)},
				)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func openAPICmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:   "openapi",
		Short: "Print the gateway's description of its API",
		Long: `Prints the gateway's own description of its API, as OpenAPI in YAML, or in JSON
with -o json: what other languages generate their clients from.`,
		Example: `  keyhole openapi > keyhole-api.yaml`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			spec, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (string, error) { return c.OpenAPI(ctx) })
			if err != nil {
				return err
			}
			var tree map[string]any
			if err := yaml.Unmarshal([]byte(spec), &tree); err != nil {
				return fmt.Errorf("reading the gateway's description of its API: %w", err)
			}
			return a.Print(tree, func(io.Writer) error { return a.Streams.WriteBytes([]byte(spec)) })
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
