// Package auditlog holds the commands that read an audit log: in its
// directory, with public keys and no gateway, or through the gateway.
package auditlog

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"keyhole/audit/checkpoint"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/term"
)

// Command returns the command audit.
func Command(a *app.App) *cobra.Command {
	return app.Group(&cobra.Command{
		Use:   "audit",
		Short: "Verify, prove, search and archive an audit log",
		Long: `Works on the directory of an audit log, or a copy of it, and needs no gateway but
public keys alone: audit-keys.pem, as the gateway keeps it. Whoever verifies should
have got that file, and checkpoints, at another time or by another way than the log.

checkpoint, keys, and prove and search without a directory ask the gateway.`,
		Example: `  keyhole audit verify /var/lib/keyhole/audit --key audit-keys.pem
  keyhole audit search /var/lib/keyhole/audit --key payments --outcome denied`,
	}, verifyCmd(a), proveCmd(a), verifyProofCmd(a), searchCmd(a), tailCmd(a), archiveCmd(a), checkpointCmd(a), keysCmd(a))
}

// directory lets the shell offer directories as the first operand.
func directory(cmd *cobra.Command) {
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// keysFlag adds --key, the file of audit keys.
func keysFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "key", "", "`FILE` of the public audit keys (audit-keys.pem)")
	_ = cmd.MarkFlagRequired("key") // it exists, one line up
}

func readKeys(path string) (*checkpoint.Keys, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, app.Usagef("the audit keys: %s", err)
	}
	ks, err := checkpoint.ParseKeys(b)
	if err != nil {
		return nil, app.Usagef("%s: %s", path, err)
	}
	return ks, nil
}

// say prints lines of text that may quote the log.
func say(w io.Writer, format string, args ...any) error {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		if _, err := fmt.Fprintln(w, term.Clean(line)); err != nil {
			return err
		}
	}
	return nil
}
