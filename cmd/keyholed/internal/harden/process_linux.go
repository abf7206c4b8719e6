package harden

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Process turns off core dumps, and makes the process's memory and what
// /proc shows of it readable for root alone: neither a crash nor a debugger
// of the same user brings the PIN or a data key to light. Children start
// with the same limit.
func Process() error {
	var errs []error
	// Read first: under a syscall filter that forbids setting limits, they
	// have been set before.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit != (unix.Rlimit{}) {
		if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
			errs = append(errs, fmt.Errorf("turning off core dumps (RLIMIT_CORE): %w", err))
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		errs = append(errs, fmt.Errorf("turning off core dumps (PR_SET_DUMPABLE): %w", err))
	}
	return errors.Join(errs...)
}
