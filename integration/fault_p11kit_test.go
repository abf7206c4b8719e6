package integration

import (
	"crypto/ecdsa"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"keyhole/softhsm"
)

// p11kitServer is SoftHSM in a process of its own, which p11-kit's client
// module reaches over a socket, as those of network HSMs do.
type p11kitServer struct {
	t      *testing.T
	socket string
	token  string
	conf   string
	module string
	cmd    *exec.Cmd
	said   *output
}

func (s *p11kitServer) start() {
	s.t.Helper()
	must(s.t, os.RemoveAll(s.socket))
	s.said = &output{}
	s.cmd = exec.Command("p11-kit", "server", "--foreground", "--name", s.socket, "--provider", s.module, "pkcs11:token="+s.token)
	s.cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+s.conf)
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it forks for each connection
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("%v: install p11-kit (apt-get install p11-kit p11-kit-modules)", err)
	}
	eventually(s.t, "p11-kit listens", func() bool {
		_, err := os.Stat(s.socket)
		return err == nil
	})
}

// signal reaches the server and the processes of its connections.
func (s *p11kitServer) signal(sig syscall.Signal) {
	s.t.Helper()
	must(s.t, syscall.Kill(-s.cmd.Process.Pid, sig))
}

func (s *p11kitServer) kill() {
	s.t.Helper()
	s.signal(syscall.SIGKILL)
	_ = s.cmd.Wait() // it was killed
}

// The HSM's client is up and its server stalls, dies and comes back. The
// gateway does not, and serves again by itself.
func TestServerOfTheHSMStallsAndDies(t *testing.T) {
	t.Parallel()
	clients, err := filepath.Glob("/usr/lib/*/pkcs11/p11-kit-client.so")
	if err != nil || len(clients) == 0 {
		t.Fatalf("no p11-kit-client.so: install p11-kit-modules (%v)", err)
	}
	install, err := softhsm.Find()
	must(t, err)
	g := stopped(t)
	s := &p11kitServer{
		t: t, socket: filepath.Join(t.TempDir(), "socket"), token: "keyhole-dev", conf: g.path("softhsm2.conf"), module: install.Module,
	}
	s.start()
	t.Cleanup(func() { s.kill(); t.Logf("p11-kit said: %s", s.said) })
	g.edit("keyhole.yaml", fmt.Sprintf("module: %q", install.Module), fmt.Sprintf("module: %q\n    canary_interval: 1s\n    stuck_after: 2s", clients[0]))
	g.edit("keyhole.yaml", "module_env:\n", fmt.Sprintf("module_env:\n  P11_KIT_SERVER_ADDRESS: %q\n", "unix:path="+s.socket))
	g.edit("keyhole.yaml", "policies:\n", "request:\n  timeout: 5s\n\npolicies:\n")
	g.start()
	b := &brittle{gateway: g, public: map[string]*ecdsa.PublicKey{}}
	b.create("payments", "ES256", 0)
	b.learn("payments")
	b.sign("payments").want(http.StatusOK)

	for _, c := range []struct {
		what     string
		hit, end func()
	}{
		{"stalls", func() { s.signal(syscall.SIGSTOP) }, func() { s.signal(syscall.SIGCONT) }},
		{"dies", s.kill, s.start},
		{"dies twice", func() { s.kill(); s.start(); s.kill() }, s.start},
		{"stalls and dies", func() { s.signal(syscall.SIGSTOP); s.kill() }, s.start},
	} {
		c.hit()
		var told answer
		eventually(t, "the server "+c.what, func() bool {
			b.alive()
			if a := b.sign("payments"); a.status != http.StatusOK {
				told = a
			}
			return told.status != 0 && !b.ready()
		})
		if told.status != http.StatusServiceUnavailable || told.header.Get("Retry-After") == "" {
			t.Errorf("the server %s: callers are told %s", c.what, told.trouble())
		}
		_, page := b.page("/readyz")
		c.end()
		begin := time.Now()
		served, ready := b.recovered("payments")
		t.Logf("the server %-16s %s; operators read %q; back %s: signatures after %s, ready after %s", c.what, told.trouble(),
			strings.Join(strings.Fields(page), " "), time.Since(begin).Round(time.Millisecond), served, ready)
	}
	b.rotate("payments")
}
