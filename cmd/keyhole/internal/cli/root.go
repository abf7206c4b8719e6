package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/term"
)

// Env is the process around the commands.
type Env struct {
	Streams term.Streams
	Getenv  func(string) string
	Version string // "": what the build info says
}

// app is one run of the program.
type app struct {
	Env
	flags   globals
	running bool // a command's own code has begun: errors are no longer about usage
}

// globals are the flags of every command.
type globals struct {
	addr, cacert, tokenFile, cert, key string
	timeout                            time.Duration
	output                             string
}

// Output formats.
const (
	outputText = "text"
	outputJSON = "json"
)

const rootHelp = `keyhole talks to a Keyhole gateway: it signs, verifies, encrypts and decrypts with
keys that never leave the HSM, and manages these keys.

Environment:
  KEYHOLE_ADDR         URL of the gateway, https://keyhole.example:8443
  KEYHOLE_CACERT       file of the CA certificates that vouch for the gateway (PEM)
  KEYHOLE_TOKEN        access token (a JWT); never a flag, flags are seen by everybody
  KEYHOLE_TOKEN_FILE   file that holds the access token
  KEYHOLE_CERT         file of the client certificate for mutual TLS (PEM)
  KEYHOLE_KEY          file of its private key (PEM)

Exit codes:
` + exitHelp

// Run runs one command line and returns the exit code.
func Run(ctx context.Context, env Env, args []string) int {
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(env.Streams.In)
	root.SetOut(env.Streams.Out)
	root.SetErr(env.Streams.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	if !a.running {
		err = &usageError{text: err.Error(), cmd: cmd}
	}
	return a.report(ctx, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "keyhole",
		Short:         "Use and manage HSM keys through a Keyhole gateway",
		Long:          rootHelp,
		Version:       versionText(a.Version),
		SilenceErrors: true,
		SilenceUsage:  true,
		Example: `  export KEYHOLE_ADDR=https://127.0.0.1:8443 KEYHOLE_CACERT=ca.crt KEYHOLE_TOKEN_FILE=agent.jwt
  keyhole whoami
  keyhole sign payments invoice.txt --format jws-detached > invoice.jws
  keyhole verify payments invoice.txt --jws-file invoice.jws`,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	group(root)
	f := root.PersistentFlags()
	f.SortFlags = false
	f.StringVar(&a.flags.addr, "addr", "", "`URL` of the gateway (KEYHOLE_ADDR)")
	f.StringVar(&a.flags.cacert, "cacert", "", "`FILE` of the CA certificates that vouch for the gateway (KEYHOLE_CACERT)")
	f.StringVar(&a.flags.tokenFile, "token-file", "", "`FILE` that holds the access token (KEYHOLE_TOKEN_FILE)")
	f.StringVar(&a.flags.cert, "cert", "", "`FILE` of the client certificate (KEYHOLE_CERT)")
	f.StringVar(&a.flags.key, "key", "", "`FILE` of the client certificate's private key (KEYHOLE_KEY)")
	f.DurationVar(&a.flags.timeout, "timeout", 0, "wait for `DURATION` at most, retries included (default 30s; 2m where keys are made)")
	f.StringVarP(&a.flags.output, "output", "o", outputText, "`FORMAT` of the answer: text, or json for the API's own bodies")
	complete(root, "output", outputText, outputJSON)

	add := func(title string, cmds ...*cobra.Command) {
		root.AddGroup(&cobra.Group{ID: title, Title: title + ":"})
		for _, c := range cmds {
			c.GroupID = title
		}
		root.AddCommand(cmds...)
	}
	add("Use keys", a.signCmd(), a.verifyCmd(), a.encryptCmd(), a.decryptCmd(), a.rewrapCmd(), a.datakeyCmd(), a.randomCmd())
	add("See keys", a.jwksCmd(), a.whoamiCmd())
	add("Manage keys", a.keyCmd(), a.rotateCmd(), a.rotationCmd(), a.versionCmd())
	add("Elsewhere")
	root.SetHelpCommandGroupID("Elsewhere")
	root.SetCompletionCommandGroupID("Elsewhere")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return flagError(cmd, err) })
	a.begin(root)
	return root
}

// begin marks the moment at which each command's own code begins.
func (a *app) begin(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if a.flags.output != outputText && a.flags.output != outputJSON {
				return fmt.Errorf("the output format %q is unknown; use text or json", a.flags.output)
			}
			if cmd.Flags().Changed("timeout") && a.flags.timeout <= 0 {
				return fmt.Errorf("--timeout wants a time above zero, such as 30s")
			}
			a.running = true
			return run(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		a.begin(sub)
	}
}

// call connects and makes one call of the API.
func call[T any](a *app, cmd *cobra.Command, ask func(ctx context.Context, c *client.Client) (T, error)) (T, error) {
	c, err := a.connect(cmd)
	if err != nil {
		var none T
		return none, err
	}
	defer c.Close()
	return ask(cmd.Context(), c)
}

// changed reports whether any of the flags was given.
func changed(f *pflag.FlagSet, names ...string) bool {
	for _, name := range names {
		if f.Changed(name) {
			return true
		}
	}
	return false
}
