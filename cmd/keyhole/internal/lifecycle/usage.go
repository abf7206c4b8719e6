package lifecycle

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/cmd/keyhole/internal/units"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func usageCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:   "usage KEY[.vN]",
		Short: "Show who uses which version, and whether it may be destroyed",
		Long: `Shows for each version of KEY how much it was used, when last and by whom, and
whether it may be destroyed, with the reasons against it. With .vN it shows the
agents that used version N, one by one. -o json holds both.

After a crash of the gateway the figures may be too high, never too low.`,
		Example: `  keyhole usage payments
  keyhole usage payments.v3`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := app.KeyOrVersion(args[0])
			if err != nil {
				return err
			}
			use, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.KeyUsage, error) { return c.Usage(ctx, id.Key) })
			if err != nil {
				return err
			}
			if id.Number == 0 {
				return a.Print(use, func(w io.Writer) error { return versionsUsage(w, use, time.Now()) })
			}
			for _, v := range use.Versions {
				if v.Version == id.Number {
					return a.Print(v, func(w io.Writer) error { return versionUsage(w, v, time.Now()) })
				}
			}
			return keys.Errorf(keys.ErrVersionNotFound, "key %q has no version %d", id.Key, id.Number)
		},
		ValidArgsFunction: a.CompleteKeys,
	}
}

// versionsUsage writes a line for each version, and behind them why some may
// not be destroyed.
func versionsUsage(w io.Writer, use api.KeyUsage, now time.Time) error {
	rows := [][]string{{"VERSION", "STATE", "OPERATIONS", "BYTES", "LAST USE", "AGENTS", "SAFE TO DESTROY"}}
	for _, v := range use.Versions {
		rows = append(rows, []string{
			v.KeyID, v.State, fmt.Sprint(v.Operations), units.Volume(v.Bytes), units.Ago(v.LastUsedAt.Time, now), fmt.Sprint(len(v.Agents)), yesNo(v.SafeToDestroy.Safe),
		})
	}
	if err := term.Table(w, rows...); err != nil {
		return err
	}
	for _, v := range use.Versions {
		if err := objections(w, v); err != nil {
			return err
		}
	}
	return nil
}

func objections(w io.Writer, v api.VersionUsage) error {
	for _, reason := range v.SafeToDestroy.Reasons {
		if err := app.Line("%s: %s", v.KeyID, reason)(w); err != nil {
			return err
		}
	}
	return nil
}

// versionUsage writes a line for each agent that used a version.
func versionUsage(w io.Writer, v api.VersionUsage, now time.Time) error {
	rows := [][]string{{"AGENT", "SIGNED, ENCRYPTED", "VERIFIED, DECRYPTED", "BYTES", "LAST USE"}}
	row := func(who string, u api.Usage) {
		rows = append(rows, []string{who, fmt.Sprint(u.Applied), fmt.Sprint(u.Processed), units.Volume(u.Bytes), units.Ago(u.LastUsedAt.Time, now)})
	}
	for _, agent := range v.Agents {
		row(agent.Principal, agent.Usage)
	}
	row("all", v.Usage)
	if err := app.Line("%s (%s), safe to destroy: %s", v.KeyID, v.State, yesNo(v.SafeToDestroy.Safe))(w); err != nil {
		return err
	}
	if err := objections(w, v); err != nil {
		return err
	}
	return term.Table(w, rows...)
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "NO"
}
