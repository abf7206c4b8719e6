package softhsm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// ErrNotInstalled says that SoftHSM 2 is not on this machine; the text of
// the error names what to install.
var ErrNotInstalled = errors.New("SoftHSM 2 is not installed")

// Install is where SoftHSM 2 is.
type Install struct {
	Module string // the PKCS#11 module, libsofthsm2.so
	Util   string // softhsm2-util
}

// Environment variables that say where SoftHSM is.
const (
	ModuleEnv = "SOFTHSM2_MODULE"
	UtilEnv   = "SOFTHSM2_UTIL"
)

// Where systems put the module: Debian (also with its architecture folders),
// Alpine and Arch; Fedora; own builds; Homebrew.
var modulePlaces = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/lib64/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// What a PATH without the sbin folders may not show.
var utilPlaces = []string{
	"/usr/bin/softhsm2-util",
	"/usr/sbin/softhsm2-util",
	"/usr/local/bin/softhsm2-util",
	"/opt/homebrew/bin/softhsm2-util",
}

const howToInstall = `install it with one of:
  apt-get install softhsm2   (Debian, Ubuntu)
  dnf install softhsm        (Fedora)
  apk add softhsm            (Alpine)
  brew install softhsm       (macOS)
or set ` + ModuleEnv + ` and ` + UtilEnv + ` to where they are`

// Find looks for SoftHSM: at SOFTHSM2_MODULE and SOFTHSM2_UTIL if they are
// set, else in the usual places. The error is ErrNotInstalled.
func Find() (Install, error) {
	return find(os.Getenv, modulePlaces, utilPlaces)
}

func find(getenv func(string) string, modules, utils []string) (Install, error) {
	if p, err := exec.LookPath("softhsm2-util"); err == nil {
		utils = append([]string{p}, utils...)
	}
	module, err := pick("libsofthsm2.so", ModuleEnv, getenv(ModuleEnv), modules)
	if err != nil {
		return Install{}, err
	}
	util, err := pick("softhsm2-util", UtilEnv, getenv(UtilEnv), utils)
	if err != nil {
		return Install{}, err
	}
	return Install{Module: module, Util: util}, nil
}

func pick(what, env, given string, places []string) (string, error) {
	if given != "" {
		if !isFile(given) {
			return "", fmt.Errorf("%w: %s is %q, which is no file; correct it, or unset it and %s", ErrNotInstalled, env, given, howToInstall)
		}
		return given, nil
	}
	for _, p := range places {
		if isFile(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: no %s in %s; %s", ErrNotInstalled, what, strings.Join(places, ", "), howToInstall)
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}
