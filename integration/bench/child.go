package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Children use the token in processes of their own, so that each rival has
// one: neither shares a Go runtime or a PKCS#11 module with the others.

// bareSessions is the size of the bare handler's channel: the gateway's
// default for a token.
const bareSessions = 8

func child(role string) error {
	dir := os.Getenv("BENCH_DIR")
	t, err := openToken(os.Getenv("BENCH_MODULE"), "keyhole-dev", filepath.Join(dir, "user.pin"))
	if err != nil {
		return err
	}
	switch role {
	case "bare":
		labels := map[string]string{}
		for op := range benchKeys {
			labels[op] = label(op)
		}
		return serveBare(t, filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), bareSessions, labels)
	case "raw":
		op, err := t.operation(os.Getenv("BENCH_OP"), label(os.Getenv("BENCH_OP")))
		if err != nil {
			return err
		}
		size, err1 := strconv.Atoi(os.Getenv("BENCH_SIZE"))
		threads, err2 := strconv.Atoi(os.Getenv("BENCH_THREADS"))
		d, err3 := time.ParseDuration(os.Getenv("BENCH_DURATION"))
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		rate, err := raw(t, op, make([]byte, size), threads, d)
		if err != nil {
			return err
		}
		fmt.Println(rate)
		return nil
	}
	return fmt.Errorf("unknown role %q", role)
}

// rawRate runs a raw loop in a child and returns its operations per second.
func (a *arena) rawRate(ctx context.Context, op string, size, threads int, d time.Duration) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self, "-role", "raw")
	cmd.Env = append(a.env[:len(a.env):len(a.env)],
		"BENCH_OP="+op, "BENCH_SIZE="+strconv.Itoa(size), "BENCH_THREADS="+strconv.Itoa(threads), "BENCH_DURATION="+d.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}
