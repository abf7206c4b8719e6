package hsm

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

// eventually polls until ok, for as long as a slow machine may need.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// runHSM runs h.Run until the test's end.
func runHSM(t *testing.T, h *HSM) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func TestHungCall(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use, func(c *Config) {
		c.Tokens[0].Sessions, c.Tokens[0].MaxStuck, c.Tokens[0].StuckAfter = 3, 2, time.Millisecond
		c.Tokens[0].SessionWait = 250 * time.Millisecond
	})
	ref := generate(t, h, "hung.v1", keys.ES256, 0)
	in := input(keys.ES256)
	want := 2
	f.stall(fnSign)
	t.Cleanup(func() { f.release(fnSign) })
	for i := range want {
		before := f.calls(fnSign)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := h.Sign(ctx, ref, in); !errors.Is(err, context.Canceled) {
				t.Errorf("a caller that left: %v", err)
			}
		})
		eventually(t, "the call is in C", func() bool { return f.calls(fnSign) > before })
		cancel()
		wg.Wait() // it left, although C_Sign has not returned
		eventually(t, "the call counts as stuck", func() bool { return h.Health()[0].Stuck == i+1 })
	}
	if got := h.Health()[0]; got.Ready || !got.Hung || got.SessionsInUse != want || got.SessionsMax != 3 {
		t.Errorf("two calls hang: %+v", got)
	}
	// The third session still serves, and who finds none free is told so.
	if _, err := h.Random(t.Context(), "", 8); err != nil {
		t.Errorf("the session that is left: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := h.Sign(ctx, ref, in); !errors.Is(err, keys.ErrTimeout) {
		t.Errorf("at the deadline: %v, want ErrTimeout", err)
	}
	if _, err := h.Random(t.Context(), "", 8); !errors.Is(err, keys.ErrOverloaded) {
		t.Errorf("no session is free: %v, want ErrOverloaded", err)
	}
	f.release(fnSign)
	eventually(t, "the calls return", func() bool { return h.Health()[0].SessionsInUse == 0 })
	if _, err := h.Sign(t.Context(), ref, in); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if got := h.Health()[0]; !got.Ready {
		t.Errorf("afterwards: %+v", got)
	}
}

func TestDeviceErrorsOpenTheBreakerAndRunReopens(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use, func(c *Config) { c.Tokens[0].CanaryInterval = time.Hour })
	ref := generate(t, h, "broken.v1", keys.ES256, 0)
	in := input(keys.ES256)

	f.fail(fnSign, pkcs11.CKR_DEVICE_ERROR, always)
	for range breakerFailures {
		if _, err := h.Sign(t.Context(), ref, in); !errors.Is(err, keys.ErrHSM) {
			t.Fatalf("device error: %v", err)
		}
	}
	before := f.calls(fnSign)
	if _, err := h.Sign(t.Context(), ref, in); !errors.Is(err, keys.ErrHSM) {
		t.Fatalf("with the breaker open: %v", err)
	}
	if f.calls(fnSign) != before {
		t.Error("the breaker let a call through")
	}
	if h.Health()[0].Ready {
		t.Error("ready with an open breaker")
	}

	// Run is woken by the breaker, not by its hourly canary. As long as the
	// module cannot be opened the token is down.
	f.fail(fnInitialize, pkcs11.CKR_DEVICE_ERROR, always)
	initialized := f.calls(fnInitialize)
	runHSM(t, h)
	eventually(t, "the module was initialised again", func() bool { return f.calls(fnInitialize) > initialized })
	f.fail(fnSign, 0, 0)
	f.fail(fnInitialize, 0, 0)
	eventually(t, "the token is back", func() bool { return h.Health()[0].Ready })
	sig, err := h.Sign(t.Context(), ref, in)
	if err != nil {
		t.Fatalf("ready, but: %v", err)
	}
	if ok, err := h.Verify(t.Context(), ref, in, sig); !ok || err != nil {
		t.Errorf("a signature after the reopening: %v, %v", ok, err)
	}
	if f.calls(fnFinalize) == 0 {
		t.Error("the module was not finalised")
	}
	generate(t, h, "broken.v2", keys.HS256, 0) // the management plane is back too
}

