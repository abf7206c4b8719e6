package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"keyhole/cmd/keyhole/internal/admin"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/auditlog"
	"keyhole/cmd/keyhole/internal/data"
	"keyhole/cmd/keyhole/internal/follow"
	"keyhole/cmd/keyhole/internal/lifecycle"
	"keyhole/cmd/keyhole/internal/operate"
	"keyhole/cmd/keyhole/internal/people"
	"keyhole/cmd/keyhole/internal/policy"
)

const rootHelp = `keyhole talks to a Keyhole gateway: it signs, verifies, encrypts and decrypts with
keys that never leave the HSM, and manages these keys.

Environment:
` + app.EnvHelp + `
Exit codes:
` + app.ExitHelp

// Run runs one command line and returns the exit code.
func Run(ctx context.Context, env app.Env, args []string) int {
	a := app.New(env)
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(env.Streams.In)
	root.SetOut(env.Streams.Out)
	root.SetErr(env.Streams.Err)
	cmd, err := root.ExecuteContextC(ctx)
	return a.Report(ctx, cmd, err)
}

func newRoot(a *app.App) *cobra.Command {
	root := app.Group(&cobra.Command{
		Use:           "keyhole",
		Short:         "Use and manage HSM keys through a Keyhole gateway",
		Long:          rootHelp,
		Version:       a.Build(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Example: `  export KEYHOLE_ADDR=https://127.0.0.1:8443 KEYHOLE_CACERT=ca.crt KEYHOLE_TOKEN_FILE=agent.jwt
  keyhole whoami
  keyhole sign payments invoice.txt --format jws-detached > invoice.jws
  keyhole verify payments invoice.txt --jws-file invoice.jws`,
	})
	root.SetVersionTemplate("{{.Version}}\n")
	a.Flags(root)
	add := func(title string, cmds ...*cobra.Command) {
		root.AddGroup(&cobra.Group{ID: title, Title: title + ":"})
		for _, c := range cmds {
			c.GroupID = title
		}
		root.AddCommand(cmds...)
	}
	add("Use keys", data.Commands(a)...)
	add("See keys", admin.Show(a)...)
	add("Manage keys", slices.Concat(admin.Manage(a), lifecycle.Commands(a))...)
	add("Follow keys", follow.Commands(a)...)
	add("People and gateways", slices.Concat(people.Commands(a), operate.Commands(a))...)
	const other = "Other"
	add(other, auditlog.Command(a), policy.Command(a))
	root.SetHelpCommandGroupID(other)
	root.SetCompletionCommandGroupID(other)
	a.Begin(root)
	return root
}
