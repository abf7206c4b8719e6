package operate

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
)

func nodesCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "nodes",
		Aliases: []string{"node"},
		Short:   "List the gateways that share the store",
		Long: `Lists the gateways that share the store, and how many changes of it each of them
has not seen yet (BEHIND). A * marks the one that answers. One that is not live was
killed or cut off, and had stopped using keys at the time shown; one that shut down in
order is not in the list.`,
		Example: `  keyhole nodes
  keyhole nodes -o json`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.NodeList, error) { return c.Nodes(ctx) })
			if err != nil {
				return err
			}
			return a.Print(list, nodesText(list, time.Now()))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func nodesText(list api.NodeList, now time.Time) func(io.Writer) error {
	return func(w io.Writer) error {
		rows := [][]string{{"NODE", "STATE", "VERSION", "BEHIND", "STARTED", "SEEN", "INSTANCE"}}
		for _, n := range list.Nodes {
			name, state := n.Name, "live"
			if n.Self {
				name += " *"
			}
			if !n.Live {
				state = "stopped " + app.Stamp(n.StoppedAt.Time)
			}
			rows = append(rows, []string{
				name, state, app.Or(n.Version), fmt.Sprint(n.Behind), app.Stamp(n.StartedAt.Time), units.Ago(n.SeenAt.Time, now), n.Instance,
			})
		}
		return term.Table(w, rows...)
	}
}
