package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/cmd/keyholed/internal/material"
	"keyhole/cmd/keyholed/internal/report"
)

func (a *app) checkCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "check-config --config keyhole.yaml",
		Short: "Check a configuration and the files that it names",
		Long: "Reads the configuration and every certificate, key, JWKS, CRL, group and policy file that it names, says\n" +
			"what it found, and what it did not check. It opens files only: no listener, no HSM, no database, no network.\n\n" +
			"Exit status:\n  0  everything that was checked is good\n  2  something is not; nothing was changed",
		Args: cobra.NoArgs,
		RunE: a.action(func(ctx context.Context) error { return a.check(ctx, file) }),
	}
	configFlag(c, &file)
	return c
}

func (a *app) check(ctx context.Context, file string) error {
	cfg, err := loadConfig(file)
	if err != nil {
		return err
	}
	quiet := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	files, err := material.Load(ctx, cfg, material.Options{Log: quiet})
	if err != nil {
		return exit.With(exit.Config, "", fmt.Errorf("the configuration names files that cannot be used:\n%w", err))
	}
	return report.Write(a.out, cfg, files, time.Now())
}
