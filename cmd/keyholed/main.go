// Command keyholed is the Keyhole gateway: the server between agents and an
// HSM. This file holds the command line and the signals; everything else is
// in internal.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/cmd/keyholed/internal/harden"
	"keyhole/cmd/keyholed/internal/strictyaml"
)

// version is set by the linker (-X main.version=...).
var version = ""

func main() {
	if err := harden.Process(); err != nil {
		fmt.Fprintln(os.Stderr, "keyholed: WARNING:", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stop := make(chan os.Signal, 2)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-stop
		cancel()
		<-stop
		fmt.Fprintln(os.Stderr, "keyholed: second signal: ending at once")
		os.Exit(exit.Failure)
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// app is one invocation.
type app struct {
	out, err io.Writer
	ran      bool // the command line was understood
}

// run executes the command line and returns the exit status.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	a := &app{out: out, err: errOut}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exit.OK
	}
	if !a.ran {
		err = exit.With(exit.Config, "`keyholed --help` shows the commands and flags", err)
	}
	a.warn("keyholed: %v\n", err)
	if hint := exit.Hint(err); hint != "" {
		a.warn("hint: %s\n", hint)
	}
	return exit.Status(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "keyholed",
		Short: "The Keyhole gateway: signs and decrypts with keys that never leave the HSM",
		Long: "keyholed stands between agents and a PKCS#11 HSM. Agents authenticate with a JWT or a client\n" +
			"certificate and have payloads signed, verified, encrypted and decrypted; the keys stay in the HSM.\n\n" +
			"To try it: keyholed dev --dir keyhole-dev\n\n" + exit.Help,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(a.serveCommand(), a.devCommand(), a.checkCommand(), a.reconcileCommand(), a.adoptCommand(), a.migrateCommand(), a.versionCommand())
	return root
}

// action marks that the command line was understood: errors from here on are
// not about it.
func (a *app) action(f func(ctx context.Context) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		a.ran = true
		return f(c.Context())
	}
}

// warn writes to standard error; nobody could be told that it failed.
func (a *app) warn(format string, args ...any) { _, _ = fmt.Fprintf(a.err, format, args...) }

// flagError adds the flag that was probably meant.
func flagError(c *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return err
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if guess := strictyaml.Nearest(unknown.GetSpecifiedName(), names); guess != "" {
		return fmt.Errorf("%w; did you mean --%s?", err, guess)
	}
	return err
}
