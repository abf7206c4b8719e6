package cluster

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// aheadBy builds what lets an unmodified Go program live so many seconds
// ahead: see testdata/clock.c.
func aheadBy(t *testing.T, seconds int) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "clock.so")
	cmd := exec.CommandContext(t.Context(), "gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fno-stack-protector", fmt.Sprint("-DAHEAD=", seconds),
		"-Wl,--version-script=testdata/clock.map", "-o", file, "testdata/clock.c")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return file
}

// clock returns the time of a gateway, by the header of an answer.
func (g *gate) clock() time.Time {
	g.s.t.Helper()
	req, err := http.NewRequestWithContext(g.s.t.Context(), http.MethodGet, fmt.Sprintf("http://%s:%d/healthz", g.host, opsPort), nil)
	must(g.s.t, err)
	resp, err := ops.Do(req)
	must(g.s.t, err)
	defer resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	must(g.s.t, err)
	return at
}
