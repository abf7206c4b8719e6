// Package follow holds the commands of those who follow keys: events,
// subscriptions, acknowledgements.
package follow

import (
	"context"
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

// Commands returns the commands.
func Commands(a *app.App) []*cobra.Command {
	return []*cobra.Command{watchCmd(a), subscribeCmd(a), unsubscribeCmd(a), subscriptionsCmd(a), ackCmd(a)}
}

func watchCmd(a *app.App) *cobra.Command {
	var after uint64
	var count int
	cmd := &cobra.Command{
		Use:   "watch [KEY...]",
		Short: "Print what happens to keys, as it happens",
		Long: `Prints what happens to the keys named, or to all keys that you may see, one event
a line, until Ctrl-C: versions that are announced, activated, deactivated,
suspended, revoked, archived, destroyed. It goes on by itself when the gateway
restarts. The event reset says that events before it may be missing. With
-o json each line is an event of the API. --timeout has no meaning here.`,
		Example: `  keyhole watch payments
  keyhole watch --after 0 -o json | jq -r 'select(.type == "version.revoked") | .kid'`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 {
				return app.Usagef("--count wants a number, or 0 for no end")
			}
			opts := client.EventOptions{Keys: args}
			if cmd.Flags().Changed("after") {
				opts.After = &after
			}
			c, err := a.Connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			n := 0
			for ev, err := range c.Events(cmd.Context(), opts) {
				if err != nil {
					return err
				}
				if err := printEvent(a, ev); err != nil {
					return err
				}
				if n++; n == count {
					break
				}
			}
			return nil
		},
		ValidArgsFunction: a.CompleteManyKeys,
	}
	cmd.Flags().Uint64Var(&after, "after", 0, "begin behind the event with this `ID`; 0: with the oldest that is kept (default: from now on)")
	cmd.Flags().IntVar(&count, "count", 0, "end after `N` events; 0: with Ctrl-C")
	app.Complete(cmd, "after")
	app.Complete(cmd, "count")
	return cmd
}

func printEvent(a *app.App, ev api.Event) error {
	if !a.Text() {
		return app.PrintJSONLine(a.Streams.Out, ev)
	}
	text := app.Stamp(ev.Time.Time) + "  " + ev.Type
	switch {
	case ev.KeyID != "":
		text += "  " + ev.KeyID
	case ev.Key != "":
		text += "  " + ev.Key
	}
	switch keys.NoticeType(ev.Type) {
	case keys.NoticeScheduled, keys.NoticeDestroyScheduled:
		text += "  at " + app.Stamp(ev.When.Time)
	}
	if ev.Reason != "" {
		text += "  (" + ev.Reason + ")"
	}
	return app.Line("%s", text)(a.Streams.Out)
}

func subscribeCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:   "subscribe KEY",
		Short: "Be counted in a key's acknowledgements",
		Long: `Has rotations of KEY wait for your acknowledgement of the new version, if the
key's policy asks for any. What waits for it already is shown. Agents in Go do
this, and acknowledge, by client.Watch.`,
		Example: `  keyhole subscribe payments`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Subscription, error) {
				return c.Subscribe(ctx, args[0])
			})
			if err != nil {
				return err
			}
			return a.Print(s, app.Line("subscribed to %s since %s; to acknowledge: %s", s.Key, app.Stamp(s.Since.Time), waiting(s)))
		},
		ValidArgsFunction: a.CompleteKeys,
	}
}

func waiting(s api.Subscription) string {
	text := ""
	for _, n := range s.Waiting {
		if text != "" {
			text += " "
		}
		text += keys.VersionID{Key: s.Key, Number: n}.String()
	}
	return app.Or(text)
}

func unsubscribeCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "unsubscribe KEY",
		Short:   "Undo subscribe",
		Long:    "Has no rotation of KEY wait for you any more.",
		Example: `  keyhole unsubscribe payments`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (struct{}, error) {
				return struct{}{}, c.Unsubscribe(ctx, args[0])
			})
			if err != nil {
				return err
			}
			return a.Print(struct{}{}, app.Line("not subscribed to %s", args[0]))
		},
		ValidArgsFunction: a.CompleteKeys,
	}
}

func subscriptionsCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "subscriptions",
		Short:   "List your subscriptions and what waits for your acknowledgement",
		Long:    "Lists the keys that you are subscribed to, and the versions that wait for your acknowledgement.",
		Example: `  keyhole subscriptions`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.SubscriptionList, error) { return c.Subscriptions(ctx) })
			if err != nil {
				return err
			}
			return a.Print(list, func(w io.Writer) error {
				now := time.Now()
				rows := [][]string{{"KEY", "SINCE", "TO ACKNOWLEDGE"}}
				for _, s := range list.Subscriptions {
					rows = append(rows, []string{s.Key, units.Ago(s.Since.Time, now), waiting(s)})
				}
				return term.Table(w, rows...)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func ackCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:   "ack KEY.vN",
		Short: "Acknowledge a version: you have it",
		Long: `Says that you have version N of KEY, its public key for instance, and are ready
for it to be used. You must be subscribed to KEY.`,
		Example: `  keyhole ack payments.v4`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := app.VersionArg(args[0])
			if err != nil {
				return err
			}
			ack, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Ack, error) { return c.Acknowledge(ctx, id) })
			if err != nil {
				return err
			}
			return a.Print(ack, app.Line("%s acknowledged at %s", ack.KeyID, app.Stamp(ack.AcknowledgedAt.Time)))
		},
		ValidArgsFunction: a.CompleteVersions,
	}
}