func TestGeneralErrorOnDecryptIsTheCallers(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use)
	ref := generate(t, h, "wrap.v1", keys.A256GCM, 0)
	iv, wrapped, err := h.Wrap(t.Context(), ref, keys.NewDataKey(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []uint{pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE} {
		f.fail(fnDecrypt, code, always)
		for range 2 * breakerFailures {
			if _, err := h.Unwrap(t.Context(), ref, iv, wrapped, nil); !errors.Is(err, keys.ErrDecrypt) || err.Error() != keys.DecryptFailed().Error() {
				t.Fatalf("%s: %v", fault.CodeName(code), err)
			}
		}
	}
	f.fail(fnDecrypt, 0, 0)
	if _, err := h.Unwrap(t.Context(), ref, iv, wrapped, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if !h.Health()[0].Ready {
		t.Error("bad ciphertexts made the token not ready")
	}
	f.fail(fnDecrypt, pkcs11.CKR_DEVICE_ERROR, 1)
	if _, err := h.Unwrap(t.Context(), ref, iv, wrapped, nil); !errors.Is(err, keys.ErrHSM) || errors.Is(err, keys.ErrDecrypt) {
		t.Errorf("a device error blames the ciphertext: %v", err)
	}
}

// TestOneRepair counts what each class of error costs.
func TestOneRepair(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use, func(c *Config) { c.Tokens[0].Sessions = 1 })
	ref := generate(t, h, "repair.v1", keys.ES256, 0)
	in := input(keys.ES256)
	if _, err := h.Sign(t.Context(), ref, in); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code     uint
		sessions int // opened anew for one failure
		calls    int // of C_Sign, when it fails always
	}{
		{pkcs11.CKR_SESSION_HANDLE_INVALID, 1, 2},
		{pkcs11.CKR_OPERATION_ACTIVE, 1, 2},
		{pkcs11.CKR_GENERAL_ERROR, 1, 2},
		{pkcs11.CKR_KEY_HANDLE_INVALID, 1, 2},
		{pkcs11.CKR_USER_NOT_LOGGED_IN, 1, 2},
	} {
		opened := f.calls(fnOpenSession)
		f.fail(fnSign, c.code, 1)
		if _, err := h.Sign(t.Context(), ref, in); err != nil {
			t.Errorf("%s once: %v", fault.CodeName(c.code), err)
		}
		if got := f.calls(fnOpenSession) - opened; got != c.sessions {
			t.Errorf("%s once: %d sessions opened, want %d", fault.CodeName(c.code), got, c.sessions)
		}
	}
	// Data errors are nobody's to repair, and the session is dropped.
	signs, opened := f.calls(fnSign), f.calls(fnOpenSession)
	f.fail(fnSign, pkcs11.CKR_DATA_LEN_RANGE, 1)
	if _, err := h.Sign(t.Context(), ref, in); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("CKR_DATA_LEN_RANGE: %v", err)
	}
	if f.calls(fnSign) != signs+1 {
		t.Error("CKR_DATA_LEN_RANGE was tried again")
	}
	if _, err := h.Sign(t.Context(), ref, in); err != nil || f.calls(fnOpenSession) != opened+1 {
		t.Errorf("a session that saw an error was used again: %v", err)
	}
}

// TestOpenWhileAnotherProcessMakesKeys: SoftHSM then answers so.
func TestOpenWhileAnotherProcessMakesKeys(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	f.fail(fnInitialize, pkcs11.CKR_GENERAL_ERROR, 2)
	start(t, tok, f.use)
	// Those that fail as ordered, crypto11's that works, miekg/pkcs11's; and
	// others that fail because other tests make keys.
	if got := f.calls(fnInitialize); got < 4 {
		t.Errorf("%d attempts to initialise, want 4 at least", got)
	}
}

