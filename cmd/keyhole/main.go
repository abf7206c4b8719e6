// Command keyhole is the command line of the Keyhole gateway. It speaks the
// gateway's REST API through package client, needs no HSM library, and builds
// with CGO_ENABLED=0.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/cli"
	"keyhole/cmd/keyhole/internal/term"
)

// version is set by -ldflags "-X main.version=..."; else the build info says.
var version string

func main() { os.Exit(run()) }

// run returns the exit code: 128 and the signal's number after a signal, as
// shells have it. The first signal cancels, the second ends the process.
func run() int {
	terminated, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	context.AfterFunc(terminated, stop)
	ctx, stop2 := signal.NotifyContext(terminated, os.Interrupt)
	defer stop2()
	context.AfterFunc(ctx, stop2)

	code := cli.Run(ctx, app.Env{Streams: term.Std(), Getenv: os.Getenv, Version: version}, os.Args[1:])
	if code == app.ExitInterrupted && terminated.Err() != nil {
		return 128 + int(syscall.SIGTERM)
	}
	return code
}
