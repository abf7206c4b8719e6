package app

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyhole/gateway/api"
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
