package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// unit are the settings of a systemd unit, in order.
type unit map[string][]string

func readUnit(file string) (unit, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the unit: %w", err)
	}
	u := unit{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			u[name] = append(u[name], value)
		}
	}
	return u, nil
}

func (u unit) is(name, value string) bool { return slices.Equal(u[name], []string{value}) }

// list returns the words of all settings of one name.
func (u unit) list(name string) []string {
	return strings.Fields(strings.Join(u[name], " "))
}

// calls returns the numbers of the system calls that SystemCallFilter allows.
func (u unit) calls() (map[int]bool, error) {
	lines := u["SystemCallFilter"]
	if len(lines) == 0 || strings.HasPrefix(lines[0], "~") {
		return nil, errors.New("the unit's SystemCallFilter does not begin with what is allowed")
	}
	numbers, err := callNumbers()
	if err != nil {
		return nil, err
	}
	allowed := map[int]bool{}
	for _, line := range append([]string{"@default"}, lines...) { // systemd adds it
		words, deny := strings.CutPrefix(line, "~")
		for word := range strings.FieldsSeq(words) {
			names, err := expand(word)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				if n, ok := numbers[name]; ok { // of this architecture
					allowed[n] = !deny
				}
			}
		}
	}
	return allowed, nil
}

// expand returns the system calls in a set of systemd's.
func expand(word string) ([]string, error) {
	if !strings.HasPrefix(word, "@") {
		return []string{word}, nil
	}
	out, err := exec.Command("systemd-analyze", "--no-pager", "syscall-filter", word).Output() //nolint:gosec,noctx // a set of the unit; it answers at once
	if err != nil {
		return nil, fmt.Errorf("asking systemd-analyze for %s: %w", word, err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, " ") || strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		more, err := expand(strings.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("systemd-analyze knows no calls in %s", word)
	}
	return names, nil
}

// callNumbers reads the kernel's header: names of system calls to numbers.
func callNumbers() (map[string]int, error) {
	headers, err := filepath.Glob("/usr/include/*/asm/unistd_64.h")
	if err != nil || len(headers) != 1 {
		return nil, fmt.Errorf("%d headers with the numbers of system calls (Debian: linux-libc-dev): %w", len(headers), err)
	}
	text, err := os.ReadFile(headers[0])
	if err != nil {
		return nil, fmt.Errorf("reading the numbers of system calls: %w", err)
	}
	numbers := map[string]int{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "#define" || !strings.HasPrefix(f[1], "__NR_") {
			continue
		}
		if n, err := strconv.Atoi(f[2]); err == nil {
			numbers[strings.TrimPrefix(f[1], "__NR_")] = n
		}
	}
	if len(numbers) < 100 {
		return nil, fmt.Errorf("%s has the numbers of %d system calls", headers[0], len(numbers))
	}
	return numbers, nil
}
