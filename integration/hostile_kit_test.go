package integration

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"keyhole/integration/internal/proc"
)

// serve starts the directory's gateway by a command that runs `keyholed
// serve`, in an environment of its own if the command has one, and waits until
// it serves.
func (g *gateway) serve(cmd *exec.Cmd) *process {
	g.t.Helper()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	p := proc.Start(g.t, cmd)
	g.proc = &process{t: g.t, cmd: cmd, stdout: p.Stdout, stderr: p.Stderr, done: p.Done, p: p}
	eventually(g.t, "keyholed serves", func() bool {
		g.alive()
		return strings.Contains(p.Stdout.String(), "\n")
	})
	_, err := fmt.Sscanf(p.Stdout.String(), "keyholed serves %s (operations: %s", &g.api, &g.ops)
	must(g.t, err)
	g.ops = strings.TrimSuffix(g.ops, ")")
	return g.proc
}
