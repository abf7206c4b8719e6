package main

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"keyhole/gateway/gatewaytest"
)

// A signal ends a call under way, and the exit code says which it was.
func TestSignals(t *testing.T) {
	t.Parallel()
	for sig, want := range map[os.Signal]int{os.Interrupt: 130, syscall.SIGTERM: 143} {
		arrived := make(chan struct{})
		var once sync.Once
		g := gatewaytest.Start(t, gatewaytest.Options{Wrap: func(http.Handler) http.Handler {
			return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				once.Do(func() { close(arrived) })
				<-r.Context().Done() // an HSM that does not answer
			})
		}})
		cmd, errs := keyhole(g, g.TokenFile(t, "bob", gatewaytest.Agents), "whoami", "--timeout", "10m")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-arrived
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the code is looked at
		if got := cmd.ProcessState.ExitCode(); got != want || errs.String() != "keyhole: interrupted\n" {
			t.Errorf("%s: exit code %d, want %d; %q", sig, got, want, errs)
		}
	}
}

// While standard input is read, a signal ends it too.
func TestSignalWhileReading(t *testing.T) {
	t.Parallel()
	g := gatewaytest.Start(t, gatewaytest.Options{})
	cmd, errs := keyhole(g, g.TokenFile(t, "bob", gatewaytest.Agents), "sign", "payments", "--hash", "sha-256")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A pipe takes 64 KiB: the second half goes in when the process reads.
	if _, err := w.Write(make([]byte, 128<<10)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the code is looked at
	if got := cmd.ProcessState.ExitCode(); got != 130 {
		t.Errorf("exit code %d, want 130; %q", got, errs)
	}
}

// keyhole is the program with credentials for a gateway.
func keyhole(g *gatewaytest.Gateway, tokenFile string, args ...string) (*exec.Cmd, *strings.Builder) {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "KEYHOLE_ADDR="+g.URL, "KEYHOLE_CACERT="+g.CAFile, "KEYHOLE_TOKEN_FILE="+tokenFile, "KEYHOLE_TOKEN=")
	errs := new(strings.Builder)
	cmd.Stderr = errs
	return cmd, errs
}
