package app

import (
	"fmt"
	"strings"

	"keyhole/keys"
)

// FileArg returns the FILE operand at i; standard input if it was left out.
func FileArg(args []string, i int) string {
	if len(args) > i {
		return args[i]
	}
	return "-"
}

// VersionArg reads "payments.v3".
func VersionArg(text string) (keys.VersionID, error) {
	id, err := keys.ParseVersionID(text)
	if err != nil {
		return id, Usagef("%q is no version; one looks like payments.v3: keyhole key show KEY lists them", text)
	}
	return id, nil
}

// KeyOrVersion reads "payments" (number 0) or "payments.v3".
func KeyOrVersion(text string) (keys.VersionID, error) {
	if strings.Contains(text, ".") {
		return VersionArg(text)
	}
	return keys.VersionID{Key: text}, keys.CheckName(text)
}

// ParseTags reads NAME=VALUE pairs.
func ParseTags(pairs []string) (map[string]string, error) {
	tags := make(map[string]string, len(pairs))
	for _, p := range pairs {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, Usagef("--tag wants NAME=VALUE, not %q", p)
		}
		if _, twice := tags[name]; twice {
			return nil, Usagef("the tag %q is given twice", name)
		}
		tags[name] = value
	}
	return tags, nil
}

// PluralOf writes a number of things.
func PluralOf(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Reasons are those that a rotation can be asked for with.
func Reasons() []string {
	return []string{
		string(keys.ReasonManual), string(keys.ReasonScheduled), string(keys.ReasonCompromise), string(keys.ReasonPersonnelChange),
		string(keys.ReasonDeployment), string(keys.ReasonUsageThreshold),
	}
}

// Algorithms are the names of all algorithms.
func Algorithms() []string {
	var names []string
	for _, a := range keys.Algorithms() {
		names = append(names, string(a))
	}
	return names
}
