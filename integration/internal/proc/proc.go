// Package proc builds the programs and runs them, for tests of them as they
// are. A process that a test started ends with the test, which shows what it
// said if it failed.
package proc

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Patience is how long a test waits for what must happen. Nothing is measured
// by it.
const Patience = 2 * time.Minute

// Process is a running program.
type Process struct {
	Cmd            *exec.Cmd
	Stdout, Stderr *Output
	Done           chan struct{} // closed when it has ended

	t testing.TB
}

// Start starts a command. The test ends it, shows what it said if it failed,
// and fails on data races in it.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Cmd: cmd, Stdout: &Output{}, Stderr: &Output{}, Done: make(chan struct{}), t: t}
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // ProcessState has the status
		close(p.Done)
	}()
	t.Cleanup(func() {
		if p.Running() {
			_ = cmd.Process.Kill()
			<-p.Done
		}
		if strings.Contains(p.Stderr.String(), "WARNING: DATA RACE") {
			t.Error("data race")
		}
		if t.Failed() {
			t.Logf("%s %s said:\n%s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), Tail(p.Stderr.String(), 16<<10))
		}
	})
	return p
}

// Running reports whether it has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.Done:
		return false
	default:
		return true
	}
}

// Signal sends it a signal.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Wait returns the exit status.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.Done:
		return p.Cmd.ProcessState.ExitCode()
	case <-time.After(Patience):
		p.t.Fatalf("%s does not end", filepath.Base(p.Cmd.Path))
		return -1
	}
}

// Output collects what a program writes.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Tail returns the last n bytes of s.
func Tail(s string, n int) string {
	if len(s) > n {
		return "[...]" + s[len(s)-n:]
	}
	return s
}

// Eventually waits until ok.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}
