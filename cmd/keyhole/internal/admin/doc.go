// Package admin holds the commands that show and change keys.
package admin

import (
	"github.com/spf13/cobra"

	"keyhole/cmd/keyhole/internal/app"
)

// Show returns the commands that change nothing and need no administrator.
func Show(a *app.App) []*cobra.Command {
	return []*cobra.Command{jwksCmd(a), whoamiCmd(a), openAPICmd(a)}
}

// Manage returns the commands about keys, versions and rotations.
func Manage(a *app.App) []*cobra.Command {
	return []*cobra.Command{keyCmd(a), rotateCmd(a), rotationCmd(a), versionCmd(a)}
}
