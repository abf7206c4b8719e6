// Package admin holds the commands that show and change keys.
package admin

import (
	"github.com/spf13/cobra"

	"keyhole/cmd/keyhole/internal/app"
)

// Show returns the commands that change nothing and need no administrator.
func Show(a *app.App) []*cobra.Command {
	return []*cobra.Command{jwksCmd(a), statusCmd(a), whoamiCmd(a), openAPICmd(a)}
}

// Manage returns the commands about keys.
func Manage(a *app.App) []*cobra.Command { return []*cobra.Command{keyCmd(a)} }
