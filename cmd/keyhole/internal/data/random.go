package data

import (
	"context"
	"encoding/base64"
	"strconv"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/gateway/api"
)

func randomCmd(a *app.App) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:     "random BYTES",
		Short:   "Get random bytes from the HSM",
		Long:    "Prints 1 to 4096 random bytes from the HSM in base64, or writes them as bytes with -O.",
		Example: `  keyhole random 32`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 1 || n > api.MaxRandom {
				return app.Usagef("BYTES must be a number from 1 to %d, not %q", api.MaxRandom, args[0])
			}
			if err := a.CheckOut(out); err != nil {
				return err
			}
			random, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) ([]byte, error) { return c.Random(ctx, n) })
			if err != nil {
				return err
			}
			if out != "" {
				return a.Streams.WriteFile(out, random, true)
			}
			return a.Print(api.RandomResponse{Random: random}, app.Line("%s", base64.StdEncoding.EncodeToString(random)))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	app.OutFlag(cmd, &out, "the bytes")
	return cmd
}
