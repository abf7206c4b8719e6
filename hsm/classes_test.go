package hsm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

// TestEveryCodeOnce has each function that a request calls fail once, by each
// of these codes. Whatever the class, the caller gets a right answer or an
// error that is not blamed on the request, and the next call is good again.
func TestEveryCodeOnce(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use, func(c *Config) { c.Tokens[0].Sessions = 1 })
	sign, wrap := generate(t, h, "codes.v1", keys.ES256, 0), generate(t, h, "codes-wrap.v1", keys.A256GCM, 0)
	data := keys.NewDataKey()
	iv, wrapped, err := h.Wrap(t.Context(), wrap, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := input(keys.ES256)
	requests := map[string]struct {
		functions []fn
		do        func() error
	}{
		"sign": {[]fn{"C_SignInit", fnSign}, func() error {
			sig, err := h.Sign(t.Context(), sign, in)
			if err == nil {
				if ok, verr := h.Verify(t.Context(), sign, in, sig); !ok || verr != nil {
					t.Errorf("a signature that is not valid: %v", verr)
				}
			}
			return err
		}},
		"wrap": {[]fn{"C_EncryptInit", fnEncrypt}, func() error {
			iv, wrapped, err := h.Wrap(t.Context(), wrap, data, nil)
			if err == nil {
				if got, uerr := h.Unwrap(t.Context(), wrap, iv, wrapped, nil); uerr != nil || string(got) != string(data) {
					t.Errorf("what was wrapped opens as %x: %v", got, uerr)
				}
			}
			return err
		}},
		"unwrap": {[]fn{"C_DecryptInit", fnDecrypt}, func() error {
			got, err := h.Unwrap(t.Context(), wrap, iv, wrapped, nil)
			if err == nil && string(got) != string(data) {
				t.Error("another data key")
			}
			return err
		}},
		"random": {[]fn{"C_GenerateRandom"}, func() error {
			_, err := h.Random(t.Context(), "", 8)
			return err
		}},
	}
	repaired := map[fault.Class]bool{fault.Session: true, fault.Handle: true, fault.Login: true}
	seen := map[fault.Class]int{}
	for code := range codes() {
		for what, r := range requests {
			for _, g := range r.functions {
				class := fault.Of(fault.Wrap(strings.TrimPrefix(string(g), "C_"), pkcs11.Error(code)))
				if g == "C_GenerateRandom" {
					class = fault.Of(fault.Wrap(fault.OpRandom, pkcs11.Error(code)))
				}
				seen[class]++
				f.fail(g, code, 1)
				err := r.do()
				switch {
				case repaired[class]:
					if err != nil {
						t.Errorf("%s: %s once from %s: %v; want it repaired", what, fault.CodeName(code), g, err)
					}
				case g == fnDecrypt && class == fault.Caller:
					if !errors.Is(err, keys.ErrDecrypt) {
						t.Errorf("%s: %s once from %s: %v, want ErrDecrypt", what, fault.CodeName(code), g, err)
					}
				case !errors.Is(err, keys.ErrHSM) && !errors.Is(err, keys.ErrUnsupported) && !errors.Is(err, keys.ErrOverloaded):
					t.Errorf("%s: %s once from %s: %v", what, fault.CodeName(code), g, err)
				}
				f.fail(g, 0, 0)
				if err := r.do(); err != nil {
					t.Fatalf("%s: after %s from %s: %v", what, fault.CodeName(code), g, err)
				}
			}
		}
	}
	t.Logf("codes by class: %v", seen)
}

// codes are all that PKCS#11 2.40 has, and some that only vendors have.
func codes() map[uint]bool {
	all := map[uint]bool{0x80000001: true, 0x80000017: true, 0xC0000001: true}
	for code := uint(1); code < 0x210; code++ {
		if !strings.HasPrefix(fault.CodeName(code), "CKR_0x") {
			all[code] = true
		}
	}
	return all
}

