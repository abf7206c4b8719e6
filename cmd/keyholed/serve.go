package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/cmd/keyholed/internal/harden"
	"keyhole/cmd/keyholed/internal/server"
	"keyhole/cmd/keyholed/internal/strictyaml"
)

func (a *app) serveCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "serve --config keyhole.yaml",
		Short: "Run the gateway",
		Long: "Runs the gateway until SIGTERM or SIGINT, which lets requests under way end; a second signal ends it\n" +
			"at once. SIGHUP, or a change of the files, loads certificates, client CAs, CRLs, JWKS files, groups and\n" +
			"policies anew; what is in keyhole.yaml itself needs a restart.\n\n" + exit.Help,
		Args: cobra.NoArgs,
		RunE: a.action(func(ctx context.Context) error {
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			return a.serve(ctx, cfg, func(api, ops string) error {
				_, err := fmt.Fprintln(a.out, servingLine(api, ops))
				return err
			})
		}),
	}
	configFlag(c, &file)
	return c
}

func configFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "config", "", "the configuration `file` (required); docs/keyhole.yaml describes it")
}

func loadConfig(file string) (*config.Config, error) {
	if file == "" {
		return nil, exit.With(exit.Config, "", errors.New("--config is missing: name the configuration file"))
	}
	cfg, err := config.Load(file)
	if err == nil {
		for _, t := range cfg.Tokens {
			if t.PINEnv != "" {
				harden.HideEnv(t.PINEnv)
			}
		}
		return cfg, nil
	}
	hint := ""
	if all, ok := errors.AsType[strictyaml.Errors](err); ok {
		hint = fmt.Sprintf("nothing was started; correct the %d mistakes above, and see docs/keyhole.yaml for every field", len(all))
		if len(all) == 1 {
			hint = "nothing was started; correct the mistake above, and see docs/keyhole.yaml for every field"
		}
		err = fmt.Errorf("the configuration cannot be used:\n%w", err)
	}
	return nil, exit.With(exit.Config, hint, err)
}

// serve runs the gateway with its log on standard error.
func (a *app) serve(ctx context.Context, cfg *config.Config, serving func(api, ops string) error) error {
	b := buildInfo()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	return server.Run(ctx, cfg, server.Options{
		Log: a.logger(cfg.Log), Version: b.version, Revision: b.revision, Reload: hup, Serving: serving,
	})
}

func (a *app) logger(l config.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: l.SlogLevel()}
	if l.Format == "text" {
		return slog.New(slog.NewTextHandler(a.err, options))
	}
	return slog.New(slog.NewJSONHandler(a.err, options))
}

func servingLine(api, ops string) string {
	if ops == "" {
		return "keyholed serves " + api + " (no operations listener)"
	}
	return "keyholed serves " + api + " (operations: " + ops + ")"
}
