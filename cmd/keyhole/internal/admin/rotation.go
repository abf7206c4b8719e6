package admin

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
)

func rotationCmd(a *app.App) *cobra.Command {
	return app.Group(&cobra.Command{
		Use:     "rotation",
		Aliases: []string{"rotations"},
		Short:   "List and show rotations",
		Long:    "Lists and shows rotations. keyhole rotate begins one.",
		Example: `  keyhole rotation list payments`,
	}, rotationListCmd(a), rotationShowCmd(a))
}

func rotationListCmd(a *app.App) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "list [KEY]",
		Aliases: []string{"ls"},
		Short:   "List rotations, newest first",
		Long:    "Lists the rotations of KEY, or of all keys that you may see, newest first.",
		Example: `  keyhole rotation list
  keyhole rotation list payments --limit 0 -o json`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return app.Usagef("--limit wants a number, or 0 for all")
			}
			key := ""
			if len(args) > 0 {
				key = args[0]
			}
			list, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.RotationList, error) {
				all := api.RotationList{Rotations: []api.Rotation{}}
				for r, err := range c.Rotations(ctx, key) {
					if err != nil {
						return all, err
					}
					all.Rotations = append(all.Rotations, r)
					if len(all.Rotations) == limit {
						all.Next = r.ID
						break
					}
				}
				return all, nil
			})
			if err != nil {
				return err
			}
			return a.Print(list, func(w io.Writer) error {
				rows := [][]string{{"ROTATION", "KEY", "VERSIONS", "REASON", "PHASE", "STARTED", "COMPLETED", "BY"}}
				for _, r := range list.Rotations {
					rows = append(rows, []string{
						r.ID, r.Key, fmt.Sprintf("%d -> %d", r.From, r.To), r.Reason, r.Phase,
						app.Stamp(r.StartedAt.Time), app.Stamp(r.CompletedAt.Time), r.StartedBy,
					})
				}
				return term.Table(w, rows...)
			})
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "show the newest `N`; 0: all")
	app.Complete(cmd, "limit")
	return cmd
}

func rotationShowCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "show ROTATION",
		Short:   "Show one rotation",
		Long:    "Shows one rotation, by its id as list and rotate print it.",
		Example: `  keyhole rotation show 01JDZ4V0M3Q9T5W8X2Y7R6K1NB`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Rotation, error) { return c.Rotation(ctx, args[0]) })
			if err != nil {
				return err
			}
			return a.Print(r, func(w io.Writer) error {
				return term.Table(w,
					[]string{"rotation", r.ID},
					[]string{"key", r.Key},
					[]string{"versions", fmt.Sprintf("%d -> %d", r.From, r.To)},
					[]string{"reason", r.Reason},
					[]string{"phase", r.Phase},
					[]string{"started", app.Stamp(r.StartedAt.Time)},
					[]string{"completed", app.Stamp(r.CompletedAt.Time)},
					[]string{"by", r.StartedBy},
					[]string{"request", r.RequestID},
					[]string{"error", app.Or(r.Error)},
				)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
