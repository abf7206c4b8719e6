package softhsm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Errors of New, Open, Ensure and AddToken.
var (
	ErrExists  = errors.New("the directory holds SoftHSM tokens already")
	ErrNoToken = errors.New("no such SoftHSM token")
)

// Files in a directory.
const (
	confName  = "softhsm2.conf"
	tokensDir = "tokens"
	userPIN   = "user.pin"
	soPIN     = "so.pin"
)

// Token is one initialised token.
type Token struct {
	Dir     string // absolute
	Conf    string // Dir/softhsm2.conf
	Module  string // libsofthsm2.so
	Label   string
	Serial  string
	PIN     string
	SOPIN   string
	PINFile string // holds PIN and a newline
}

// Env returns the assignment that shows the token to a child process,
// "SOFTHSM2_CONF=...".
func (t *Token) Env() string { return "SOFTHSM2_CONF=" + t.Conf }

// String names the token without its PINs.
func (t *Token) String() string {
	return fmt.Sprintf("SoftHSM token %q (serial %s) in %s", t.Label, t.Serial, t.Dir)
}

// New makes dir if need be, and one token in it. Errors: ErrExists,
// ErrNotInstalled.
func New(dir, label string) (*Token, error) {
	return open(dir, label, func(d *directory) error {
		if _, err := os.Lstat(d.path(confName)); !errors.Is(err, os.ErrNotExist) {
			return errors.Join(err, fmt.Errorf("%w: %s", ErrExists, d.dir))
		}
		return d.create(label)
	})
}

// Open returns the token that New, Ensure or AddToken made. Errors:
// ErrNoToken, ErrNotInstalled.
func Open(dir, label string) (*Token, error) {
	if _, err := os.Stat(filepath.Join(dir, confName)); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s has no %s", ErrNoToken, dir, confName)
	}
	return open(dir, label, func(*directory) error { return nil })
}

// Ensure is Open, or New where there is nothing yet. It also finishes what an
// interrupted New or Ensure began. A directory with other tokens only is
// refused: ErrExists.
func Ensure(dir, label string) (*Token, error) {
	return open(dir, label, func(d *directory) error { return d.create(label) })
}

// AddToken makes one more token, with PINs of its own, in a directory that
// New or Ensure made. A label may be given to several tokens: the serial
// tells them apart. Errors: ErrNoToken (no such directory), ErrNotInstalled.
func AddToken(dir, label string) (*Token, error) {
	if err := checkLabel(label); err != nil {
		return nil, err
	}
	d, err := enter(dir)
	if err != nil {
		return nil, err
	}
	defer d.leave()
	if err := d.checkConf(); err != nil {
		return nil, err
	}
	pin, so := rand.Text(), rand.Text()
	serial, err := d.initToken(label, pin, so)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.write(serial+"."+soPIN, so+"\n"), d.write(serial+"."+userPIN, pin+"\n")); err != nil {
		return nil, err
	}
	return d.token(label, serial)
}

// open takes the directory, lets prepare bring it into shape, and returns the
// one token that has the label.
func open(dir, label string, prepare func(*directory) error) (*Token, error) {
	if err := checkLabel(label); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d, err := enter(dir)
	if err != nil {
		return nil, err
	}
	defer d.leave()
	if err := prepare(d); err != nil {
		return nil, err
	}
	if err := d.checkConf(); err != nil {
		return nil, err
	}
	serials, _, err := d.find(label)
	switch {
	case err != nil:
		return nil, err
	case len(serials) == 0:
		return nil, fmt.Errorf("%w: none with label %q in %s", ErrNoToken, label, d.dir)
	case len(serials) > 1:
		return nil, fmt.Errorf("%d tokens in %s have the label %q (serials %s)", len(serials), d.dir, label, strings.Join(serials, ", "))
	}
	return d.token(label, serials[0])
}

// directory is a locked directory: one process at a time makes tokens in it.
type directory struct {
	dir  string
	inst Install
	lock *os.File
}

func enter(dir string) (*directory, error) {
	inst, err := Find()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	// SoftHSM ends a line at '#' and a value at '=', and has no quoting.
	if strings.ContainsAny(dir, "#=\r\n") || len(dir) > 900 {
		return nil, fmt.Errorf("SoftHSM cannot be configured with the directory %q; use a path without '#', '=' and line breaks, of 900 bytes at most", dir)
	}
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoToken, err)
	}
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), f.Close())
	}
	return &directory{dir: dir, inst: inst, lock: f}, nil
}

