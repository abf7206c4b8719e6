package faultmodule

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

//go:embed csrc
var sources embed.FS

// compiled returns the module's bytes. It runs gcc once per process.
var compiled = sync.OnceValues(func() ([]byte, error) { return compile("gcc") })

func compile(gcc string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "keyhole-faultmodule-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(dir, sources); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "csrc", "*.c"))
	if err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "module.so")
	args := append([]string{"-shared", "-fPIC", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-o", out}, files...)
	said, err := exec.Command(gcc, append(args, "-ldl", "-lpthread")...).CombinedOutput() //nolint:gosec,noctx // our own sources; a compiler ends
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("the fault module is compiled by %s, which is not there; install it (apt-get install gcc libc6-dev): %w", gcc, err)
	case err != nil:
		return nil, fmt.Errorf("gcc cannot compile the fault module: %w\n%s", err, said)
	}
	return os.ReadFile(out)
}

// Build makes a module at path, in front of the real one. Nothing is at path,
// and it must stay while the module is in use.
func Build(path, realModule string) (*Module, error) {
	lib, err := compiled()
	if err != nil {
		return nil, err
	}
	real, err := os.ReadFile(realModule)
	if err != nil {
		return nil, fmt.Errorf("reading the real module: %w", err)
	}
	m := &Module{Path: path}
	if err := errors.Join(
		os.WriteFile(path, lib, 0o700),          //nolint:gosec // a library
		os.WriteFile(path+".real", real, 0o700), //nolint:gosec // a library
		os.WriteFile(path+".orders", nil, 0o600),
		os.WriteFile(path+".counts", make([]byte, countsSize), 0o600),
	); err != nil {
		return nil, err
	}
	return m, nil
}
