// Package people holds the commands about who uses keys and who approves
// acts on them.
package people

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
	"keyhole/cmd/keyhole/internal/units"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Commands returns the commands.
func Commands(a *app.App) []*cobra.Command { return []*cobra.Command{agentsCmd(a), approvalsCmd(a)} }

func agentsCmd(a *app.App) *cobra.Command {
	return app.Group(&cobra.Command{
		Use:     "agents",
		Aliases: []string{"agent"},
		Short:   "List, show, block and unblock agents",
		Long: `Lists, shows, blocks and unblocks agents: the principals that the gateway has
seen. An agent is named by its principal, as whoami shows it, or by its id.`,
		Example: `  keyhole agents list`,
	}, agentsListCmd(a), agentsShowCmd(a),
		agentsActCmd(a, "block", "Refuse an agent at once, whatever its credentials say",
			`Has every gateway refuse an agent at once, whatever its token or certificate
says, until it is unblocked. The agent need never have been seen.

It asks for confirmation and says what will stop working; scripts give --yes.`, (*client.Client).BlockAgent),
		agentsActCmd(a, "unblock", "Undo block", `Lets a blocked agent in again.`, (*client.Client).UnblockAgent))
}

func agentsListCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the agents that were seen, subscribed or blocked",
		Long:    "Lists the agents that were seen, subscribed or blocked, in order of their names.",
		Example: `  keyhole agents list
  keyhole agents list -o json | jq -r '.agents[] | select(.blocked_at) | .principal'`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.AgentList, error) {
				all := api.AgentList{Agents: []api.Agent{}}
				for agent, err := range c.Agents(ctx) {
					if err != nil {
						return all, err
					}
					all.Agents = append(all.Agents, agent)
				}
				return all, nil
			})
			if err != nil {
				return err
			}
			return a.Print(list, func(w io.Writer) error {
				now := time.Now()
				rows := [][]string{{"AGENT", "LAST SEEN", "BLOCKED", "SUBSCRIBED TO"}}
				for _, agent := range list.Agents {
					rows = append(rows, []string{
						agent.Principal, units.Ago(agent.LastSeenAt.Time, now), blocked(agent), app.Or(strings.Join(agent.Subscriptions, " ")),
					})
				}
				return term.Table(w, rows...)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func blocked(agent api.Agent) string {
	if agent.BlockedAt.IsZero() {
		return "-"
	}
	return "since " + app.Stamp(agent.BlockedAt.Time)
}

func agentsShowCmd(a *app.App) *cobra.Command {
	return &cobra.Command{
		Use:     "show AGENT",
		Short:   "Show one agent: what it subscribes to, and what it has acknowledged",
		Long:    "Shows one agent: when it was seen, what it subscribes to, and the newest version of each\nkey that it has acknowledged.",
		Example: `  keyhole agents show mtls:till-7`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Agent, error) { return c.Agent(ctx, args[0]) })
			if err != nil {
				return err
			}
			return a.Print(agent, func(w io.Writer) error {
				rows := [][]string{
					{"agent", agent.Principal},
					{"id", agent.ID},
					{"first seen", app.Stamp(agent.FirstSeenAt.Time)},
					{"last seen", app.Stamp(agent.LastSeenAt.Time)},
					{"blocked", blocked(agent)},
				}
				if !agent.BlockedAt.IsZero() {
					rows = append(rows, []string{"blocked by", agent.BlockedBy}, []string{"because", app.Or(agent.BlockReason)})
				}
				rows = append(rows, []string{"subscribed to", app.Or(strings.Join(agent.Subscriptions, " "))})
				for _, ack := range agent.Acks {
					rows = append(rows, []string{"acknowledged", ack.KeyID + " at " + app.Stamp(ack.At.Time)})
				}
				return term.Table(w, rows...)
			})
		},
		ValidArgsFunction: a.CompleteAgents,
	}
}

type agentCall func(c *client.Client, ctx context.Context, who, reason string) (api.Agent, error)

func agentsActCmd(a *app.App, act, short, long string, do agentCall) *cobra.Command {
	var yes bool
	var reason string
	cmd := &cobra.Command{
		Use:     act + " AGENT",
		Short:   short,
		Long:    long,
		Example: fmt.Sprintf("  keyhole agents %s mtls:till-7 --reason \"incident 17\" --yes", act),
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if act == "block" {
				err := show.Confirm(a, cmd, yes, args[0], func(ctx context.Context, c *client.Client) string {
					return "Blocking " + args[0] + ": everything that it does through this gateway stops at once. " + seen(ctx, c, args[0])
				})
				if err != nil {
					return err
				}
			}
			agent, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Agent, error) { return do(c, ctx, args[0], reason) })
			if err != nil {
				return err
			}
			state := "not blocked"
			if !agent.BlockedAt.IsZero() {
				state = "blocked"
			}
			return a.Print(agent, app.Line("%s is %s", agent.Principal, state))
		},
		ValidArgsFunction: a.CompleteAgents,
	}
	show.ReasonFlag(cmd, &reason)
	if act == "block" {
		show.YesFlag(cmd, &yes)
	} else {
		cmd.Example = "  keyhole agents " + act + " mtls:till-7"
	}
	return cmd
}

// seen says what is known of an agent's work.
func seen(ctx context.Context, c *client.Client, who string) string {
	agent, err := c.Agent(ctx, who)
	if err != nil || agent.LastSeenAt.IsZero() {
		return "It was never seen here: look at its spelling."
	}
	text := "It was last seen " + units.Ago(agent.LastSeenAt.Time, time.Now())
	if len(agent.Subscriptions) > 0 {
		text += " and is subscribed to " + strings.Join(agent.Subscriptions, ", ")
	}
	return text + "."
}

var approvalStates = []string{
	string(keys.ApprovalPending), string(keys.ApprovalApproved), string(keys.ApprovalDone), string(keys.ApprovalFailed),
	string(keys.ApprovalRejected), string(keys.ApprovalExpired), "all",
}
