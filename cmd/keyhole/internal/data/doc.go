// Package data holds the commands that use keys: sign, verify, encrypt,
// decrypt, rewrap, datakey, random, and their batches.
package data

import (
	"github.com/spf13/cobra"

	"keyhole/cmd/keyhole/internal/app"
)

// Commands returns the commands.
func Commands(a *app.App) []*cobra.Command {
	return []*cobra.Command{signCmd(a), verifyCmd(a), encryptCmd(a), decryptCmd(a), rewrapCmd(a), datakeyCmd(a), randomCmd(a)}
}