// recovery breaks a token by orders that stay, waits until it is seen to be
// broken, ends them, and reports how long it takes until it is well again.
func recovery(t *testing.T, f *faulty, h *HSM, ref keys.Ref, orders ...string) {
	t.Helper()
	f.Set(orders...)
	var seen error
	eventually(t, "the fault shows", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Sign(ctx, ref, input(ref.Algorithm)); err != nil {
			seen = err
		}
		return seen != nil && !h.Health()[0].Ready
	})
	if !expected(seen) {
		t.Errorf("%v: the caller is told %v", orders, seen)
	}
	f.Set()
	begin := time.Now()
	eventually(t, "signatures again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		sig, err := h.Sign(ctx, ref, input(ref.Algorithm))
		if err != nil {
			return false
		}
		if ok, err := h.Verify(t.Context(), ref, input(ref.Algorithm), sig); !ok || err != nil {
			t.Errorf("%v: a signature that is not valid: %v", orders, err)
		}
		return true
	})
	served := time.Since(begin)
	eventually(t, "ready again", func() bool { return h.Health()[0].Ready })
	t.Logf("%-60s callers see %q; signatures again after %s, ready after %s", strings.Join(orders, " | "), kind(seen),
		served.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	if err := useOnce(t, h, generate(t, h, fmt.Sprintf("recovered-%d.v1", time.Now().UnixNano()), keys.HS256, 0)); err != nil {
		t.Errorf("%v: the management plane: %v", orders, err)
	}
}

// kind names the sentinel that a caller sees.
func kind(err error) string {
	for _, k := range []error{keys.ErrOverloaded, keys.ErrTimeout, keys.ErrHSM} {
		if errors.Is(err, k) {
			return k.Error()
		}
	}
	return "no error of the HSM: " + err.Error()
}

// TestRecovers breaks a token in every way that ends by itself.
func TestRecovers(t *testing.T) {
	t.Parallel()
	for name, orders := range map[string][]string{
		"device error":             {"* return CKR_DEVICE_ERROR"},
		"device memory":            {"C_SignInit return CKR_DEVICE_MEMORY"},
		"a vendor's code":          {"* return 0x80000017"},
		"general error":            {"* return CKR_GENERAL_ERROR"},
		"sessions die at once":     {"C_Sign drop"},
		"no login":                 {"C_SignInit return CKR_USER_NOT_LOGGED_IN"},
		"handles are never good":   {"C_SignInit return CKR_KEY_HANDLE_INVALID"},
		"no session":               {"C_OpenSession return CKR_SESSION_COUNT", "* nth 1 drop"},
		"token removed":            {"gone"},
		"not initialised":          {"* return CKR_CRYPTOKI_NOT_INITIALIZED"},
		"cannot be opened again":   {"* return CKR_DEVICE_ERROR", "C_Initialize return CKR_DEVICE_ERROR"},
		"cannot be finalised":      {"* return CKR_DEVICE_ERROR", "C_Finalize return CKR_DEVICE_ERROR"},
		"opens, and no login":      {"* nth 1 drop", "C_Login return CKR_DEVICE_ERROR"},
		"slots cannot be listed":   {"C_Sign return CKR_DEVICE_REMOVED", "C_GetSlotList return CKR_DEVICE_ERROR"},
		"signatures are too short": {"C_Sign length 7"},
		"signatures are too long":  {"C_Sign length 4096"},
		"a size beyond all memory": {"C_Sign length 0x7fffffffffffffff"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tok := softhsmtest.Start(t)
			f := newFaulty(t, tok)
			h := start(t, tok, f.use, func(c *Config) {
				c.Tokens[0].CanaryInterval, c.Tokens[0].StuckAfter = 20*time.Millisecond, time.Second
				c.Tokens[0].SessionWait = 100 * time.Millisecond
			})
			ref := generate(t, h, "recovers.v1", keys.ES256, 0)
			runHSM(t, h)
			recovery(t, f, h, ref, orders...)
		})
	}
}

// TestFewerSessionsThanConfigured: a token that has two in place of eight
// serves all callers by these.
func TestFewerSessionsThanConfigured(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use)
	ref := generate(t, h, "few.v1", keys.ES256, 0)
	// crypto11 has two, the canary one; one more is used now.
	f.Set(fmt.Sprintf("sessions %d", f.Counts().Sessions+1), "C_Sign delay 2ms")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 20 {
				if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d attempts to open a session, %d were open at most", f.calls(fnOpenSession), f.Counts().MostSessions)
}

// TestHungSearchCostsOneSession: the search for a key hangs; others of the same
// key go on.
func TestHungSearchCostsOneSession(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use)
	ref := generate(t, h, "search.v1", keys.ES256, 0)
	f.Set("* nth 1 drop")
	if _, err := h.Random(t.Context(), "", 8); err != nil { // a new login: every handle is found anew
		t.Fatal(err)
	}
	f.Set("C_FindObjectsInit nth 1 stall")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := h.Sign(ctx, ref, input(keys.ES256)); !errors.Is(err, context.Canceled) {
			t.Errorf("the caller whose search hangs: %v", err)
		}
	})
	eventually(t, "the search hangs", func() bool { return f.Inside("C_FindObjectsInit") == 1 })
	for range 10 {
		wg.Go(func() {
			if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); err != nil {
				t.Errorf("another caller: %v", err)
			}
		})
	}
	eventually(t, "one session is left to the search", func() bool { return h.Health()[0].SessionsInUse == 1 })
	cancel()
	f.Set()
	wg.Wait()
}

