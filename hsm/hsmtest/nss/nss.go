// Package nss makes throw-away tokens of NSS softokn, the software token of
// Firefox, behind p11-kit: a PKCS#11 module that has another history than
// SoftHSM, so that tests show on what habits of SoftHSM's Keyhole leans.
//
// NSS takes its configuration as a parameter of C_Initialize that is no
// PKCS#11; p11-kit passes it on. p11-kit reads its own configuration from the
// user's home, and none at all as root: so a process that uses these tokens
// has Env, and is no root (AsUser).
package nss

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Tokens are those of one process: p11-kit shows them as tokens of one module.
type Tokens struct {
	Module string // the PKCS#11 module: p11-kit's
	Env    []string
	Labels []string
	PIN    string
}

// Where Debian has the libraries. p11-kit's is a module itself: the proxy.
var (
	softoknPlaces = []string{"/usr/lib/*/libsoftokn3.so", "/usr/lib/*/nss/libsoftokn3.so", "/usr/lib/libsoftokn3.so"}
	p11kitPlaces  = []string{"/usr/lib/*/libp11-kit.so.0", "/usr/lib/libp11-kit.so.0"}
	systemConfig  = "/usr/share/p11-kit/modules/*.module"
)

const (
	pin         = "a PIN for tests"
	nobody      = 65534
	configInDir = ".config/pkcs11/modules"

	// Else each use of a key hashes the PIN ten thousand times.
	iterations = "NSS_MAX_MP_PBE_ITERATION_COUNT=1"
)

// New makes n tokens in dir, which must be there and be as good as empty.
func New(dir string, n int) (*Tokens, error) {
	softokn, err := one(softoknPlaces, "libnss3")
	if err != nil {
		return nil, err
	}
	module, err := one(p11kitPlaces, "libp11-kit0")
	if err != nil {
		return nil, err
	}
	lib, err := os.ReadFile(softokn)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, configInDir)
	pinFile := filepath.Join(dir, "pin")
	if err := errors.Join(os.MkdirAll(config, 0o700), os.WriteFile(pinFile, []byte(pin+"\n"), 0o600)); err != nil {
		return nil, err
	}
	// p11-kit merges what the system has; whatever else is installed is not wanted.
	others, err := filepath.Glob(systemConfig)
	if err != nil {
		return nil, err
	}
	for _, other := range others {
		if err := os.WriteFile(filepath.Join(config, filepath.Base(other)), []byte("enable-in: nobody\n"), 0o600); err != nil {
			return nil, err
		}
	}
	t := &Tokens{Module: module, PIN: pin, Env: []string{
		"HOME=" + dir, "XDG_CONFIG_HOME=" + filepath.Join(dir, ".config"), iterations,
	}}
	for i := range n {
		label := fmt.Sprintf("nss-%d", i+1)
		db := filepath.Join(dir, label)
		if err := os.Mkdir(db, 0o700); err != nil {
			return nil, err
		}
		cmd := exec.Command("certutil", "-N", "-d", "sql:"+db, "-f", pinFile)
		cmd.Env = append(os.Environ(), iterations)
		out, err := cmd.CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("NSS databases are made by certutil, which is not there; install it (apt-get install libnss3-tools): %w", err)
		}
		if err != nil {
			return nil, fmt.Errorf("certutil: %w\n%s", err, out)
		}
		// A copy each: one library has one configuration.
		library := filepath.Join(db, "libsoftokn3.so")
		text := fmt.Sprintf("module: %s\nx-init-reserved: configDir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db' "+
			"dbTokenDescription='%s' cryptoTokenDescription='%s-crypto' flags=\n", library, db, label, label)
		if err := errors.Join(
			os.WriteFile(library, lib, 0o700),
			os.WriteFile(filepath.Join(config, label+".module"), []byte(text), 0o600),
		); err != nil {
			return nil, err
		}
		t.Labels = append(t.Labels, label)
	}
	return t, nil
}

func one(places []string, pkg string) (string, error) {
	for _, place := range places {
		if found, err := filepath.Glob(place); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("none of %v is there; install it (apt-get install %s): %w", places, pkg, fs.ErrNotExist)
}

// AsUser has cmd run as one who is not root, to whom everything in dir then
// belongs. Whoever is not root does that anyway.
func AsUser(cmd *exec.Cmd, dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
}
