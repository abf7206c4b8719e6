package softhsm

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
)

func mustNew(t *testing.T, dir, label string) *Token {
	t.Helper()
	tok, err := New(dir, label)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestPINsOpenTheToken uses the module itself. It must not run beside others:
// the process has one SOFTHSM2_CONF.
func TestPINsOpenTheToken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b") // SoftHSM takes the blank
	first := mustNew(t, dir, "first")
	second, err := AddToken(dir, "second")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", first.Conf)
	p := pkcs11.New(first.Module)
	if p == nil {
		t.Fatalf("%s does not load", first.Module)
	}
	defer p.Destroy()
	if err := p.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer p.Finalize()
	slots, err := p.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	opened := 0
	for _, slot := range slots {
		info, err := p.GetTokenInfo(slot)
		if err != nil {
			t.Fatal(err)
		}
		for _, tok := range []*Token{first, second} {
			if strings.TrimSpace(info.SerialNumber) != tok.Serial {
				continue
			}
			if strings.TrimSpace(info.Label) != tok.Label {
				t.Errorf("serial %s has the label %q, want %q", tok.Serial, info.Label, tok.Label)
			}
			for user, pin := range map[uint]string{pkcs11.CKU_USER: tok.PIN, pkcs11.CKU_SO: tok.SOPIN} {
				session, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
				if err != nil {
					t.Fatal(err)
				}
				if err := p.Login(session, user, pin); err != nil {
					t.Errorf("%v: login of user type %d: %v", tok, user, err)
				} else {
					opened++
				}
				if err := p.CloseAllSessions(slot); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if opened != 4 {
		t.Errorf("%d logins of 4", opened)
	}
}

func TestNewMakesPrivateFiles(t *testing.T) {
	t.Parallel()
	tok := mustNew(t, filepath.Join(t.TempDir(), "dev"), "dev")
	err := filepath.WalkDir(tok.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[e.IsDir()]; info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if tok.Env() != "SOFTHSM2_CONF="+tok.Conf {
		t.Errorf("Env: %s", tok.Env())
	}
	b, err := os.ReadFile(tok.PINFile)
	if err != nil || strings.TrimSpace(string(b)) != tok.PIN || tok.PINFile != filepath.Join(tok.Dir, "user.pin") {
		t.Errorf("%s does not hold the PIN: %v", tok.PINFile, err)
	}
	if len(tok.PIN) < 20 || tok.PIN == tok.SOPIN {
		t.Error("the PINs are not random")
	}
	if strings.Contains(tok.String(), tok.PIN) || strings.Contains(tok.String(), tok.SOPIN) {
		t.Error("String shows a PIN")
	}
}

func TestNewRefusesWhatExists(t *testing.T) {
	t.Parallel()
	tok := mustNew(t, t.TempDir(), "dev")
	for _, label := range []string{"dev", "other"} {
		if _, err := New(tok.Dir, label); !errors.Is(err, ErrExists) {
			t.Errorf("New(%q): %v, want ErrExists", label, err)
		}
	}
	if _, err := Ensure(tok.Dir, "other"); !errors.Is(err, ErrExists) {
		t.Errorf("Ensure of another label: %v, want ErrExists", err)
	}
	again, err := Open(tok.Dir, "dev")
	if err != nil || *again != *tok {
		t.Errorf("the token changed: %v, %v", again, err)
	}
}

func TestOpenMakesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	if _, err := Open(dir, "dev"); !errors.Is(err, ErrNoToken) {
		t.Errorf("Open: %v, want ErrNoToken", err)
	}
	if _, err := AddToken(dir, "dev"); !errors.Is(err, ErrNoToken) {
		t.Errorf("AddToken: %v, want ErrNoToken", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was made: %v", dir, err)
	}
	tok := mustNew(t, dir, "dev")
	if _, err := Open(tok.Dir, "other"); !errors.Is(err, ErrNoToken) {
		t.Errorf("Open of another label: %v, want ErrNoToken", err)
	}
}

func TestEnsure(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dev")
	var wg sync.WaitGroup
	got := make([]*Token, 4)
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = Ensure(dir, "dev"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, tok := range got[1:] {
		if *tok != *got[0] {
			t.Errorf("two tokens: %v, %v", got[0], tok)
		}
	}
}

// TestEnsureFinishes interrupts New after each of its steps.
func TestEnsureFinishes(t *testing.T) {
	t.Parallel()
	for _, missing := range [][]string{
		{"tokens/*"},
		{"tokens/*", confName},
		{"tokens/*", confName, userPIN},
		{"tokens/*", confName, userPIN, soPIN},
		{"tokens", confName, userPIN, soPIN},
	} {
		tok := mustNew(t, t.TempDir(), "dev")
		for _, m := range missing {
			paths, err := filepath.Glob(filepath.Join(tok.Dir, m))
			if err != nil || len(paths) == 0 {
				t.Fatalf("%s: %v, %v", m, paths, err)
			}
			for _, p := range paths {
				if err := os.RemoveAll(p); err != nil {
					t.Fatal(err)
				}
			}
		}
		again, err := Ensure(tok.Dir, "dev")
		if err != nil {
			t.Errorf("without %v: %v", missing, err)
			continue
		}
		if again.Serial == tok.Serial || again.Serial == "" {
			t.Errorf("without %v: the serial is %q, before %q", missing, again.Serial, tok.Serial)
		}
		if kept := len(missing) < 3; kept != (again.PIN == tok.PIN) {
			t.Errorf("without %v: the PIN was kept: %v, want %v", missing, !kept, kept)
		}
	}
}

func TestLabelsMayRepeat(t *testing.T) {
	t.Parallel()
	a := mustNew(t, t.TempDir(), "same")
	b, err := AddToken(a.Dir, "same")
	if err != nil {
		t.Fatal(err)
	}
	if a.Serial == b.Serial || a.PIN == b.PIN || a.Conf != b.Conf {
		t.Errorf("%v and %v", a, b)
	}
	if tok, err := Open(a.Dir, "same"); err == nil {
		t.Errorf("Open picks %v of two", tok)
	}
}

func TestMovedDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	tok := mustNew(t, filepath.Join(t.TempDir(), "original"), "dev")
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(tok.Dir)); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(string, string) (*Token, error){"Open": Open, "Ensure": Ensure, "AddToken": AddToken} {
		if got, err := f(copied, "dev"); err == nil {
			t.Errorf("%s of a copy opens %v", name, got)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(tok.Dir, link); err != nil {
		t.Fatal(err)
	}
	if got, err := Open(link, "dev"); err != nil || got.Serial != tok.Serial {
		t.Errorf("by another name of the same directory: %v, %v", got, err)
	}
}

func TestBadArguments(t *testing.T) {
	t.Parallel()
	for _, label := range []string{"", "-x", "a b", "ü", "a\n", strings.Repeat("x", 33), "a/b"} {
		dir := filepath.Join(t.TempDir(), "d")
		if _, err := New(dir, label); err == nil {
			t.Errorf("New takes the label %q", label)
		}
		if _, err := AddToken(dir, label); err == nil {
			t.Errorf("AddToken takes the label %q", label)
		}
	}
	for _, name := range []string{"a#b", "a=b", "a\nb"} {
		if _, err := New(filepath.Join(t.TempDir(), name), "dev"); err == nil {
			t.Errorf("New takes the directory %q", name)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(file, "dev"); err == nil {
		t.Error("New takes a file for a directory")
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	inst, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	module, util := filepath.Join(dir, "module"), filepath.Join(dir, "util")
	for _, f := range []string{module, util} {
		if err := os.WriteFile(f, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	env := func(vars map[string]string) func(string) string { return func(n string) string { return vars[n] } }

	got, err := find(env(map[string]string{ModuleEnv: module, UtilEnv: util}), []string{inst.Module}, []string{inst.Util})
	if err != nil || got.Module != module || got.Util != util {
		t.Errorf("by environment: %+v, %v", got, err)
	}
	got, err = find(env(nil), []string{dir, filepath.Join(dir, "none"), module}, []string{util})
	if err != nil || got.Module != module {
		t.Errorf("by place: %+v, %v", got, err)
	}
	for name, vars := range map[string]map[string]string{
		"a module that is not there":     {ModuleEnv: filepath.Join(dir, "none")},
		"a module that is a directory":   {ModuleEnv: dir},
		"a utility that is not there":    {ModuleEnv: module, UtilEnv: filepath.Join(dir, "none")},
		"no module in any of the places": {},
	} {
		_, err := find(env(vars), []string{filepath.Join(dir, "none")}, []string{util})
		if !errors.Is(err, ErrNotInstalled) {
			t.Errorf("%s: %v, want ErrNotInstalled", name, err)
			continue
		}
		for _, want := range []string{"apt-get install softhsm2", "dnf install softhsm", "apk add softhsm", "brew install softhsm"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error does not say %q: %v", name, want, err)
			}
		}
	}
}

// TestUtilFails shows that a failing utility is an error that holds no PIN.
func TestUtilFails(t *testing.T) {
	t.Parallel()
	inst, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	tok := mustNew(t, t.TempDir(), "dev")
	lock, err := os.Open(tok.Dir)
	if err != nil {
		t.Fatal(err)
	}
	d := &directory{dir: tok.Dir, inst: Install{Module: inst.Util, Util: inst.Util}, lock: lock} // no module at all
	defer d.leave()
	_, err = d.initToken("x", "secret-pin-1", "secret-pin-2")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strings.Contains(err.Error(), "secret-pin") {
		t.Errorf("want an exit status without PINs: %v", err)
	}
	_, err = d.util("--init-token", "--free", "--label", "x", "--pin", "secret-pin-1", "--so-pin", "secret-pin-2")
	if !errors.As(err, &exit) || strings.Contains(err.Error(), "secret-pin") {
		t.Errorf("want an exit status without PINs: %v", err)
	}
}

func FuzzParseSlots(f *testing.F) {
	f.Add("Available slots:\nSlot 17\n    Slot info:\n        Description:      SoftHSM slot ID 0x11\n    Token info:\n" +
		"        Serial number:    2ae9e4188a23533a\n        Initialized:      yes\n        Label:            abc   \n" +
		"Slot 1\n    Token info:\n        Initialized:      no\n")
	f.Add("Label: x\nSlot ")
	f.Add("")
	f.Fuzz(func(t *testing.T, out string) {
		if n, most := len(parseSlots(out)), strings.Count("\n"+out, "\nSlot "); n != most {
			t.Errorf("%d slots of %d lines", n, most)
		}
	})
}

func TestParseSlots(t *testing.T) {
	t.Parallel()
	out := "Available slots:\nSlot 17\n    Slot info:\n        Description:      SoftHSM slot ID 0x11\n    Token info:\n" +
		"        Serial number:    2ae9e4188a23533a\n        Initialized:      yes\n        User PIN init.:   yes\n        Label:            a:b   \n" +
		"Slot 1\n    Token info:\n        Serial number:    \n        Initialized:      no\n        Label:   \n"
	got := parseSlots(out)
	if len(got) != 2 || got[0] != (slot{label: "a:b", serial: "2ae9e4188a23533a", initialized: true}) || got[1] != (slot{}) {
		t.Errorf("%+v", got)
	}
}
