package integration

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"keyhole/softhsm"
)

// The commands of docs/hsm.md work, and the lines that it has operators look
// for are those of the log.
func TestHSMDoc(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(repo, "docs", "hsm.md"))
	must(t, err)
	doc := string(b)

	var sources strings.Builder
	must(t, filepath.WalkDir(filepath.Join(repo, "hsm"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		sources.Write(text)
		return err
	}))
	lines := 0
	for row := range strings.Lines(section(t, doc, "### What operators see")) {
		if line := regexp.MustCompile("^\\| `([^`]+)`").FindStringSubmatch(row); line != nil {
			lines++
			if !strings.Contains(sources.String(), `"`+line[1]+`"`) {
				t.Errorf("the log never says %q", line[1])
			}
		}
	}
	if lines < 5 {
		t.Errorf("docs/hsm.md names %d lines of the log", lines)
	}

	dir := t.TempDir()
	tok, err := softhsm.New(filepath.Join(dir, "softhsm"), "other")
	must(t, err)
	write(t, filepath.Join(dir, "pin"), "a PIN for tests\n")
	must(t, os.Mkdir(filepath.Join(dir, "nss"), 0o700))
	here := strings.NewReplacer("/var/lib/keyhole/nss", filepath.Join(dir, "nss"), "/run/keyhole/p11", filepath.Join(dir, "p11"))
	for _, block := range regexp.MustCompile("(?s)\n```sh\n(.*?)```").FindAllStringSubmatch(doc, -1) {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := exec.CommandContext(ctx, "sh", "-ec", "exec "+here.Replace(block[1]))
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "SOFTHSM2_CONF="+tok.Conf)
		said := &output{}
		cmd.Stdout, cmd.Stderr = said, said
		must(t, cmd.Start())
		if serves := strings.Contains(block[1], "p11-kit server"); serves {
			eventually(t, "p11-kit listens", func() bool {
				_, err := os.Stat(filepath.Join(dir, "p11"))
				return err == nil
			})
			cancel()
			_ = cmd.Wait() // it was ended
			continue
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", block[1], err, said)
		}
		cancel()
	}
}
