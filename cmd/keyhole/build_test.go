package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// goCommand runs the go command without cgo.
func goCommand(args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The CLI is for machines without HSM software: no cgo, and nothing of the
// gateway's inside.
func TestNothingOfTheGatewayInside(t *testing.T) {
	t.Parallel()
	allowed := map[string]bool{"keyhole/keys": true, "keyhole/client": true, "keyhole/gateway/api": true, "keyhole/authz": true}
	seen := 0
	deps, err := goCommand("list", "-deps", ".")
	if err != nil {
		t.Fatalf("%v: %s", err, deps)
	}
	for pkg := range strings.FieldsSeq(deps) {
		switch {
		case strings.HasPrefix(pkg, "keyhole/cmd/keyhole"), strings.HasPrefix(pkg, "keyhole/authz/internal/"), strings.HasPrefix(pkg, "keyhole/client/internal/"),
			pkg == "keyhole/audit", strings.HasPrefix(pkg, "keyhole/audit/"): // logs are verified without a gateway
		case strings.HasPrefix(pkg, "keyhole/"):
			if seen++; !allowed[pkg] {
				t.Errorf("imports %s", pkg)
			}
		case strings.Contains(pkg, "pkcs11"), strings.Contains(pkg, "crypto11"), strings.Contains(pkg, "sqlite"), pkg == "runtime/cgo", pkg == "testing":
			t.Errorf("imports %s", pkg)
		}
	}
	if seen != len(allowed) {
		t.Errorf("%d of the gateway's packages, want %d", seen, len(allowed))
	}
}

// TestMain has built it without cgo, as the Makefile does.
func TestKnowsItsVersion(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(binary, "--version").Output()
	if err != nil || !strings.HasPrefix(string(out), "keyhole v9.8.7 (go") {
		t.Errorf("%q, %v", out, err)
	}
}
