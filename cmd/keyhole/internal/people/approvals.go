package people

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/show"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func approvalsCmd(a *app.App) *cobra.Command {
	return app.Group(&cobra.Command{
		Use:     "approvals",
		Aliases: []string{"approval"},
		Short:   "List, show, approve and reject acts that need two people",
		Long: `Lists, shows, approves and rejects acts that one person has asked for and another
must approve. Whoever asked cannot approve, by whatever credentials.`,
		Example: `  keyhole approvals list`,
	}, approvalsListCmd(a), approvalsShowCmd(a), approveCmd(a), rejectCmd(a))
}

func approvalsListCmd(a *app.App) *cobra.Command {
	var state string
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List acts that need two people, newest first",
		Long:    "Lists the acts that wait for a second person's approval or, with --state, others, newest first.",
		Example: `  keyhole approvals list
  keyhole approvals list --state all --limit 0 -o json`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(approvalStates, state) {
				return app.Usagef("--state wants one of %s, not %q", strings.Join(approvalStates, ", "), state)
			}
			if limit < 0 {
				return app.Usagef("--limit wants a number, or 0 for all")
			}
			if state == "all" {
				state = ""
			}
			list, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.ApprovalList, error) {
				all := api.ApprovalList{Approvals: []api.Approval{}}
				for p, err := range c.Approvals(ctx, keys.ApprovalState(state)) {
					if err != nil {
						return all, err
					}
					all.Approvals = append(all.Approvals, p)
					if len(all.Approvals) == limit {
						all.Next = p.ID
						break
					}
				}
				return all, nil
			})
			if err != nil {
				return err
			}
			return a.Print(list, func(w io.Writer) error {
				rows := [][]string{{"APPROVAL", "ACT", "STATE", "ASKED FOR BY", "AT", "EXPIRES", "REASON"}}
				for _, p := range list.Approvals {
					by := p.RequestedBy
					if p.Mine {
						by += " (you)"
					}
					rows = append(rows, []string{p.ID, show.ActText(p), p.State, by, app.Stamp(p.RequestedAt.Time), app.Stamp(p.ExpiresAt.Time), app.Or(p.Reason)})
				}
				return term.Table(w, rows...)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVar(&state, "state", string(keys.ApprovalPending), "only those in this `STATE`: "+strings.Join(approvalStates, ", "))
	f.IntVar(&limit, "limit", 20, "show the newest `N`; 0: all")
	app.Complete(cmd, "state", approvalStates...)
	app.Complete(cmd, "limit")
	return cmd
}

func approvalsShowCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "show APPROVAL",
		Short:   "Show one act that needs two people",
		Long:    "Shows one act that needs two people: who asked for what and why, and what became of it.",
		Example: `  keyhole approvals show 01JDZ4V0M3Q9T5W8X2Y7R6K1NB`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Approval, error) { return c.Approval(ctx, args[0]) })
			if err != nil {
				return err
			}
			return a.Print(p, approvalText(p))
		},
		ValidArgsFunction: a.CompleteApprovals,
	}
}

func approvalText(p api.Approval) func(io.Writer) error {
	return func(w io.Writer) error {
		by := p.RequestedBy
		if p.Mine {
			by += " (you: somebody else must approve it)"
		}
		rows := [][]string{
			{"approval", p.ID},
			{"act", show.ActText(p)},
			{"reason", app.Or(p.Reason)},
			{"state", p.State},
			{"asked for by", by},
			{"at", app.Stamp(p.RequestedAt.Time)},
			{"expires", app.Stamp(p.ExpiresAt.Time)},
		}
		if p.DecidedBy != "" {
			rows = append(rows, []string{"decided by", p.DecidedBy}, []string{"at", app.Stamp(p.DecidedAt.Time)}, []string{"because", app.Or(p.Decision)})
		}
		if p.Error != "" {
			rows = append(rows, []string{"error", p.Error})
		}
		return term.Table(w, rows...)
	}
}

func approveCmd(a *app.App) *cobra.Command {
	var yes bool
	var req api.DecisionRequest
	cmd := &cobra.Command{
		Use:   "approve APPROVAL",
		Short: "Have an act done that another person asked for",
		Long: `Has the act done that another person asked for. What speaks against it is looked
at again: an act that has become impossible since fails, and the approval says
why.

It asks for confirmation, shows the act and says who would feel it; scripts
give --yes.`,
		Example: `  keyhole approvals approve 01JDZ4V0M3Q9T5W8X2Y7R6K1NB --reason "checked with the till team"`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				if err := confirmAct(a, cmd, args[0]); err != nil {
					return err
				}
			}
			return decide(a, cmd, args[0], req, (*client.Client).Approve)
		},
		ValidArgsFunction: a.CompleteApprovals,
	}
	show.ReasonFlag(cmd, &req.Reason)
	show.YesFlag(cmd, &yes)
	return cmd
}

func confirmAct(a *app.App, cmd *cobra.Command, id string) error {
	p, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Approval, error) { return c.Approval(ctx, id) })
	if err != nil {
		return err
	}
	word := p.Key
	if p.Version != 0 {
		word = keys.VersionID{Key: p.Key, Number: p.Version}.String()
	}
	return show.Confirm(a, cmd, false, word, func(ctx context.Context, c *client.Client) string {
		return fmt.Sprintf("%s asked to %s, because: %s. %s", p.RequestedBy, show.ActText(p), app.Or(p.Reason),
			show.Users(ctx, c, keys.VersionID{Key: p.Key, Number: p.Version}, time.Now()))
	})
}

func rejectCmd(a *app.App) *cobra.Command {
	var req api.DecisionRequest
	cmd := &cobra.Command{
		Use:     "reject APPROVAL",
		Short:   "Refuse an act that somebody asked for, or take it back",
		Long:    "Refuses an act that another person asked for; whoever asked takes it back like this.",
		Example: `  keyhole approvals reject 01JDZ4V0M3Q9T5W8X2Y7R6K1NB --reason "till-7 still needs it"`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			return decide(a, cmd, args[0], req, (*client.Client).Reject)
		},
		ValidArgsFunction: a.CompleteApprovals,
	}
	show.ReasonFlag(cmd, &req.Reason)
	return cmd
}

type decision func(c *client.Client, ctx context.Context, id string, req api.DecisionRequest) (api.Approval, error)

func decide(a *app.App, cmd *cobra.Command, id string, req api.DecisionRequest, do decision) error {
	p, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Approval, error) { return do(c, ctx, id, req) })
	if err != nil {
		return err
	}
	err = a.Print(p, func(w io.Writer) error {
		text := fmt.Sprintf("%s: %s", show.ActText(p), p.State)
		if p.Error != "" {
			text += ": " + p.Error
		}
		return app.Line("%s", text)(w)
	})
	if err == nil && p.State == string(keys.ApprovalFailed) {
		return app.Silent{Code: app.ExitConflict}
	}
	return err
}
