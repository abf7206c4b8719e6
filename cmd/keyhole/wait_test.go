package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"keyhole/gateway/api"
	"keyhole/gateway/gatewaytest"
	"keyhole/keys"
)

// output runs keyhole to its end and returns what it printed.
func output(t *testing.T, g *gatewaytest.Gateway, token string, args ...string) string {
	t.Helper()
	cmd, errs := keyhole(g, token, args...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("keyhole %s: %v, %s", strings.Join(args, " "), err, errs)
	}
	return string(out)
}

// Ctrl-C ends the wait and not the rotation; whoever comes back sees it end,
// through a gateway that does not always answer.
func TestWaitIsLeft(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	g := gatewaytest.Start(t, gatewaytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if down.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	admin, agent := g.TokenFile(t, "alice", gatewaytest.Admins), g.TokenFile(t, "bob", gatewaytest.Agents)
	output(t, g, admin, "key", "create", "payments", "--algorithm", "ES256", "--acks", "all", "--acks-timeout", "1h")
	output(t, g, agent, "subscribe", "payments")

	cmd, _ := keyhole(g, admin, "rotate", "payments", "--wait")
	cmd.Stderr = nil
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	first, err := lines.ReadString('\n')
	if want := "payments.v2: announced, 0 of 1 acknowledged, missing jwt:test:bob; next: schedule\n"; err != nil || first != want {
		t.Errorf("the first line is %q, %v; want %q", first, err, want)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	_ = cmd.Wait() // the code is looked at
	said := regexp.MustCompile(`^keyhole: interrupted: the rotation goes on by itself; keyhole rotation show ([0-9A-Z]{26}) tells how it stands\n$`).FindSubmatch(rest)
	if err != nil || said == nil || cmd.ProcessState.ExitCode() != 130 {
		t.Fatalf("exit code %d, %q, %v", cmd.ProcessState.ExitCode(), rest, err)
	}
	id := string(said[1])

	cmd, _ = keyhole(g, admin, "rotation", "show", id, "--wait", "-o", "json")
	cmd.Stderr = nil
	if stderr, err = cmd.StderrPipe(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines = bufio.NewReader(stderr)
	_, _ = lines.ReadString('\n')
	down.Store(true)
	if line, _ := lines.ReadString('\n'); !strings.Contains(line, "the gateway does not answer") {
		t.Errorf("while the gateway does not answer: %q", line)
	}
	down.Store(false)
	output(t, g, agent, "ack", "payments.v2")
	_, _ = io.Copy(io.Discard, lines)
	var r api.Rotation
	if err := cmd.Wait(); err != nil || json.Unmarshal([]byte(out.String()), &r) != nil || r.Phase != string(keys.PhaseCompleted) {
		t.Errorf("%v, %s", err, out.String())
	}
}
