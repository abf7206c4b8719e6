// Package p11 says what is on a SoftHSM token, in the words of OpenSC's
// pkcs11-tool.
package p11

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"keyhole/softhsm"
)

// Tool runs pkcs11-tool on the token that conf (softhsm2.conf) describes,
// logged in, and returns what it says.
func Tool(t testing.TB, conf, pin string, args ...string) string {
	t.Helper()
	install, err := softhsm.Find()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "pkcs11-tool", append([]string{"--module", install.Module, "--login", "--pin", "env:TOKEN_PIN"}, args...)...) //nolint:gosec // the arguments are the test's
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf, "TOKEN_PIN="+pin)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("pkcs11-tool %s: %v (`make deps` installs what the tests need)\n%s%s", strings.Join(args, " "), err, out.String(), errOut.String())
	}
	return out.String()
}

// Object is one that pkcs11-tool lists.
type Object struct{ Kind, Label, ID, Usage, Access string }

func (o Object) String() string { return fmt.Sprintf("%s %s (%s)", o.Kind, o.Label, o.ID) }

var field = regexp.MustCompile(`(?m)^  (label|ID|Usage|Access): +(.*)$`)

// Objects lists what is on the token.
func Objects(t testing.TB, conf, pin string) []Object {
	t.Helper()
	var all []Object
	for part := range strings.SplitSeq(Tool(t, conf, pin, "--list-objects"), " Object; ") {
		// What is in front of the separator ends in the next object's kind.
		if n := len(all); n > 0 {
			o := &all[n-1]
			for _, m := range field.FindAllStringSubmatch(part, -1) {
				*map[string]*string{"label": &o.Label, "ID": &o.ID, "Usage": &o.Usage, "Access": &o.Access}[m[1]] = m[2]
			}
		}
		lines := strings.Split(strings.TrimRight(part, "\n"), "\n")
		all = append(all, Object{Kind: lines[len(lines)-1]})
	}
	return all[:len(all)-1] // behind the last separator there is no kind
}