func TestNoMoreSessions(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use, func(c *Config) { c.Tokens[0].SessionWait = 50 * time.Millisecond })
	f.fail(fnOpenSession, pkcs11.CKR_SESSION_COUNT, 2)
	if _, err := h.Random(t.Context(), "", 8); err != nil {
		t.Errorf("no session for a moment: %v", err)
	}
	f.fail(fnOpenSession, pkcs11.CKR_SESSION_COUNT, always)
	f.Add("* nth 1 drop")
	if _, err := h.Random(t.Context(), "", 8); !errors.Is(err, keys.ErrOverloaded) {
		t.Errorf("no session at all: %v, want ErrOverloaded", err)
	}
	f.Set()
	if _, err := h.Random(t.Context(), "", 8); err != nil {
		t.Error(err)
	}
}

// TestCloseWaitsForTheCanary ends Run while a trial is in C: Run leaves it
// there, and Close must not take it for one that hangs.
func TestCloseWaitsForTheCanary(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use, func(c *Config) { c.Tokens[0].CanaryInterval = time.Millisecond })
	f.stall(fnSign)
	t.Cleanup(func() { f.release(fnSign) })
	signs := f.calls(fnSign)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	eventually(t, "the canary is in C", func() bool { return f.calls(fnSign) > signs })
	cancel()
	wg.Wait()
	wg.Go(func() {
		if err := h.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	eventually(t, "Close has begun", func() bool { return h.tokens["t"].tok.Down() != nil })
	f.release(fnSign)
	wg.Wait()
}

// TestGenerateCleansUp fails each step of a generation once.
func TestGenerateCleansUp(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use)
	for _, c := range []struct {
		g    fn
		code uint
	}{
		{fnGenPair, pkcs11.CKR_DEVICE_MEMORY},
		{fnSign, pkcs11.CKR_FUNCTION_FAILED},
		{fnFindInit, pkcs11.CKR_DEVICE_ERROR},
	} {
		ref := keys.Ref{Token: "t", ID: keys.NewObjectID(), Label: "clean.v1", Algorithm: keys.ES256, Bits: 256}
		f.fail(c.g, c.code, 1)
		if _, err := h.Generate(t.Context(), ref); !errors.Is(err, keys.ErrHSM) {
			t.Errorf("%s fails: %v", c.g, err)
		}
		if n := countByID(t, h, ref.ID); n != 0 {
			t.Errorf("%s failed and left %d objects", c.g, n)
		}
	}
	f.fail(fnGenPair, pkcs11.CKR_GENERAL_ERROR, 2)
	ref := generate(t, h, "clean.v1", keys.ES256, 0) // SoftHSM's way of saying "busy"
	f.fail(fnDestroy, pkcs11.CKR_GENERAL_ERROR, 2)
	if err := h.Destroy(t.Context(), ref); err != nil {
		t.Error(err)
	}
	if n := countByID(t, h, ref.ID); n != 0 {
		t.Errorf("%d objects left", n)
	}
}

// TestGenerateAbandoned leaves while the token generates.
func TestGenerateAbandoned(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use)
	ref := keys.Ref{Token: "t", ID: keys.NewObjectID(), Label: "left.v1", Algorithm: keys.ES256, Bits: 256}
	f.stall(fnGenPair)
	t.Cleanup(func() { f.release(fnGenPair) })
	before := f.calls(fnGenPair)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := h.Generate(ctx, ref); !errors.Is(err, context.Canceled) {
			t.Errorf("left: %v", err)
		}
	})
	eventually(t, "it generates", func() bool { return f.calls(fnGenPair) > before })
	// Another one waits for its turn, no longer than it may.
	short, cancelShort := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancelShort()
	if err := h.Destroy(short, ref); !errors.Is(err, keys.ErrOverloaded) {
		t.Errorf("while another operation runs: %v, want ErrOverloaded", err)
	}
	cancel()
	wg.Wait()
	f.release(fnGenPair)
	generate(t, h, "next.v1", keys.HS256, 0) // waits for the abandoned one
	if n := countByID(t, h, ref.ID); n != 0 {
		t.Errorf("%d objects of an abandoned generation are left", n)
	}
}
