package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build says what is running.
type build struct{ version, revision string }

// buildInfo takes what the linker set, and the rest from what the Go tool
// recorded.
func buildInfo() build {
	b := build{version: version, revision: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b.named()
	}
	modified := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.revision = s.Value
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if modified {
		b.revision += "+modified"
	}
	if b.version == "" && info.Main.Version != "" {
		b.version = info.Main.Version
	}
	return b.named()
}

func (b build) named() build {
	if b.version == "" {
		b.version = "unknown"
	}
	return b
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, the commit and the Go release",
		Args:  cobra.NoArgs,
		RunE: a.action(func(context.Context) error {
			b := buildInfo()
			_, err := fmt.Fprintf(a.out, "keyholed %s (commit %s, %s, %s/%s)\n", b.version, b.revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		}),
	}
}
