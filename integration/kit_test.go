package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"keyhole/audit"
	"keyhole/integration/internal/proc"
)

// patience is how long a test waits for what must happen. Nothing is measured
// by it.
const patience = proc.Patience

var (
	bin  string // the directory of keyholed and keyhole
	repo string // the root of the source tree
)

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keyhole-integration-")
	if err == nil {
		defer os.RemoveAll(dir)
		repo, err = filepath.Abs("..")
	}
	if err == nil {
		bin, err = proc.Programs(repo, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	return m.Run()
}

// gateway is a development gateway in a directory of its own. It may run,
// stop and run again; its addresses stay.
type gateway struct {
	t    *testing.T
	dir  string // what `keyholed dev` made
	api  string // https://127.0.0.1:port
	ops  string // http://127.0.0.1:port
	proc *process
	http *http.Client

	extra []string // environment of the next start
}

// newGateway starts one and waits until it is ready.
func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: filepath.Join(t.TempDir(), "keyhole-dev")}
	g.start()
	return g
}

// stopped makes a development directory, for a test to change before start.
func stopped(t *testing.T) *gateway {
	t.Helper()
	g := newGateway(t)
	g.stop()
	return g
}

// start starts `keyholed dev` and waits until it is ready.
func (g *gateway) start() {
	g.t.Helper()
	listen, ops := "127.0.0.1:0", "127.0.0.1:0"
	if g.api != "" {
		listen, ops = strings.TrimPrefix(g.api, "https://"), strings.TrimPrefix(g.ops, "http://")
	}
	g.proc = run(g.t, g.extra, "dev", "--dir", g.dir, "--listen", listen, "--ops-listen", ops)
	eventually(g.t, "keyholed listens", func() bool {
		g.alive()
		g.api, g.ops = g.line("keyhole.addr"), g.line("ops.addr")
		return g.api != "" && g.ops != ""
	})
	if g.http == nil {
		g.http = g.newHTTP(nil)
	}
	eventually(g.t, "keyholed is ready", func() bool {
		g.alive()
		status, _, err := g.get("/readyz")
		return err == nil && status == http.StatusOK
	})
}

// alive fails the test if keyholed has ended.
func (g *gateway) alive() {
	g.t.Helper()
	select {
	case <-g.proc.done:
		g.t.Fatalf("keyholed ended with status %d:\n%s", g.proc.wait(), g.proc.stderr)
	default:
	}
}

// stop ends it in order.
func (g *gateway) stop() {
	g.t.Helper()
	g.proc.signal(syscall.SIGTERM)
	if status := g.proc.wait(); status != 0 {
		g.t.Fatalf("status %d after SIGTERM:\n%s", status, g.proc.stderr)
	}
}

// kill ends it in the middle of whatever it does.
func (g *gateway) kill() {
	g.t.Helper()
	g.proc.signal(syscall.SIGKILL)
	g.proc.wait()
}

func (g *gateway) path(name string) string { return filepath.Join(g.dir, name) }

// line returns a file of the directory without its line end, or "" if there
// is none.
func (g *gateway) line(name string) string {
	g.t.Helper()
	text, err := os.ReadFile(g.path(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		g.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// edit replaces old by new in a file of the directory, by renaming a finished
// file over it.
func (g *gateway) edit(name, old, new string) {
	g.t.Helper()
	text := g.line(name) + "\n"
	if !strings.Contains(text, old) {
		g.t.Fatalf("%s does not hold %q:\n%s", name, old, text)
	}
	g.put(name, strings.Replace(text, old, new, 1))
}

func (g *gateway) put(name, text string) {
	g.t.Helper()
	write(g.t, g.path(name)+".new", text)
	if err := os.Rename(g.path(name)+".new", g.path(name)); err != nil {
		g.t.Fatal(err)
	}
}

// get reads a page of the operations listener.
func (g *gateway) get(path string) (status int, body string, err error) {
	resp, err := http.Get(g.ops + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// page is get of a page that must be there.
func (g *gateway) page(path string) (status int, body string) {
	g.t.Helper()
	status, body, err := g.get(path)
	if err != nil {
		g.t.Fatal(err)
	}
	return status, body
}

// records returns the audit log.
func (g *gateway) records() []audit.Record {
	g.t.Helper()
	var all []audit.Record
	for r, err := range audit.Read(g.path("audit")) {
		if err != nil {
			g.t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// audited returns the records that are as asked.
func (g *gateway) audited(is func(audit.Record) bool) []audit.Record {
	g.t.Helper()
	var some []audit.Record
	for _, r := range g.records() {
		if is(r) {
			some = append(some, r)
		}
	}
	return some
}

// process is a running program.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr *output
	done           <-chan struct{}
	p              *proc.Process
}

// run starts keyholed. The test ends it, shows what it said if it failed, and
// fails on data races.
func run(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "keyholed"), args...)
	cmd.Env = append(os.Environ(), env...)
	p := proc.Start(t, cmd)
	return &process{t: t, cmd: cmd, stdout: p.Stdout, stderr: p.Stderr, done: p.Done, p: p}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	p.p.Signal(s)
}

// wait returns the exit status.
func (p *process) wait() int {
	p.t.Helper()
	return p.p.Wait()
}

// output collects what a program writes.
type output = proc.Output

func tail(s string, n int) string { return proc.Tail(s, n) }

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	proc.Eventually(t, what, ok)
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
