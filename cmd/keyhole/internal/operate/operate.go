// Package operate holds the commands of those who operate gateways.
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

// Commands returns the commands.
func Commands(a *app.App) []*cobra.Command {
	return []*cobra.Command{triggerCmd(a), reconcileCmd(a), webhooksCmd(a), nodesCmd(a)}
}

func triggerCmd(a *app.App) *cobra.Command {
	var req api.TriggerRequest
	cmd := &cobra.Command{
		Use:   "trigger NAME",
		Short: "Begin the rotations that a named trigger stands for",
		Long: `Begins the rotations that the trigger NAME in the gateway's configuration stands
for: what a SIEM or a deployment does, with a credential that may do nothing
else. One key's failure fails no other; the exit code is 8 then.`,
		Example:     `  keyhole trigger staff-left --note "ticket 4711"`,
		Args:        app.Operands,
		Annotations: map[string]string{app.Slow: "generating keys in the HSM"},
		RunE: func(cmd *cobra.Command, args []string) error {
			res, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.TriggerResult, error) {
				return c.Trigger(ctx, args[0], req)
			})
			if err != nil {
				return err
			}
			failed := 0
			rows := [][]string{{"KEY", "ROTATION", "VERSIONS", "PHASE", "ERROR"}}
			for _, k := range res.Results {
				row := []string{k.Key, "-", "-", "-", "-"}
				if r := k.Rotation; r != nil {
					row = []string{k.Key, r.ID, fmt.Sprintf("%d -> %d", r.From, r.To), r.Phase, "-"}
				}
				if k.Error != nil {
					failed++
					row[4] = fmt.Sprintf("%s (%s)", k.Error.Detail, k.Error.Code)
				}
				rows = append(rows, row)
			}
			if err := a.Print(res, func(w io.Writer) error { return term.Table(w, rows...) }); err != nil {
				return err
			}
			if failed > 0 {
				return &app.ItemsError{Failed: failed, Done: len(res.Results)}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&req.Note, "note", "", "a few words for the record: `TEXT`")
	app.Complete(cmd, "note")
	return cmd
}

func reconcileCmd(a *app.App) *cobra.Command {
	var req api.ReconcileRequest
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Compare the HSM's tokens with the store, and repair what is safe to repair",
		Long: `Compares the objects on the HSM's tokens with what the store has of them, and
repairs what is safe to repair: what the gateway does by itself at its start and
each hour. Nothing is destroyed without a record. With --dry-run nothing is
changed. The exit code is 8 if a repair failed.`,
		Example: `  keyhole reconcile --dry-run
  keyhole reconcile -o json`,
		Args:        app.Operands,
		Annotations: map[string]string{app.Slow: "listing the tokens"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			rep, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.ReconcileReport, error) { return c.Reconcile(ctx, req) })
			if err != nil {
				return err
			}
			failed := 0
			for _, f := range rep.Findings {
				if f.Action == "failed" {
					failed++
				}
			}
			if err := a.Print(rep, reportText(rep)); err != nil {
				return err
			}
			if failed > 0 {
				return &app.ItemsError{Failed: failed, Done: len(rep.Findings)}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "change nothing")
	return cmd
}

func reportText(rep api.ReconcileReport) func(io.Writer) error {
	return func(w io.Writer) error {
		if err := app.Line("%s on the tokens, %s in the store, %s", app.PluralOf(rep.Objects, "object"), app.PluralOf(rep.Versions, "version"),
			app.PluralOf(len(rep.Findings), "finding"))(w); err != nil || len(rep.Findings) == 0 {
			return err
		}
		rows := [][]string{{"KIND", "ACTION", "TOKEN", "LABEL", "CKA_ID", "WHAT IT IS"}}
		for _, f := range rep.Findings {
			rows = append(rows, []string{f.Kind, f.Action, app.Or(f.Token), app.Or(f.Label), app.Or(f.CKAID), f.Text})
		}
		return term.Table(w, rows...)
	}
}

func webhooksCmd(a *app.App) *cobra.Command {
	return app.Group(&cobra.Command{
		Use:     "webhooks",
		Aliases: []string{"webhook"},
		Short:   "List webhooks, and deliver again what they did not take",
		Long:    "Lists the webhooks of the gateway's configuration, and delivers again what they did not take.",
		Example: `  keyhole webhooks list`,
	}, webhooksListCmd(a), webhooksRetryCmd(a))
}

func webhooksListCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List webhooks and where their deliveries stand",
		Long:    "Lists webhooks, where their deliveries stand, and the events that were given up.",
		Example: `  keyhole webhooks list`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.WebhookList, error) { return c.Webhooks(ctx) })
			if err != nil {
				return err
			}
			return a.Print(list, webhooksText(list.Webhooks...))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// webhooksText writes a line for each webhook, and behind them those for the
// events that were given up.
func webhooksText(all ...api.Webhook) func(io.Writer) error {
	return func(w io.Writer) error {
		now := time.Now()
		rows := [][]string{{"WEBHOOK", "HOST", "PENDING", "FAILURES", "NEXT TRY", "LAST OK", "GIVEN UP", "LAST ERROR"}}
		for _, h := range all {
			rows = append(rows, []string{
				h.Name, h.Host, fmt.Sprint(h.Pending), fmt.Sprint(h.Failures), app.Stamp(h.RetryAt.Time), units.Ago(h.LastOKAt.Time, now),
				fmt.Sprint(len(h.Dead)), app.Or(h.LastError),
			})
		}
		if err := term.Table(w, rows...); err != nil {
			return err
		}
		for _, h := range all {
			for _, d := range h.Dead {
				if err := app.Line("%s gave up event %d (%s %s) at %s: %s", h.Name, d.Event.ID, d.Event.Type, d.Event.KeyID, app.Stamp(d.At.Time), d.Error)(w); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

func webhooksRetryCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "retry WEBHOOK",
		Short:   "Deliver a webhook's events now, also those that were given up",
		Long:    "Has the events of a webhook delivered now, also those that were given up.",
		Example: `  keyhole webhooks retry siem`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Webhook, error) { return c.RetryWebhook(ctx, args[0]) })
			if err != nil {
				return err
			}
			return a.Print(h, webhooksText(h))
		},
		ValidArgsFunction: a.CompleteWebhooks,
	}
}