// TestForgottenObject: the token loses one key, of two.
func TestForgottenObject(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use)
	lost, kept := generate(t, h, "lost.v1", keys.ES256, 0), generate(t, h, "kept.v1", keys.ES256, 0)
	f.Set("forget lost.v1")
	for range 2 * breakerFailures {
		if _, err := h.Sign(t.Context(), lost, input(keys.ES256)); !errors.Is(err, keys.ErrHSM) {
			t.Errorf("the lost key: %v", err)
		}
		if _, err := h.Sign(t.Context(), kept, input(keys.ES256)); err != nil {
			t.Errorf("the other key: %v", err)
		}
	}
	if _, err := h.Inspect(t.Context(), lost); !errors.Is(err, keys.ErrNotFound) {
		t.Errorf("looking for it: %v", err)
	}
	f.Set()
	if _, err := h.Sign(t.Context(), lost, input(keys.ES256)); err != nil {
		t.Errorf("it is there again: %v", err)
	}
}

// TestOneTokenFails: one of two tokens of a module is gone for a while.
func TestOneTokenFails(t *testing.T) {
	t.Parallel()
	a, b := softhsmtest.Start(t), softhsmtest.Start(t)
	f := newFaulty(t, a)
	h := start(t, a, func(c *Config) {
		second := tokenConfig(b)
		second.Name = "second"
		c.Tokens = append(c.Tokens, second)
		for i := range c.Tokens {
			c.Tokens[i].Module, c.Tokens[i].CanaryInterval = f.Path, 20*time.Millisecond
		}
	})
	runHSM(t, h)
	ref := generate(t, h, "first.v1", keys.ES256, 0)
	other := keys.Ref{Token: "second", ID: keys.NewObjectID(), Label: "second.v1", Algorithm: keys.ES256, Bits: 256}
	made, err := h.Generate(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	other.PublicKey, other.Check = made.PublicKey, made.Check
	in := input(keys.ES256)
	f.Set("gone " + a.Label)
	eventually(t, "the first token is down, and stays so for a while", func() bool {
		if _, err := h.Sign(t.Context(), other, in); err != nil {
			t.Errorf("the other token: %v", err)
		}
		return t.Failed() || f.calls(fnFinalize) >= 1 // not only by itself was it tried
	})
	if health := h.Health(); health[0].Ready {
		t.Errorf("%+v", health)
	}
	if _, err := h.Sign(t.Context(), ref, in); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("the token that is gone: %v", err)
	}
	f.Set()
	eventually(t, "both are ready", func() bool { health := h.Health(); return health[0].Ready && health[1].Ready })
	for _, r := range []keys.Ref{ref, other} {
		if _, err := h.Sign(t.Context(), r, in); err != nil {
			t.Errorf("%s afterwards: %v", r.Label, err)
		}
	}
}

// TestNoReadOnlySessions: CloudHSM has none.
func TestNoReadOnlySessions(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	f.Set("read-write")
	h := start(t, tok, f.use)
	ref := generate(t, h, "read-write.v1", keys.ES256, 0)
	if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); err != nil {
		t.Error(err)
	}
	f.Set("read-write", "* nth 1 drop")
	if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); err != nil {
		t.Errorf("after a reset: %v", err)
	}
}

// TestDestroyBelievesNothing: the token says that an object is gone, which it
// is not; and that it failed, which it did not.
func TestDestroyBelievesNothing(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use)
	ref := generate(t, h, "goes.v1", keys.ES256, 0)
	f.Set("C_DestroyObject nth 2 return CKR_OK")
	if err := h.Destroy(t.Context(), ref); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("one half is still there: %v", err)
	}
	f.Set("C_DestroyObject nth 1 after CKR_DEVICE_ERROR")
	if err := h.Destroy(t.Context(), ref); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("done, and told otherwise: %v", err)
	}
	f.Set()
	if err := h.Destroy(t.Context(), ref); err != nil {
		t.Errorf("again: %v", err)
	}
	if n := countByID(t, h, ref.ID); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}
