package integration

import (
	"net/http"
	"strings"
	"syscall"
	"testing"

	"keyhole/gateway/api"
)

// Whatever the HSM fails by, a caller is told 503 and when to come again; and
// when it is well again the gateway is too, by itself. What it tells and how
// long that takes is logged.
func TestFaultsEndByThemselves(t *testing.T) {
	t.Parallel()
	b := newBrittle(t, "session_wait: 200ms", "stuck_after: 2s")
	b.create("payments", "ES256", 0)
	b.create("vault", "A256GCM", 0)
	b.learn("payments")
	sealed := b.seal()
	pid := b.proc.cmd.Process.Pid
	for _, c := range []struct {
		what   string
		ready  bool // all the while: a balancer would only move the trouble
		orders []string
	}{
		{what: "the device fails", orders: []string{"* return CKR_DEVICE_ERROR"}},
		{what: "the device is out of memory", orders: []string{"C_SignInit return CKR_DEVICE_MEMORY"}},
		{what: "a code of the vendor's", orders: []string{"* return 0x80000017"}},
		{what: "general errors", orders: []string{"* return CKR_GENERAL_ERROR"}},
		{what: "sessions die at once", orders: []string{"C_Sign drop"}},
		{what: "the login is lost, and cannot be had", orders: []string{"* nth 1 drop", "C_Login return CKR_DEVICE_ERROR"}},
		{what: "handles are never good", orders: []string{"C_SignInit return CKR_KEY_HANDLE_INVALID"}},
		{what: "others hold all sessions", orders: []string{"* nth 1 drop", "C_OpenSession return CKR_SESSION_COUNT"}},
		{what: "the token is gone", orders: []string{"gone"}},
		{what: "the module cannot be initialised", orders: []string{"* return CKR_DEVICE_ERROR", "C_Initialize return CKR_DEVICE_ERROR"}},
		{what: "the module cannot be finalised", orders: []string{"* return CKR_DEVICE_ERROR", "C_Finalize return CKR_FUNCTION_FAILED"}},
		{what: "every call stalls", orders: []string{"C_Sign stall"}},
		{what: "signatures are too short", orders: []string{"C_Sign length 3"}},
		{what: "one key is forgotten", ready: true, orders: []string{"forget payments.v1", "* nth 1 drop"}},
	} {
		b.f.Set(c.orders...)
		var told answer
		eventually(t, c.what, func() bool {
			b.alive()
			if a := b.sign("payments"); a.status != http.StatusOK {
				told = a
			}
			return told.status != 0 && b.ready() == c.ready
		})
		if told.status != http.StatusServiceUnavailable || told.header.Get("Retry-After") == "" {
			t.Errorf("%s: callers are told %s, want 503 with Retry-After", c.what, told.trouble())
		}
		if strings.Contains(string(told.body), "CKR_") {
			t.Errorf("%s: callers are told %s", c.what, told.body)
		}
		b.f.Set()
		served, ready := b.recovered("payments")
		t.Logf("%-40s %-45s signatures after %7s, ready after %7s", c.what, told.trouble(), served, ready)
		if got := b.unseal(sealed); got.status != http.StatusOK {
			t.Errorf("%s: an old ciphertext afterwards: %s", c.what, got.trouble())
		}
	}
	if b.proc.cmd.Process.Pid != pid {
		t.Error("the gateway was restarted")
	}
	b.rotate("payments")
}

func (b *brittle) seal() string {
	b.t.Helper()
	e, err := b.as(agent).Encrypt(b.t.Context(), "vault", api.EncryptRequest{Plaintext: []byte(text)})
	must(b.t, err)
	return e.Ciphertext
}

func (b *brittle) unseal(ciphertext string) answer {
	b.t.Helper()
	return b.post(agent, "/v1/keys/vault/decrypt", `{"ciphertext":"`+ciphertext+`"}`)
}

