package integration

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// unitFile is the path of the unit.
func unitFile(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../deploy/systemd/keyholed.service")
	must(t, err)
	return path
}

// The unit's sandbox scores below 2 of 10 by systemd's own measure, which
// also reads every setting: an unknown one is an error here.
func TestUnitIsTight(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile(unitFile(t))
	must(t, err)
	// The programs of the unit are looked for; those of this machine are elsewhere.
	unit := write(t, filepath.Join(dir, "keyholed.service"), strings.ReplaceAll(string(text), "/usr/local/bin/keyholed", "/bin/true"))
	ok, out := tool(t, "systemd-analyze", "--no-pager", "security", "--offline=true", unit)
	score := regexp.MustCompile(`Overall exposure level for keyholed\.service: ([0-9.]+)`).FindStringSubmatch(out)
	if !ok || score == nil {
		t.Fatalf("systemd-analyze: %s", out)
	}
	if n, err := strconv.ParseFloat(score[1], 64); err != nil || n >= 2 {
		t.Errorf("the exposure is %s: %v\n%s", score[1], err, out)
	}
	if ok, out := tool(t, "systemd-analyze", "--no-pager", "--man=no", "verify", unit); !ok || strings.Contains(out, "keyholed.service:") {
		t.Errorf("systemd-analyze verify: %s", out)
	}
}

// sandboxed is keyholed without the race detector, which a sandbox does not
// let run, and the program that runs it under the unit's rules.
func sandboxed(t *testing.T) (keyholed, sandbox string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"cmd/keyholed", "integration/sandbox"} {
		out, err := exec.CommandContext(t.Context(), "go", "build", "-C", repo, "-o", dir, "./"+name).CombinedOutput()
		if err != nil {
			t.Fatalf("building %s: %v\n%s", name, err, out)
		}
	}
	passable(t, dir)
	return filepath.Join(dir, "keyholed"), filepath.Join(dir, "sandbox")
}

// give makes everything in a directory another user's, if that can be done.
func give(t *testing.T, dir string, uid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, uid))
	}))
}

// sandboxUser is a user whom this machine does not know.
const sandboxUser = 64321

// passable lets other users through to directories of the test's, as root.
func passable(t *testing.T, dirs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	for _, d := range dirs {
		for ; d != filepath.Clean(os.TempDir()) && len(d) > 1; d = filepath.Dir(d) {
			info, err := os.Stat(d)
			must(t, err)
			must(t, os.Chmod(d, info.Mode().Perm()|0o011))
		}
	}
}

// asUser has a process run as a user without privileges.
func asUser(uid uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
}

// A gateway over SoftHSM does everything it does under the unit's system call
// filter, without privileges, with no memory that can be written and executed
// and a file system that it cannot write: keys of every kind are made, used,
// rotated and destroyed, files are reloaded, and it ends in order.
func TestRunsInSandbox(t *testing.T) {
	g := stopped(t)
	keyholed, sandbox := sandboxed(t)
	const uid = sandboxUser
	give(t, g.dir, uid)
	passable(t, g.dir)
	// The sandbox holds: this is what it keeps keyholed from.
	for what, args := range map[string][]string{
		"a namespace": {"/usr/bin/unshare", "--user", "true"}, "writing": {"/usr/bin/touch", filepath.Dir(g.dir) + "/new"},
		"executing": {g.path("program")}, "another address family": {"/usr/bin/perl", "-e", "socket(my $s, 16, 3, 0) or exit 1"},
	} {
		write(t, g.path("program"), "#!/bin/sh\n")
		must(t, os.Chmod(g.path("program"), 0o755))
		if ok, out := tool(t, sandbox, append([]string{"-unit", unitFile(t), "-uid", strconv.Itoa(uid), "-writable", g.dir, "--"}, args...)...); ok && (os.Geteuid() == 0 || what != "writing" && what != "executing") {
			t.Errorf("the sandbox allows %s: %s", what, out)
		}
	}
	if ok, out := tool(t, sandbox, "-unit", unitFile(t), "-uid", strconv.Itoa(uid), "-writable", g.dir, "--", "/usr/bin/touch", g.path("new")); !ok {
		t.Errorf("the sandbox runs nothing: %s", out)
	}
	p := g.serve(exec.Command(sandbox, "-unit", unitFile(t), "-uid", strconv.Itoa(uid), "-writable", g.dir, "--",
		keyholed, "serve", "--config", g.path("keyhole.yaml")))

	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	must(t, err)
	for _, want := range []string{"Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"} {
		if !strings.Contains(string(status), want+"\n") && os.Geteuid() == 0 {
			t.Errorf("the process is not %q:\n%s", want, status)
		}
	}
	for _, alg := range []string{"ES256", "ES384", "ES512", "EdDSA", "RS256", "PS256", "HS256"} {
		name := "k-" + strings.ToLower(alg)
		g.create(name, alg, 0)
		g.post(agent, "/v1/keys/"+name+"/sign", `{"payload":"aGVsbG8="}`).want(http.StatusOK)
	}
	g.create("vault", "A256GCM", 0)
	sealed := g.post(agent, "/v1/keys/vault/encrypt", `{"plaintext":"aGVsbG8="}`).want(http.StatusOK)
	g.rotate("vault")
	g.post(agent, "/v1/keys/vault/decrypt", string(sealed.only("ciphertext"))).want(http.StatusOK)
	g.post(admin, "/v1/admin/keys/k-es256/versions/1/revoke", `{}`).want(http.StatusOK)
	g.read(admin, "/v1/admin/audit").want(http.StatusOK)
	g.edit("policies/agent.cedar", "permit", "// reloaded\npermit")
	give(t, g.path("policies"), uid)
	if _, metrics := g.page("/metrics"); !strings.Contains(metrics, "process_open_fds") {
		t.Error("the process does not see its own figures")
	}
	g.stop()
	for _, mark := range []string{"operation not permitted", "permission denied", "turning off core dumps"} {
		if said := p.stderr.String(); strings.Contains(said, mark) {
			t.Errorf("the sandbox was in the way: %s", said)
		}
	}
}
