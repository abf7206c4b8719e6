// Command sandbox runs a program as a systemd unit would run it, where there
// is no systemd: under the unit's system call filter, address families, limits
// and memory protection, with no way to privileges; and, as root, as another
// user, with a file system that can be written in the named directories only.
//
//	sandbox -unit keyholed.service -uid 1234 -writable DIR -- PROGRAM ...
//
// It is for tests of the unit. What it does not know of the unit it leaves
// out; what it knows it refuses to leave out.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	runtime.LockOSThread()                        // filters and privileges are a thread's; this one becomes the program
	fmt.Fprintln(os.Stderr, "sandbox:", become()) // it comes back with an error only
	os.Exit(125)
}

// become turns this process into the program. It returns why it could not.
func become() error {
	unitFile := flag.String("unit", "", "the unit")
	uid := flag.Int("uid", -1, "the user and group to become, as root")
	writable := flag.String("writable", "", "directories that can be written, with ':' between them, as root")
	flag.Parse()
	if *unitFile == "" || flag.NArg() == 0 {
		return errors.New("usage: sandbox -unit FILE [-uid N] [-writable DIR:DIR] -- PROGRAM [ARGUMENT]")
	}
	u, err := readUnit(*unitFile)
	if err != nil {
		return err
	}
	allowed, err := u.calls()
	if err != nil {
		return err
	}
	filter, err := compile(allowed, u.list("RestrictAddressFamilies"), u.is("MemoryDenyWriteExecute", "yes"), u.is("RestrictNamespaces", "yes"))
	if err != nil {
		return err
	}
	for _, want := range [][2]string{{"NoNewPrivileges", "yes"}, {"LimitCORE", "0"}, {"ProtectSystem", "strict"}, {"CapabilityBoundingSet", ""}} {
		if !u.is(want[0], want[1]) {
			return fmt.Errorf("the unit does not say %s=%s", want[0], want[1])
		}
	}
	if os.Geteuid() == 0 {
		if err := readOnly(strings.Split(*writable, ":")); err != nil {
			return err
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limiting core dumps: %w", err)
	}
	if err := drop(*uid); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("giving up privileges for good: %w", err)
	}
	if err := install(filter); err != nil {
		return err
	}
	return fmt.Errorf("running %s: %w", flag.Arg(0), unix.Exec(flag.Arg(0), flag.Args(), append(os.Environ(), u.list("Environment")...)))
}

// readOnly makes the file system read-only for this process but for some
// directories, from which nothing is executed, and shows of /proc processes
// only.
func readOnly(writable []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("leaving the mount namespace: %w", err)
	}
	mount := func(what, from, to, kind string, flags uintptr, data string) error {
		if err := unix.Mount(from, to, kind, flags, data); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	if err := mount("making mounts private", "", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	for _, dir := range writable {
		if dir == "" {
			continue
		}
		if err := errors.Join(mount("binding "+dir, dir, dir, "", unix.MS_BIND, ""),
			mount("restricting "+dir, "", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "")); err != nil {
			return err
		}
	}
	return errors.Join(mount("making / read-only", "", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""),
		mount("hiding what is in /proc", "proc", "/proc", "proc", 0, "subset=pid"))
}

// drop gives up every capability, and becomes another user.
func drop(uid int) error {
	if os.Geteuid() != 0 {
		return nil
	}
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	if uid < 0 {
		return errors.New("as root, -uid says which user to become")
	}
	// By the calls themselves: of this thread only, which is all there will be.
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return fmt.Errorf("leaving the groups: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
		return fmt.Errorf("changing the group: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
		return fmt.Errorf("changing the user: %w", e)
	}
	return nil
}
