package app

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/term"
)

// Env is the process around the commands.
type Env struct {
	Streams term.Streams
	Getenv  func(string) string
	Version string // "": what the build info says
}

// App is one run of the program.
type App struct {
	Env
	flags   flags
	running bool // a command's own code has begun: errors are no longer about usage
}

// New returns an App.
func New(env Env) *App { return &App{Env: env} }

// flags are those of every command.
type flags struct {
	addr, cacert, tokenFile, cert, key string
	timeout                            time.Duration
	output                             string
}

// Output formats.
const (
	outputText = "text"
	outputJSON = "json"
)

// EnvHelp describes the environment that the commands look at.
const EnvHelp = `  KEYHOLE_ADDR         URL of the gateway, https://keyhole.example:8443; of several over one store,
                       separated by commas, the next one is asked when one cannot be reached or says 503
  KEYHOLE_CACERT       file of the CA certificates that vouch for the gateway (PEM)
  KEYHOLE_TOKEN        access token (a JWT); never a flag, flags are seen by everybody
  KEYHOLE_TOKEN_FILE   file that holds the access token
  KEYHOLE_CERT         file of the client certificate for mutual TLS (PEM)
  KEYHOLE_KEY          file of its private key (PEM)
`

// Flags gives the root command the flags of every command.
func (a *App) Flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&a.flags.addr, "addr", "", "`URL` of the gateway, or several with commas between (KEYHOLE_ADDR)")
	f.StringVar(&a.flags.cacert, "cacert", "", "`FILE` of the CA certificates that vouch for the gateway (KEYHOLE_CACERT)")
	f.StringVar(&a.flags.tokenFile, "token-file", "", "`FILE` that holds the access token (KEYHOLE_TOKEN_FILE)")
	f.StringVar(&a.flags.cert, "cert", "", "`FILE` of the client certificate (KEYHOLE_CERT)")
	f.StringVar(&a.flags.key, "key", "", "`FILE` of the client certificate's private key (KEYHOLE_KEY)")
	f.DurationVar(&a.flags.timeout, "timeout", 0, "wait for `DURATION` at most, retries included (default 30s; 2m where keys are made)")
	f.StringVarP(&a.flags.output, "output", "o", outputText, "`FORMAT` of the answer: text, or json for the API's own bodies")
	Complete(root, "output", outputText, outputJSON)
	for _, name := range []string{"addr", "timeout"} {
		Complete(root, name)
	}
	root.SetFlagErrorFunc(flagError)
}

// Begin marks the moment at which each command's own code begins.
func (a *App) Begin(cmd *cobra.Command) {
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
		a.Begin(sub)
	}
}

// Call connects and makes one call of the API.
func Call[T any](a *App, cmd *cobra.Command, ask func(ctx context.Context, c *client.Client) (T, error)) (T, error) {
	c, err := a.Connect(cmd)
	if err != nil {
		var none T
		return none, err
	}
	defer c.Close()
	if what := cmd.Annotations[Slow]; what != "" {
		defer a.Streams.Waiting(what)()
	}
	return ask(cmd.Context(), c)
}

// Text reports whether the answer goes out as text, not as JSON.
func (a *App) Text() bool { return a.flags.output == outputText }
