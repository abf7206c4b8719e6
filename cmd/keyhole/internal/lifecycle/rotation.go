package lifecycle

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/show"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
)

func rotationCmd(a *app.App) *cobra.Command {
	return app.Group(&cobra.Command{
		Use:     "rotation",
		Aliases: []string{"rotations"},
		Short:   "List, show, activate and abort rotations",
		Long:    "Lists and shows rotations, and ends them before their time. keyhole rotate begins one.",
		Example: `  keyhole rotation list payments`,
	}, rotationListCmd(a), rotationShowCmd(a), rotationActivateCmd(a), rotationAbortCmd(a))
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
	var wait bool
	cmd := &cobra.Command{
		Use:   "show ROTATION",
		Short: "Show one rotation: how far it is, and what it waits for",
		Long: `Shows one rotation, by its id as list and rotate print it: its phase, who has
acknowledged the new version and who has not, and what happens next and when.

With --wait it is followed to its end, as keyhole rotate --wait does.`,
		Example: `  keyhole rotation show 01JDZ4V0M3Q9T5W8X2Y7R6K1NB
  keyhole rotation show 01JDZ4V0M3Q9T5W8X2Y7R6K1NB --wait`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Rotation, error) { return c.Rotation(ctx, args[0]) })
			if err != nil {
				return err
			}
			return printRotation(a, cmd, r, wait, func(r api.Rotation) func(io.Writer) error { return show.Rotation(r, time.Now()) })
		},
		ValidArgsFunction: a.CompleteRotations,
	}
	waitFlag(cmd, &wait)
	return cmd
}

func rotationActivateCmd(a *app.App) *cobra.Command {
	var yes bool
	var reason string
	cmd := &cobra.Command{
		Use:   "activate ROTATION",
		Short: "Switch to a rotation's new version without waiting any longer",
		Long: `Orders the switch of a rotation that is announced or scheduled now: the rest of
its announce time and missing acknowledgements are not waited for. Agents that
have not acknowledged the new version may refuse what it signs.

It asks for confirmation if any are missing; scripts give --yes.`,
		Example: `  keyhole rotation activate 01JDZ4V0M3Q9T5W8X2Y7R6K1NB --reason "till-7 is being repaired" --yes`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				if err := confirmSwitch(a, cmd, args[0]); err != nil {
					return err
				}
			}
			return onRotation(a, cmd, args[0], reason, (*client.Client).ActivateRotation)
		},
		ValidArgsFunction: a.CompleteOpenRotations,
	}
	show.ReasonFlag(cmd, &reason)
	show.YesFlag(cmd, &yes)
	return cmd
}

// confirmSwitch asks if there is anybody whom the switch may surprise.
func confirmSwitch(a *app.App, cmd *cobra.Command, id string) error {
	r, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Rotation, error) { return c.Rotation(ctx, id) })
	if err != nil || r.Acks == nil || len(r.Acks.Missing) == 0 {
		return err
	}
	question := fmt.Sprintf("These agents have not acknowledged %s.v%d, and may refuse what it signs or not open what it encrypts: %s.",
		r.Key, r.To, strings.Join(r.Acks.Missing, ", "))
	return a.Streams.Confirm(cmd.Context(), question, r.Key)
}

func rotationAbortCmd(a *app.App) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "abort ROTATION",
		Short: "Give a rotation up before its switch",
		Long: `Gives a rotation up before its switch: the new version is destroyed, its number
is not used again, and the old version stays active. Nothing that is in use is
touched.`,
		Example: `  keyhole rotation abort 01JDZ4V0M3Q9T5W8X2Y7R6K1NB --reason "change 4711 is off"`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			return onRotation(a, cmd, args[0], reason, (*client.Client).AbortRotation)
		},
		ValidArgsFunction: a.CompleteOpenRotations,
	}
	show.ReasonFlag(cmd, &reason)
	return cmd
}

type rotationCall func(c *client.Client, ctx context.Context, id string, req api.RotationActRequest) (api.Rotation, error)

func onRotation(a *app.App, cmd *cobra.Command, id, reason string, do rotationCall) error {
	r, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Rotation, error) {
		return do(c, ctx, id, api.RotationActRequest{Reason: reason})
	})
	if err != nil {
		return err
	}
	return a.Print(r, app.Line("%s", show.Outcome(r)))
}
