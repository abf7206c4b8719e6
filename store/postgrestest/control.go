package postgrestest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Stop ends the server in an orderly way: connections are told, and closed.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.stop(tb, "fast")
}

// Crash ends the server without a word; it recovers from its log when it is
// started again.
func (s *Server) Crash(tb testing.TB) {
	tb.Helper()
	s.stop(tb, "immediate")
}

func (s *Server) stop(tb testing.TB, mode string) {
	tb.Helper()
	if err := s.run("pg_ctl", "-D", filepath.Join(s.dir, "data"), "-m", mode, "-w", "-t", "60", "-s", "stop"); err != nil {
		tb.Fatal(err)
	}
}

// Start starts the server again, at the same address.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	if err := s.start(); err != nil {
		tb.Fatal(err)
	}
}

// Pause makes all processes of the server stand still: connections are
// accepted, and nothing is ever answered. It ends by Resume, or with the test.
func (s *Server) Pause(tb testing.TB) {
	tb.Helper()
	s.signal(tb, syscall.SIGSTOP)
	tb.Cleanup(func() { s.signal(tb, syscall.SIGCONT) })
}

// Resume lets a server go on that was paused.
func (s *Server) Resume(tb testing.TB) {
	tb.Helper()
	s.signal(tb, syscall.SIGCONT)
}

// signal sends a signal to the postmaster and its children, the postmaster
// first: then there are no new ones.
func (s *Server) signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "data", "postmaster.pid"))
	if err != nil {
		tb.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	postmaster, err := strconv.Atoi(first)
	if err == nil {
		err = syscall.Kill(postmaster, sig)
	}
	if err != nil {
		tb.Fatalf("the postmaster: %v", err)
	}
	pids, err := children(postmaster)
	if err != nil {
		tb.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			tb.Fatal(err)
		}
	}
}

func children(parent int) (pids []int, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid ...: the name may hold anything.
		behind := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(behind) < 2 || behind[1] != strconv.Itoa(parent) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
