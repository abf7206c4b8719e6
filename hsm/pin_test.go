package hsm

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

// TestLoginWhileBusy: SoftHSM answers CKR_GENERAL_ERROR to a login while
// another process logs in. A token that counts that as a wrong PIN is not
// asked again.
func TestLoginWhileBusy(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	f.Set("C_Login to 1 return CKR_GENERAL_ERROR")
	start(t, tok, f.use)
	if got := f.calls(fnLogin); got < 2 {
		t.Errorf("%d logins, want another one", got)
	}
	other := softhsmtest.Start(t)
	f = newFaulty(t, other)
	f.Set("C_Login after CKR_GENERAL_ERROR", "pin-tries 10")
	c := Config{Tokens: []TokenConfig{tokenConfig(other)}}
	f.use(&c)
	c.Tokens[0].PIN = func() ([]byte, error) { return []byte("wrong"), nil }
	if _, err := Open(t.Context(), c); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("no login: %v", err)
	}
	if got := f.Counts().WrongPINs; got != 1 {
		t.Errorf("a wrong PIN that is not called one was tried %d times, want once", got)
	}
}

func TestPINFlagsRefuseTheLogin(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	for _, flag := range []uint{pkcs11.CKF_USER_PIN_LOCKED, pkcs11.CKF_USER_PIN_FINAL_TRY} {
		f.flag(flag)
		c := Config{Tokens: []TokenConfig{tokenConfig(tok)}}
		f.use(&c)
		_, err := Open(t.Context(), c)
		if !errors.Is(err, ErrPIN) || !errors.Is(err, keys.ErrHSM) {
			t.Errorf("flag %#x: %v", flag, err)
		}
		if got := f.calls(fnLogin); got != 0 {
			t.Errorf("flag %#x: %d logins were tried", flag, got)
		}
	}
	f.flag(pkcs11.CKF_USER_PIN_COUNT_LOW)
	start(t, tok, f.use) // a warning, no more
}

func TestWrongPINIsTriedOnce(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	c := Config{Tokens: []TokenConfig{tokenConfig(tok)}}
	f.use(&c)
	secret := "0000-wrong"
	given := []byte(secret)
	c.Tokens[0].PIN = func() ([]byte, error) { return given, nil }
	for range 3 {
		_, err := Open(t.Context(), c)
		if !errors.Is(err, ErrPIN) {
			t.Fatalf("wrong PIN: %v", err)
		}
		if strings.Contains(err.Error(), secret) {
			t.Error("the error shows the PIN")
		}
	}
	if got := f.Counts().WrongPINs; got != 1 {
		t.Errorf("%d logins with a wrong PIN, want 1", got)
	}
	if string(given) == secret {
		t.Error("the PIN was not overwritten")
	}
	if _, err := Open(t.Context(), Config{Tokens: []TokenConfig{{Name: "t", Module: f.Path, Serial: tok.Serial,
		PIN: func() ([]byte, error) { return []byte(tok.PIN), nil }}}}); !errors.Is(err, ErrPIN) {
		t.Errorf("after a refused PIN: %v; another may only be tried by another process", err)
	}
}

// TestPINChangedWhileOpen loses the login and cannot get it back.
func TestPINChangedWhileOpen(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	pin := tok.PIN
	var mu sync.Mutex
	h := start(t, tok, f.use, func(c *Config) {
		c.Tokens[0].CanaryInterval = 5 * time.Millisecond
		c.Tokens[0].PIN = func() ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			return []byte(pin), nil
		}
	})
	ref := generate(t, h, "pin.v1", keys.ES256, 0)
	mu.Lock()
	pin = "something else"
	mu.Unlock()
	tk := h.tokens["t"]
	if err := pkcs11.New(f.Path).CloseAllSessions(tk.tok.Slot().ID); err != nil {
		t.Fatal(err)
	}
	runHSM(t, h)
	eventually(t, "the token is down", func() bool { return !h.Health()[0].Ready })
	for range 20 {
		if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); !errors.Is(err, keys.ErrHSM) {
			t.Fatalf("without a login: %v", err)
		}
	}
	if got := f.Counts().WrongPINs; got != 1 {
		t.Errorf("%d logins with the wrong PIN, want 1", got)
	}
	if got := h.Health()[0]; got.Ready || !strings.Contains(got.Detail, "PIN") {
		t.Errorf("%+v", got)
	}
}

// TestPINUnlocked locks the PIN, which takes no login at all, and has a security
// officer unlock it: the token comes back by itself.
func TestPINUnlocked(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use, func(c *Config) { c.Tokens[0].CanaryInterval = 20 * time.Millisecond })
	ref := generate(t, h, "unlocked.v1", keys.ES256, 0)
	runHSM(t, h)
	logins := f.calls(fnLogin)
	f.Set("C_GetTokenInfo flags 0x40000", "* nth 1 drop")
	eventually(t, "the token is down", func() bool { return !h.Health()[0].Ready })
	if detail := h.Health()[0].Detail; !strings.Contains(detail, "locked") {
		t.Errorf("an operator reads %q", detail)
	}
	if got := f.calls(fnLogin); got != logins {
		t.Errorf("%d logins to a locked token", got-logins)
	}
	f.Set()
	begin := time.Now()
	eventually(t, "the token is back", func() bool { return h.Health()[0].Ready })
	t.Logf("ready %s after the PIN was unlocked", time.Since(begin).Round(time.Millisecond))
	if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); err != nil {
		t.Error(err)
	}
}
