package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keyhole/client"
)

// asKeyholed makes the test binary be keyholed: the tests run real processes,
// under the race detector, without building anything.
const asKeyholed = "KEYHOLED_TEST_AS_KEYHOLED"

func TestMain(m *testing.M) {
	if os.Getenv(asKeyholed) != "" {
		main()
	}
	os.Exit(m.Run())
}

// patience is how long a test waits for what must happen. Nothing is
// measured by it.
const patience = time.Minute

// process is a running keyholed.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	api    string // URL
	ops    string
	log    *watchedBuffer // standard error
	out    *watchedBuffer // standard output
	exited chan struct{}
}

// start starts keyholed and waits until it serves or ends.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := launch(t, args...)
	p.await()
	return p
}

// launch starts keyholed.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, log: newWatchedBuffer(), out: newWatchedBuffer(), exited: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Env = append(os.Environ(), asKeyholed+"=1")
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the status is read from ProcessState
		close(p.exited)
		p.out.wake()
		p.log.wake()
	}()
	t.Cleanup(func() {
		select {
		case <-p.exited:
		default:
			_ = p.cmd.Process.Kill()
			<-p.exited
		}
		if t.Failed() {
			t.Logf("keyholed %s\nstandard output:\n%s\nstandard error:\n%s", strings.Join(args, " "), p.out, p.log)
		}
	})
	return p
}

// await waits until keyholed serves or ends.
func (p *process) await() {
	p.t.Helper()
	line := regexp.MustCompile(`(?m)^keyholed serves (https://\S+) \((?:operations: (http://[^)]+)|no operations listener)\)$`)
	p.out.waitFor(p.t, p, func(text string) bool { return line.MatchString(text) })
	if m := line.FindStringSubmatch(p.out.String()); m != nil {
		p.api, p.ops = m[1], m[2]
	}
}

// serving is start for a keyholed that must come up.
func serving(t *testing.T, args ...string) *process {
	t.Helper()
	p := start(t, args...)
	if p.api == "" {
		t.Fatalf("keyholed ended with status %d:\n%s", p.wait(), p.log)
	}
	return p
}

// devGateway starts `keyholed dev` on free ports.
func devGateway(t *testing.T, dir string) *process {
	t.Helper()
	return serving(t, "dev", "--dir", dir, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")
}

// serve starts `keyholed serve` with the configuration of a dev directory.
func serve(t *testing.T, dir string) *process {
	t.Helper()
	return start(t, "serve", "--config", filepath.Join(dir, "keyhole.yaml"))
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wait returns the exit status.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatal("keyholed does not end")
		return -1
	}
}

// stop ends keyholed in order.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		p.t.Fatalf("status %d after SIGTERM, want 0\n%s", status, p.log)
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
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

// caller returns a client with a token of the dev directory.
func (p *process) caller(dir, token string) *client.Client {
	p.t.Helper()
	c, err := client.New(client.Config{
		Address: p.api, CACertFile: filepath.Join(dir, "ca.crt"), Token: client.TokenFile(filepath.Join(dir, token)), Retries: -1,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(c.Close)
	return c
}

// holder returns a client with a client certificate of the dev directory.
func (p *process) holder(dir, name string) *client.Client {
	p.t.Helper()
	c, err := client.New(client.Config{
		Address: p.api, CACertFile: filepath.Join(dir, "ca.crt"),
		CertFile: filepath.Join(dir, name+".crt"), KeyFile: filepath.Join(dir, name+".key"), Retries: -1,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(c.Close)
	return c
}

// get reads a page of the operations listener.
func (p *process) get(path string) (status int, body string) {
	p.t.Helper()
	resp, err := http.Get(p.ops + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// certificate returns what the listener shows now.
func (p *process) certificate(dir string) *x509.Certificate {
	p.t.Helper()
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		p.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.api, "https://"), &tls.Config{RootCAs: roots})
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// audited counts the audit records that hold every one of parts.
func audited(t *testing.T, dir string, parts ...string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "audit", "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no audit log: %v", err)
	}
	n := 0
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			has := true
			for _, part := range parts {
				has = has && strings.Contains(s.Text(), part)
			}
			if has {
				n++
			}
		}
		f.Close()
	}
	return n
}

// replace changes old to new in a file, through a new file as careful
// programs do it.
func replace(t *testing.T, name, old, new string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s does not hold %q:\n%s", name, old, text)
	}
	put(t, name, strings.Replace(string(text), old, new, 1))
}

func put(t *testing.T, name, text string) {
	t.Helper()
	tmp := name + ".new"
	if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o600), os.Rename(tmp, name)); err != nil {
		t.Fatal(err)
	}
}

// watchedBuffer collects output and tells of each write.
type watchedBuffer struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
}

func newWatchedBuffer() *watchedBuffer { return &watchedBuffer{changed: make(chan struct{}, 1)} }

func (b *watchedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Write(p)
	b.wake()
	return len(p), nil
}

func (b *watchedBuffer) wake() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

func (b *watchedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// waitFor waits until the output is as wanted or the process has ended.
func (b *watchedBuffer) waitFor(t *testing.T, p *process, ok func(string) bool) {
	t.Helper()
	deadline := time.After(patience)
	for !ok(b.String()) {
		select {
		case <-b.changed:
		case <-p.exited:
			return
		case <-deadline:
			t.Fatalf("waited in vain; output so far:\n%s\n%s", p.out, p.log)
		}
	}
}
