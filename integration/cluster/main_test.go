package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"keyhole/integration/internal/proc"
)

var (
	bin  string // the directory of keyholed and keyhole
	made string // what `keyholed dev` makes: a CA, certificates, an issuer of tokens, policies
)

// long is whether the tests run in their long form.
var long = os.Getenv("KEYHOLE_CLUSTER_LONG") != ""

func TestMain(m *testing.M) {
	if config := os.Getenv(loadVariable); config != "" {
		os.Exit(loadMain(config)) // a child of a test: its agents
	}
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keyhole-cluster-")
	if err == nil {
		defer os.RemoveAll(dir)
		var repo string
		if repo, err = filepath.Abs("../.."); err == nil {
			bin, err = proc.Programs(repo, dir)
		}
	}
	if err == nil {
		made = filepath.Join(dir, "made")
		err = develop(made)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	return m.Run()
}

// develop lets `keyholed dev` make its directory, and stops it. Its token and
// database are not used.
func develop(dir string) error {
	cmd := exec.Command(filepath.Join(bin, "keyholed"), "dev", "--dir", dir, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")
	said := &proc.Output{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(proc.Patience); ; {
		select {
		case err := <-ended:
			return fmt.Errorf("keyholed dev: %w\n%s", err, said)
		case <-tick.C:
		}
		if strings.Contains(said.String(), "keyholed serves ") {
			break
		}
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			return fmt.Errorf("keyholed dev does not serve: %w\n%s", <-ended, said)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return <-ended
}
