package hsm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	dir := t.TempDir()
	text := filepath.Join(dir, "text.so")
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.so")
	if out, err := exec.Command("gcc", "-shared", "-o", other, "-x", "c", "/dev/null").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	for name, c := range map[string]struct {
		change func(*TokenConfig)
		want   error
		says   string
	}{
		"module path does not exist": {func(c *TokenConfig) { c.Module = filepath.Join(dir, "none.so") }, ErrNoModule, "none.so"},
		"module is no library":       {func(c *TokenConfig) { c.Module = text }, ErrNoModule, "C_GetFunctionList"},
		"module is another library":  {func(c *TokenConfig) { c.Module = other }, ErrNoModule, "C_GetFunctionList"},
		"no such serial":             {func(c *TokenConfig) { c.Serial = "4711" }, ErrNoToken, tok.Label},
		"no such label":              {func(c *TokenConfig) { c.Serial, c.Label = "", "nobody" }, ErrNoToken, tok.Serial},
		"label of another token":     {func(c *TokenConfig) { c.Label = "nobody" }, ErrNoToken, tok.Serial},
		"the PIN cannot be read": {func(c *TokenConfig) {
			c.PIN = func() ([]byte, error) { return nil, os.ErrNotExist }
		}, os.ErrNotExist, "PIN"},
		"no name":     {func(c *TokenConfig) { c.Name = "" }, keys.ErrInvalid, "name"},
		"no module":   {func(c *TokenConfig) { c.Module = "" }, keys.ErrInvalid, "module"},
		"no selector": {func(c *TokenConfig) { c.Serial = "" }, keys.ErrInvalid, "serial"},
		"no PIN":      {func(c *TokenConfig) { c.PIN = nil }, keys.ErrInvalid, "PIN"},
		"gcm_iv":      {func(c *TokenConfig) { c.GCMIV = "random" }, keys.ErrInvalid, "hsm-appended"},
		"sessions":    {func(c *TokenConfig) { c.Sessions = -1 }, keys.ErrInvalid, "negative"},
	} {
		tc := tokenConfig(tok)
		c.change(&tc)
		h, err := Open(t.Context(), Config{Tokens: []TokenConfig{tc}})
		if err == nil {
			_ = h.Close()
		}
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %v that says %q", name, err, c.want, c.says)
		}
	}
	if _, err := Open(t.Context(), Config{}); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("no tokens: %v", err)
	}
	tc := tokenConfig(tok)
	if _, err := Open(t.Context(), Config{Tokens: []TokenConfig{tc, tc}}); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("one name twice: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ended, Config{Tokens: []TokenConfig{tc}}); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
	start(t, tok) // after all that the token is free, and its PIN was never refused
}

func TestOneTokenOpenTwice(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	h := start(t, tok)
	c := tokenConfig(tok)
	c.PIN = func() ([]byte, error) { return []byte("a wrong one"), nil }
	if _, err := Open(t.Context(), Config{Tokens: []TokenConfig{c}}); !errors.Is(err, ErrTokenInUse) {
		t.Errorf("a token that is open: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link.so")
	if err := os.Symlink(tok.Module, link); err != nil {
		t.Fatal(err)
	}
	c.Module = link
	if _, err := Open(t.Context(), Config{Tokens: []TokenConfig{c}}); !errors.Is(err, ErrTokenInUse) {
		t.Errorf("by another name of the module: %v", err)
	}
	ref := generate(t, h, "twice.v1", keys.ES256, 0)
	if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); err != nil {
		t.Error(err)
	}
}

// TestForeignLoginIsNoPass logs in by other code of the process: a token
// that is logged in takes any PIN.
func TestForeignLoginIsNoPass(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	p, _ := raw(t, start(t, softhsmtest.Start(t))) // which holds the module initialised
	slots, err := p.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		info, err := p.GetTokenInfo(slot)
		if err != nil || info.SerialNumber != tok.Serial {
			continue
		}
		s, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Login(s, pkcs11.CKU_USER, tok.PIN); err != nil {
			t.Fatal(err)
		}
	}
	c := tokenConfig(tok)
	c.PIN = func() ([]byte, error) { return []byte("a wrong one"), nil }
	if _, err := Open(t.Context(), Config{Tokens: []TokenConfig{c}}); !errors.Is(err, ErrPIN) {
		t.Errorf("a wrong PIN on a token that is logged in: %v", err)
	}
}

// TestTwoTokensOfOneModule has two partitions in one HSM.
func TestTwoTokensOfOneModule(t *testing.T) {
	t.Parallel()
	a, b := softhsmtest.Start(t), softhsmtest.Start(t)
	h := start(t, a, func(c *Config) {
		second := tokenConfig(b)
		second.Name, second.Label, second.Serial = "second", b.Label, ""
		c.Tokens = append(c.Tokens, second)
	})
	if h.DefaultToken() != "t" || !h.HasToken("second") || h.HasToken("third") {
		t.Error("tokens are not as configured")
	}
	ref := keys.Ref{Token: "second", ID: keys.NewObjectID(), Label: "there.v1", Algorithm: keys.ES256, Bits: 256}
	made, err := h.Generate(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	ref.PublicKey, ref.Check = made.PublicKey, made.Check
	if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); err != nil {
		t.Error(err)
	}
	wrong := ref
	wrong.Token = "t"
	if _, err := h.Sign(t.Context(), wrong, input(keys.ES256)); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("on the other token: %v", err)
	}
	info := h.Describe()
	if len(info) != 2 || info[0].Serial != a.Serial || info[1].Serial != b.Serial || info[1].Label != b.Label {
		t.Errorf("%+v", info)
	}
}