func (d *directory) leave() { _ = d.lock.Close() } // only its lock was used

func (d *directory) path(name string) string { return filepath.Join(d.dir, name) }

// create makes whatever is missing for a first token, in an order in which
// each step can be repeated: configuration, PINs, token.
func (d *directory) create(label string) error {
	if err := os.Mkdir(d.path(tokensDir), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	conf := "# Written by Keyhole. A throw-away token: not for production.\n" +
		"directories.tokendir = " + d.path(tokensDir) + "\n" +
		"objectstore.backend = file\n" +
		"log.level = ERROR\n" +
		"slots.removable = false\n"
	for _, f := range []struct{ name, content string }{
		{soPIN, rand.Text() + "\n"}, {userPIN, rand.Text() + "\n"}, {confName, conf},
	} {
		if _, err := os.Lstat(d.path(f.name)); err == nil {
			continue
		}
		if err := d.write(f.name, f.content); err != nil {
			return err
		}
	}
	if err := d.checkConf(); err != nil {
		return err
	}
	serials, others, err := d.find(label)
	if err != nil || len(serials) > 0 {
		return err
	}
	if others > 0 {
		return fmt.Errorf("%w: %s has %d, none with label %q", ErrExists, d.dir, others, label)
	}
	so, err := d.read(soPIN)
	if err != nil {
		return err
	}
	pin, err := d.read(userPIN)
	if err != nil {
		return err
	}
	_, err = d.initToken(label, pin, so)
	return err
}

// token puts together what is known of an initialised token.
func (d *directory) token(label, serial string) (*Token, error) {
	prefix := serial + "." // AddToken's
	if _, err := os.Stat(d.path(prefix + userPIN)); errors.Is(err, os.ErrNotExist) {
		prefix = ""
	}
	pin, err := d.read(prefix + userPIN)
	if err != nil {
		return nil, err
	}
	so, err := d.read(prefix + soPIN)
	if err != nil {
		return nil, err
	}
	return &Token{
		Dir: d.dir, Conf: d.path(confName), Module: d.inst.Module, Label: label, Serial: serial,
		PIN: pin, SOPIN: so, PINFile: d.path(prefix + userPIN),
	}, nil
}

// checkConf refuses a configuration whose tokens are not in this directory: a
// copied or moved one would open the original's.
func (d *directory) checkConf() error {
	b, err := os.ReadFile(d.path(confName))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s has no %s", ErrNoToken, d.dir, confName)
	}
	if err != nil {
		return err
	}
	var got string
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		name, value, _ := strings.Cut(line, "=")
		if strings.TrimSpace(name) == "directories.tokendir" {
			got = strings.TrimSpace(value) // SoftHSM takes the last one too
		}
	}
	want := d.path(tokensDir)
	a, aerr := os.Stat(got)
	w, werr := os.Stat(want)
	if aerr != nil || werr != nil || !os.SameFile(a, w) {
		return fmt.Errorf("%s: directories.tokendir is %q, not %q; if the directory was moved, correct the line", d.path(confName), got, want)
	}
	return nil
}

// write makes a file of mode 0600, whole or not at all for whoever looks.
func (d *directory) write(name, content string) error {
	f, err := os.CreateTemp(d.dir, ".new-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), d.path(name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (d *directory) read(name string) (string, error) {
	b, err := os.ReadFile(d.path(name))
	pin := strings.TrimRight(string(b), "\r\n")
	if err == nil && pin == "" {
		err = fmt.Errorf("%s is empty", d.path(name))
	}
	return pin, err
}

// checkLabel accepts labels that need no quoting anywhere: 1 to 32 of
// letters, digits, '.', '_' and '-'.
func checkLabel(label string) error {
	ok := len(label) >= 1 && len(label) <= 32 && label[0] != '-'
	for _, c := range []byte(label) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if !ok {
		return fmt.Errorf("a token label has 1 to 32 letters, digits, '.', '_' or inner '-', not %.40q", label)
	}
	return nil
}
