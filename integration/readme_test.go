package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"keyhole/gateway/api"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repo, "README.md"))
	must(t, err)
	return string(text)
}

// blocks returns the fenced blocks of a language.
func blocks(text, language string) []string {
	var all []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// The session in the README works as it stands, in one shell, from the first
// command to the last; only the port is another.
func TestReadmeSession(t *testing.T) {
	g := newGateway(t)
	script := "set -o pipefail\n"
	n := 0
	for _, block := range blocks(readme(t), "console") {
		for line := range strings.Lines(block) {
			command, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				t.Fatalf("not a command: %q", line)
			}
			command = strings.ReplaceAll(strings.TrimSpace(command), "https://127.0.0.1:8443", g.api)
			script += fmt.Sprintf("echo '--- %d'\n%s || { echo \"status $? of command %d\" >&2; exit 1; }\n", n, command, n)
			n++
		}
	}
	if n < 10 {
		t.Fatalf("the README has only %d commands", n)
	}
	script += "echo '--- end'\n"
	s := execute(t, filepath.Dir(g.dir), []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, "", "bash", "-c", script)
	if s.code != 0 || !strings.HasSuffix(s.out, "--- end\n") {
		t.Fatalf("status %d\n%s%s\nThe script was:\n%s", s.code, s.out, s.errOut, script)
	}
	for _, want := range []string{"jwt:dev:agent", "pay 100 EUR to Alice", "payments.v1 -> payments.v2", "payments.v2 -> payments.v3", "is good", "valid: ", `"signature":`, `"kty":`, `"action":`} {
		if !strings.Contains(s.out, want) {
			t.Errorf("the session does not show %s:\n%s", want, s.out)
		}
	}
	var k api.Key
	g.read(agent, "/v1/keys/payments").want(200).into(&k)
	if k.ActiveVersion != 3 || k.Tags["team"] != "billing" {
		t.Errorf("after the session: %+v", k)
	}
	g.stop()
}

// The Go code in the README compiles.
func TestReadmeGo(t *testing.T) {
	code := blocks(readme(t), "go")
	if len(code) != 1 {
		t.Fatalf("%d pieces of Go, want 1", len(code))
	}
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "readme.go"), `package readme

import (
	"context"

	"keyhole/client"
	"keyhole/gateway/api"
)

func Readme(ctx context.Context, addr string, order []byte) (any, any, error) {
`+code[0]+`
	return res, signer, err
}
`)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(repo, "integration", "readme", "readme.go"): file}})
	must(t, err)
	s := execute(t, repo, nil, "", "go", "build", "-overlay", write(t, filepath.Join(dir, "overlay.json"), string(overlay)), "./integration/readme")
	if s.code != 0 {
		t.Errorf("%s", s.errOut)
	}
}

// What the README names is there: targets, files, packages.
func TestReadmeNames(t *testing.T) {
	text := readme(t)
	makefile, err := os.ReadFile(filepath.Join(repo, "Makefile"))
	must(t, err)
	targets := regexp.MustCompile("(?m)(?:^    |`)make ([a-z]+)").FindAllStringSubmatch(text, -1)
	if len(targets) < 4 {
		t.Errorf("the README names only %v", targets)
	}
	for _, m := range targets {
		if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(makefile) {
			t.Errorf("there is no `make %s`", m[1])
		}
	}
	links := regexp.MustCompile(`\]\(([^):#]+)\)`).FindAllStringSubmatch(text, -1)
	if len(links) < 4 {
		t.Errorf("the README links only %v", links)
	}
	for _, m := range links {
		if _, err := os.Stat(filepath.Join(repo, m[1])); err != nil && !strings.Contains(string(makefile), "-out "+m[1]) { // a target writes it
			t.Errorf("a link that leads nowhere: %v", err)
		}
	}
	packages := 0
	for line := range strings.Lines(text) {
		m := regexp.MustCompile(`^(?:floor \d)? +([a-z]+(?:/[a-z]+)*)  +\S`).FindStringSubmatch(line)
		if m == nil {
			continue
		}
		packages++
		if files, err := filepath.Glob(filepath.Join(repo, m[1], "*.go")); err != nil || len(files) == 0 {
			t.Errorf("the house has a package %s, and the tree has none", m[1])
		}
	}
	if packages < 12 {
		t.Errorf("the house has only %d packages", packages)
	}
	for _, dir := range []string{"authz", "audit", "client", "gateway", "gateway/api", "gateway/rest", "hsm", "keys", "rotation", "softhsm", "store", "cmd/keyhole", "cmd/keyholed", "integration"} {
		if !regexp.MustCompile(`(?m)^(?:floor \d)? +` + dir + ` `).MatchString(text) {
			t.Errorf("%s is not in the house", dir)
		}
	}
}
