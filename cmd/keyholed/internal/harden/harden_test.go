package harden_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keyhole/cmd/keyholed/internal/harden"
)

// As a process of its own, the test binary hides what it was started with,
// and shows what is left of it.
func TestMain(m *testing.M) {
	if os.Getenv("HARDEN_SECRET") != "" {
		os.Exit(hidden())
	}
	os.Exit(m.Run())
}

func hidden() int {
	harden.HideEnv("HARDEN_SECRET")
	err := harden.Process()
	shown, rerr := os.ReadFile("/proc/self/environ")
	dumpable, derr := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	var limit unix.Rlimit
	lerr := unix.Getrlimit(unix.RLIMIT_CORE, &limit)
	if err := errors.Join(err, rerr, derr, lerr); err != nil {
		os.Stderr.WriteString(err.Error())
		return 2
	}
	if dumpable != 0 || limit != (unix.Rlimit{}) {
		os.Stderr.WriteString("core dumps are on")
		return 3
	}
	os.Stdout.Write(shown)
	os.Stdout.WriteString("\nGETENV " + os.Getenv("HARDEN_SECRET"))
	return 0
}

// The environment that the kernel shows has the secret no more, and what is
// beside it still; the process goes on reading it.
func TestHideEnv(t *testing.T) {
	t.Parallel()
	const secret = "secret-5T8Q2M"
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{"BEFORE=1", "HARDEN_SECRET=" + secret, "HARDEN_SECRETS=other", "AFTER=2"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	shown, read, _ := bytes.Cut(out, []byte("\nGETENV "))
	if bytes.Contains(shown, []byte(secret)) {
		t.Errorf("the environment shows the secret: %q", shown)
	}
	for _, kept := range []string{"BEFORE=1", "HARDEN_SECRETS=other", "AFTER=2"} {
		if !bytes.Contains(shown, []byte(kept)) {
			t.Errorf("%s is lost: %q", kept, shown)
		}
	}
	if string(read) != secret {
		t.Errorf("the process itself reads %q", read)
	}
}

func TestExchangeable(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	dir := func(name string, mode os.FileMode) string {
		path := filepath.Join(top, name)
		if err := errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := func(path string) string {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(to, from string) string {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
		return from
	}
	closed, open, sticky := dir("closed", 0o755), dir("open", 0o777), dir("sticky", 0o777|os.ModeSticky)
	below := dir("open/below", 0o755)
	link(closed, filepath.Join(top, "way"))
	for path, exposed := range map[string]string{
		file(filepath.Join(closed, "f")):                                 "",
		filepath.Join(closed, "not", "there"):                            "",
		file(filepath.Join(sticky, "f")):                                 "",
		file(filepath.Join(open, "f")):                                   open,
		file(filepath.Join(below, "f")):                                  open,
		filepath.Join(open, "not", "there"):                              open,
		open:                                                             "", // what is in it, not itself
		link(filepath.Join(open, "f"), filepath.Join(closed, "l")):       open,
		link("../open/f", filepath.Join(closed, "relative")):             open,
		link(filepath.Join(closed, "f"), filepath.Join(open, "l")):       open,
		link(filepath.Join(closed, "f"), filepath.Join(sticky, "l")):     "",
		filepath.Join(top, "way", "f"):                                   "",
		link("round", filepath.Join(closed, "round")):                    "error",
		link(filepath.Join(closed, "l"), filepath.Join(closed, "again")): open,
	} {
		err := harden.Exchangeable(path)
		e := (*harden.Exposed)(nil)
		switch {
		case errors.As(err, &e):
			if e.Dir != exposed || !strings.Contains(e.Error(), "chmod o-w "+exposed) {
				t.Errorf("%s: %v, want %q", path, err, exposed)
			}
		case exposed != "" && exposed != "error", (err != nil) != (exposed == "error"):
			t.Errorf("%s: %v, want %q", path, err, exposed)
		}
	}
}

// A secret is its owner's; if that is root, it may be the group's.
func TestSecretMode(t *testing.T) {
	t.Parallel()
	for mode, want := range map[os.FileMode][2]bool{ // of another user's file, of root's
		0o600: {true, true}, 0o400: {true, true}, 0o640: {false, true}, 0o440: {false, true},
		0o660: {false, false}, 0o644: {false, false}, 0o604: {false, false}, 0o650: {false, false},
	} {
		for i, uid := range []int{1234, 0} {
			if uid != os.Geteuid() && os.Geteuid() != 0 {
				continue // only root can give files away
			}
			path := filepath.Join(t.TempDir(), "pin")
			if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
				t.Fatal(err)
			}
			if uid != os.Geteuid() {
				if err := os.Chown(path, uid, -1); err != nil {
					t.Fatal(err)
				}
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := harden.SecretMode(info); got != want[i] {
				t.Errorf("mode %04o of user %d: %v", mode, uid, got)
			}
		}
	}
}
