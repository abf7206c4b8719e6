// Package postgrestest runs Debian's PostgreSQL for tests: an unprivileged
// server in a directory of its own, that ends with the test or, however that
// happens, with the process.
//
// Shared is one server for all tests of a process, with a Database for each
// of them. A test that stops, kills or pauses the server Starts its own.
package postgrestest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// Server is a running PostgreSQL. Its methods end the test if they fail.
type Server struct {
	Addr      string // host:port, on a loopback address of its own
	SocketDir string // of its unix socket
	CAFile    string // whose certificate it shows: for the IP address of Addr and localhost

	dir, bin  string
	as        *syscall.Credential // nil: as who runs the tests
	guard     *exec.Cmd
	alive     io.Closer // the guard takes the server away when this is closed
	databases atomic.Int64
	shared    bool // by the tests of this process
}

// Options are for a server of a test's own.
type Options struct {
	Listen   []string          // further addresses to listen on
	Settings map[string]string // of postgresql.conf
}

const port = 5432 // no other server is on its address

var shared = sync.OnceValues(func() (*Server, error) {
	s, err := launch(Options{})
	if err == nil {
		s.shared = true
	}
	return s, err
})

// Shared returns the server that all tests of this process share, and starts
// it when it is first asked for.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	s, err := shared()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Start starts a server for one test, and takes it away at its end.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	s, err := launch(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.remove)
	return s
}

// launch makes a cluster and starts its server.
func launch(o Options) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "keyhole-pg-") // the path of a socket is short
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, bin: bin, SocketDir: dir, CAFile: filepath.Join(dir, "ca.crt")}
	err = s.prepare()
	if err == nil {
		err = s.watch()
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := s.initialize(o); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

// binaries returns the directory of the newest PostgreSQL.
func binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	if path, err := exec.LookPath("initdb"); err == nil && len(found) == 0 {
		found = []string{path}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("PostgreSQL is missing: install the package postgresql (apt-get install postgresql)")
	}
	return filepath.Dir(found[0]), nil
}

// prepare gives the directory to the user whom the server runs as: it refuses
// to run as root.
func (s *Server) prepare() error {
	if os.Geteuid() != 0 {
		return os.Chmod(s.dir, 0o711)
	}
	var who *user.User
	var err error
	for _, name := range []string{"postgres", "nobody"} {
		if who, err = user.Lookup(name); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("nobody to run PostgreSQL as: %w", err)
	}
	uid, err := strconv.ParseUint(who.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(who.Gid, 10, 32)
	if err != nil {
		return err
	}
	s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chmod(s.dir, 0o711); err != nil {
		return err
	}
	return s.give(s.dir)
}

// give makes a file the server's.
func (s *Server) give(path string) error {
	if s.as == nil {
		return nil
	}
	return os.Chown(path, int(s.as.Uid), int(s.as.Gid))
}

// watch starts the guard: a process that ends the server and removes its
// directory when this process lets go of a pipe, or is no more.
func (s *Server) watch() error {
	const script = `cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -CONT "$pid" 2>/dev/null
"$2/pg_ctl" -D "$1/data" -m immediate -w -t 20 stop >/dev/null 2>&1
exec rm -rf "$1"`
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.guard = s.command(context.Background(), "/bin/sh", "-c", script, "guard", s.dir, s.bin)
	s.guard.Dir = "/"
	s.guard.Stdin, s.guard.SysProcAttr.Setsid = r, true
	err = s.guard.Start()
	r.Close()
	if err != nil {
		w.Close()
		return fmt.Errorf("the guard of PostgreSQL: %w", err)
	}
	s.alive = w
	return nil
}

// remove takes the server away.
func (s *Server) remove() {
	s.alive.Close()
	s.guard.Wait()
}

// command is run as the server's user.
func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + s.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	return cmd
}

func (s *Server) run(name string, args ...string) error {
	var out bytes.Buffer
	cmd := s.command(context.Background(), filepath.Join(s.bin, name), args...)
	if name != "pg_ctl" { // the server that it starts would hold the pipe
		cmd.Stdout, cmd.Stderr = &out, &out
	}
	if err := cmd.Run(); err != nil {
		log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		return fmt.Errorf("%s %s: %w\n%s\n%s", name, strings.Join(args, " "), err, out.Bytes(), log)
	}
	return nil
}

const hba = `local all postgres trust
local all all scram-sha-256
host all all all scram-sha-256
`

// initialize makes the cluster and starts it, on a loopback address that
// nobody uses: a port of 127.0.0.1 might be taken while the server is down.
func (s *Server) initialize(o Options) error {
	data := filepath.Join(s.dir, "data")
	if err := s.run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"); err != nil {
		return err
	}
	ip := net.IPv4(127, byte(1+rand.IntN(254)), byte(rand.IntN(256)), byte(1+rand.IntN(254)))
	s.Addr = net.JoinHostPort(ip.String(), strconv.Itoa(port))
	if err := s.certify(ip); err != nil {
		return err
	}
	settings := map[string]string{
		"listen_addresses": strings.Join(append([]string{ip.String()}, o.Listen...), ","), "port": strconv.Itoa(port),
		"unix_socket_directories": s.dir, "unix_socket_permissions": "0777",
		"max_connections": "300", "shared_buffers": "32MB", "fsync": "off", "full_page_writes": "off", "autovacuum": "off",
		"ssl": "on", "ssl_cert_file": filepath.Join(s.dir, "server.crt"), "ssl_key_file": filepath.Join(s.dir, "server.key"), "ssl_ca_file": s.CAFile,
		"log_line_prefix": "%m %d ",
	}
	for name, value := range o.Settings {
		settings[name] = value
	}
	var conf strings.Builder
	for name, value := range settings {
		fmt.Fprintf(&conf, "%s = '%s'\n", name, value)
	}
	for name, text := range map[string]string{"postgresql.auto.conf": conf.String(), "pg_hba.conf": hba} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return s.start()
}

func (s *Server) start() error {
	return s.run("pg_ctl", "-D", filepath.Join(s.dir, "data"), "-l", filepath.Join(s.dir, "log"), "-w", "-t", "60", "-s", "start")
}
