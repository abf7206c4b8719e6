package app

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// completionTimeout bounds what the shell waits for names.
const completionTimeout = 2 * time.Second

// CompleteKeys offers the names of keys to the shell, and behind them files.
func (a *App) CompleteKeys(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var names []string
	a.eachKey(cmd, func(k api.Key) {
		if strings.HasPrefix(k.Name, prefix) {
			names = append(names, k.Name)
		}
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

// CompleteVersions offers the ids of versions.
func (a *App) CompleteVersions(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	if len(args) == 0 {
		a.eachKey(cmd, func(k api.Key) {
			for _, v := range k.Versions {
				if strings.HasPrefix(v.KeyID, prefix) {
					ids = append(ids, v.KeyID)
				}
			}
		})
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// eachKey visits the keys that the caller may see, as far as they come in
// time. The shell has no use for an error.
func (a *App) eachKey(cmd *cobra.Command, visit func(api.Key)) {
	c, err := a.Connect(cmd)
	if err != nil {
		return
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	for k, err := range c.Keys(ctx) {
		if err != nil {
			return
		}
		visit(k)
	}
}

// names offers to the shell what list finds, as far as it comes in time. The
// shell has no use for an error.
func (a *App) names(cmd *cobra.Command, prefix string, list func(ctx context.Context, c *client.Client, offer func(name, about string)) error) ([]string, cobra.ShellCompDirective) {
	var found []string
	c, err := a.Connect(cmd)
	if err == nil {
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		_ = list(ctx, c, func(name, about string) {
			if strings.HasPrefix(name, prefix) {
				found = append(found, term.Clean(name)+"\t"+term.Clean(about))
			}
		})
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// maxOffered bounds what the shell is offered of long lists.
const maxOffered = 50

// CompleteOpenRotations offers the rotations that run.
func (a *App) CompleteOpenRotations(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completeRotations(cmd, args, prefix, true)
}

// CompleteRotations offers the newest rotations.
func (a *App) CompleteRotations(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completeRotations(cmd, args, prefix, false)
}

func (a *App) completeRotations(cmd *cobra.Command, args []string, prefix string, open bool) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.names(cmd, prefix, func(ctx context.Context, c *client.Client, offer func(string, string)) error {
		list, err := c.RotationsPage(ctx, "", "", maxOffered)
		for _, r := range list.Rotations {
			if !open || !keys.Phase(r.Phase).Done() {
				offer(r.ID, r.Key+" "+r.Phase)
			}
		}
		return err
	})
}

// CompleteApprovals offers the approvals that wait for somebody.
func (a *App) CompleteApprovals(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.names(cmd, prefix, func(ctx context.Context, c *client.Client, offer func(string, string)) error {
		list, err := c.ApprovalsPage(ctx, keys.ApprovalPending, "", maxOffered)
		for _, p := range list.Approvals {
			offer(p.ID, p.Action+" "+p.Key)
		}
		return err
	})
}

// CompleteAgents offers the principals of agents.
func (a *App) CompleteAgents(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.names(cmd, prefix, func(ctx context.Context, c *client.Client, offer func(string, string)) error {
		for agent, err := range c.Agents(ctx) {
			if err != nil {
				return err
			}
			offer(agent.Principal, "")
		}
		return nil
	})
}

// CompleteWebhooks offers the names of webhooks.
func (a *App) CompleteWebhooks(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.names(cmd, prefix, func(ctx context.Context, c *client.Client, offer func(string, string)) error {
		list, err := c.Webhooks(ctx)
		for _, h := range list.Webhooks {
			offer(h.Name, h.Host)
		}
		return err
	})
}

// CompleteManyKeys offers the names of keys for each operand.
func (a *App) CompleteManyKeys(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.CompleteKeys(cmd, nil, prefix)
}