// An HSM that says CKR_GENERAL_ERROR of a ciphertext blames the ciphertext: no
// caller can take the gateway out of service by such ones.
func TestBadCiphertextsAreTheCallers(t *testing.T) {
	t.Parallel()
	b := newBrittle(t)
	b.create("payments", "ES256", 0)
	b.create("vault", "A256GCM", 0)
	b.learn("payments")
	sealed := b.seal()
	for _, code := range []string{"CKR_GENERAL_ERROR", "CKR_FUNCTION_FAILED", "CKR_ENCRYPTED_DATA_INVALID", "CKR_ENCRYPTED_DATA_LEN_RANGE"} {
		b.f.Set("C_Decrypt return " + code)
		for range 5 {
			if a := b.unseal(sealed); a.status != http.StatusUnprocessableEntity && a.status != http.StatusBadRequest {
				t.Errorf("%s from C_Decrypt: %s", code, a.trouble())
			}
			if a := b.sign("payments"); a.status != http.StatusOK {
				t.Errorf("%s from C_Decrypt, and then a signature: %s", code, a.trouble())
			}
		}
		if !b.ready() {
			t.Errorf("%s from C_Decrypt: not ready", code)
		}
	}
	b.f.Set()
	if a := b.unseal(sealed); a.status != http.StatusOK {
		t.Errorf("afterwards: %s", a.trouble())
	}
}

// A call that hangs costs its session, and no other caller anything.
func TestStuckCallCostsOneSession(t *testing.T) {
	t.Parallel()
	b := newBrittle(t, "stuck_after: 1s")
	b.create("payments", "ES256", 0)
	b.create("other", "ES256", 0)
	b.learn("payments")
	b.learn("other")
	b.f.Set("C_Sign nth 1 stall")
	told := make(chan answer, 1)
	go func() { told <- b.sign("payments") }()
	eventually(t, "a call hangs", func() bool { return b.f.Inside("C_Sign") == 1 })
	var hung answer
	signed := 0
	eventually(t, "the caller whose call hangs leaves", func() bool {
		if a := b.sign("other"); a.status != http.StatusOK {
			t.Errorf("while a call hangs: %s", a.trouble())
		}
		if signed++; !b.ready() {
			t.Error("not ready, for one call")
		}
		select {
		case hung = <-told:
		default:
		}
		return hung.status != 0 || t.Failed()
	})
	t.Logf("the caller whose call hung was told %s; %d others were served meanwhile", hung.trouble(), signed)
	if hung.status != http.StatusServiceUnavailable {
		t.Errorf("the caller whose call hung was told %s, want 503", hung.trouble())
	}
	if a := b.sign("payments"); a.status != http.StatusOK {
		t.Errorf("the same key, while the call still hangs: %s", a.trouble())
	}
	b.f.Set()
	eventually(t, "the call returns", func() bool { return b.f.Inside("C_Sign") == 0 })
	b.recovered("payments")
}

// A token takes three PINs. However often a supervisor starts a gateway that
// has a wrong one, each start tries it once, and the last is never tried.
func TestWrongPINIsTriedOnceAStart(t *testing.T) {
	t.Parallel()
	b := newBrittle(t)
	b.stop()
	b.f.Set("pin-tries 3")
	pin := b.line("user.pin")
	b.put("user.pin", "000000\n")
	for start := 1; start <= 5; start++ {
		before := b.f.Counts().WrongPINs
		p := run(t, nil, "dev", "--dir", b.dir, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")
		status := p.wait()
		logins := b.f.Counts().WrongPINs - before
		t.Logf("start %d: status %d, the wrong PIN was tried %d times", start, status, logins)
		if status == 0 || logins > 1 || (start > 2) != (logins == 0) {
			t.Errorf("start %d: status %d, the wrong PIN was tried %d times", start, status, logins)
		}
		if strings.Contains(p.stderr.String(), "000000") {
			t.Error("the PIN is in the log")
		}
	}
	b.f.Set("pin-tries 4") // as after a login with the vendor's tool
	b.put("user.pin", pin+"\n")
	b.start()
	if n := b.f.Counts().WrongPINs; n != 0 {
		t.Errorf("%d wrong PINs after a right one", n)
	}
	b.proc.signal(syscall.SIGTERM)
	b.proc.wait()
}
