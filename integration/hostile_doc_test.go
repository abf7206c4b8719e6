package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each claim of the threat model that an attacker cannot do something names a
// test, and each test that it names is in the tree.
func TestThreatModel(t *testing.T) {
	for _, doc := range []string{"docs/threat-model.md", "SECURITY.md"} {
		text, err := os.ReadFile(filepath.Join(repo, doc))
		must(t, err)
		reference := regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9_]+)`")
		named, cannot := 0, false
		for n, line := range strings.Split(string(text), "\n") {
			switch {
			case strings.HasPrefix(line, "| they cannot"):
				cannot = true
			case !strings.HasPrefix(line, "|"):
				cannot = false
			case cannot && !strings.HasPrefix(line, "|---") && !reference.MatchString(line):
				t.Errorf("%s:%d: a claim without a test: %s", doc, n+1, line)
			}
			for _, m := range reference.FindAllStringSubmatch(line, -1) {
				named++
				if !hasTest(t, m[1], m[2]) {
					t.Errorf("%s:%d: there is no %s in %s", doc, n+1, m[2], m[1])
				}
			}
		}
		if doc == "docs/threat-model.md" && named < 50 {
			t.Errorf("%s names %d tests", doc, named)
		}
	}
}

// hasTest reports whether a folder of the source has a test of that name.
func hasTest(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repo, folder, "*_test.go"))
	must(t, err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		must(t, err)
		if strings.Contains(string(text), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
