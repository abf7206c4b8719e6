package proc

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Programs returns the directory of keyholed and keyhole: KEYHOLE_BIN, or dir
// after they were built into it from the source tree repo.
func Programs(repo, dir string) (string, error) {
	if bin := os.Getenv("KEYHOLE_BIN"); bin != "" {
		return filepath.Abs(bin)
	}
	for _, b := range []struct {
		name  string
		flags []string
		env   []string
	}{{"keyholed", raceFlags, nil}, {"keyhole", nil, []string{"CGO_ENABLED=0"}}} {
		args := append(append([]string{"build"}, b.flags...), "-o", filepath.Join(dir, b.name), "./cmd/"+b.name)
		cmd := exec.Command("go", args...) //nolint:gosec,noctx // the arguments are ours; the build ends by itself
		cmd.Dir = repo
		cmd.Env = append(os.Environ(), b.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", b.name, err, out)
		}
	}
	return dir, nil
}
