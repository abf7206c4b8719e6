package main

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data; the lower half of each argument.
const (
	offCall = 0
	offArch = 4
	offArgs = 16
)

var families = map[string]uint32{"AF_UNIX": unix.AF_UNIX, "AF_INET": unix.AF_INET, "AF_INET6": unix.AF_INET6, "AF_NETLINK": unix.AF_NETLINK}

// architectures by GOARCH, as the kernel's audit names them.
var architectures = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func give(verdict uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: verdict}
}

// unless jumps over the next instruction when the value is not k.
func unless(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: k}
}

// compile makes the program of a filter: what is not allowed fails with
// EPERM, as the unit says.
func compile(allowed map[int]bool, allowedFamilies []string, noWriteExec, noNamespaces bool) ([]unix.SockFilter, error) {
	arch, ok := architectures[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("no filter for %s", runtime.GOARCH)
	}
	refuse := unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	p := []unix.SockFilter{
		load(offArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: arch},
		give(unix.SECCOMP_RET_KILL_PROCESS),
		load(offCall),
	}
	// guard adds a rule about one call: its body decides, or falls through.
	guard := func(call uint32, body ...unix.SockFilter) {
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(len(body) + 1), K: call})
		p = append(p, append(body, load(offCall))...)
	}
	if len(allowedFamilies) > 0 {
		body := []unix.SockFilter{load(offArgs)}
		for _, name := range allowedFamilies {
			number, ok := families[name]
			if !ok {
				return nil, fmt.Errorf("unknown address family %s", name)
			}
			body = append(body, unless(number), give(unix.SECCOMP_RET_ALLOW))
		}
		guard(unix.SYS_SOCKET, append(body, give(unix.SECCOMP_RET_ERRNO|uint32(unix.EAFNOSUPPORT)))...)
	}
	mask := func(m uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: m}
	}
	if noNamespaces {
		kinds := mask(unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET)
		none := unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: 0}
		guard(unix.SYS_CLONE, load(offArgs), kinds, none, give(refuse))
		guard(unix.SYS_UNSHARE, load(offArgs), kinds, none, give(refuse))
		guard(unix.SYS_SETNS, give(refuse))
		// Its flags are in memory, out of a filter's sight; callers fall back.
		guard(unix.SYS_CLONE3, give(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
	}
	if noWriteExec {
		both := uint32(unix.PROT_WRITE | unix.PROT_EXEC)
		guard(unix.SYS_MMAP, load(offArgs+2*8), mask(both), unless(both), give(refuse))
		guard(unix.SYS_MPROTECT, load(offArgs+2*8), mask(unix.PROT_EXEC), unless(unix.PROT_EXEC), give(refuse))
		guard(unix.SYS_PKEY_MPROTECT, load(offArgs+2*8), mask(unix.PROT_EXEC), unless(unix.PROT_EXEC), give(refuse))
	}
	for _, call := range slices.Sorted(maps.Keys(allowed)) {
		if allowed[call] {
			p = append(p, unless(uint32(call)), give(unix.SECCOMP_RET_ALLOW))
		}
	}
	return append(p, give(refuse)), nil
}

// install puts this thread under the filter.
func install(p []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))) //nolint:gosec // the kernel reads the filter, within the call
	if e != 0 {
		return fmt.Errorf("installing the filter of %d instructions: %w", len(p), e)
	}
	runtime.KeepAlive(&p)
	return nil
}
