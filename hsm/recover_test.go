package hsm

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/mech"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/public"
	"keyhole/hsm/internal/template"
	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

// TestSessionsClosedBehindItsBack takes every session, the login with them,
// while 8 callers sign. No call may fail.
func TestSessionsClosedBehindItsBack(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	ref := generate(t, h, "closed.v1", keys.ES256, 0)
	mac := generate(t, h, "closed-mac.v1", keys.HS256, 0)
	tok := h.tokens["t"].tok
	p, _ := raw(t, h)
	closeAll := func() {
		// Between two calls: SoftHSM 2.6.1 crashes when a session in use is
		// closed.
		if err := tok.Alone(t.Context(), func() error { return p.CloseAllSessions(tok.Slot().ID) }); err != nil {
			t.Fatal(err)
		}
	}
	in := input(keys.ES256)
	var done atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := ref
				if i%2 == 0 {
					r = mac
				}
				sig, err := h.Sign(t.Context(), r, in)
				if err != nil {
					t.Errorf("%s: %v", r.Algorithm, err)
					return
				}
				if ok, err := h.Verify(t.Context(), r, in, sig); !ok || err != nil {
					t.Errorf("%s: its signature is %v, %v", r.Algorithm, ok, err)
				}
				done.Add(1)
			}
		})
	}
	for range 10 {
		before := done.Load()
		closeAll()
		eventually(t, "signatures after the loss", func() bool { return done.Load() > before+20 || t.Failed() })
	}
	close(stop)
	wg.Wait()
	// The management plane stands on crypto11's sessions, which are gone too.
	closeAll()
	fresh := generate(t, h, "closed.v2", keys.ES256, 0)
	if err := h.Destroy(t.Context(), fresh); err != nil {
		t.Error(err)
	}
}

func TestLoggedOutBehindItsBack(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	ref := generate(t, h, "logout.v1", keys.A256GCM, 0)
	p, s := raw(t, h)
	for range 3 {
		if err := p.Logout(s); err != nil {
			t.Fatal(err)
		}
		iv, wrapped, err := h.Wrap(t.Context(), ref, keys.NewDataKey(), nil)
		if err != nil {
			t.Fatalf("after a logout: %v", err)
		}
		if _, err := h.Unwrap(t.Context(), ref, iv, wrapped, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestObjectDestroyedBehindItsBack(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	ref, other := generate(t, h, "gone.v1", keys.ES256, 0), generate(t, h, "other.v1", keys.ES256, 0)
	p, s := raw(t, h)
	for _, o := range search(t, p, s, pkcs11.NewAttribute(pkcs11.CKA_ID, ref.ID[:])) {
		if err := p.DestroyObject(s, o); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 * breakerFailures {
		if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); !errors.Is(err, keys.ErrHSM) {
			t.Errorf("a key that is gone: %v", err)
		}
	}
	if _, err := h.Sign(t.Context(), other, input(keys.ES256)); err != nil {
		t.Errorf("another key: %v", err)
	}
	if err := h.Destroy(t.Context(), ref); err != nil {
		t.Errorf("destroying what is gone: %v", err)
	}
}

// TestForeignObjects fills the token with what others left there.
func TestForeignObjects(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	p, s := raw(t, h)
	attr := pkcs11.NewAttribute
	objects := map[string][]*pkcs11.Attribute{
		"data":         {attr(pkcs11.CKA_CLASS, pkcs11.CKO_DATA), attr(pkcs11.CKA_VALUE, "x")},
		"DES key":      {attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_DES3), attr(pkcs11.CKA_VALUE, make([]byte, 24))},
		"no label, id": {attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), attr(pkcs11.CKA_VALUE, "secret")},
	}
	for name, o := range objects {
		if _, err := p.CreateObject(s, append(o, attr(pkcs11.CKA_TOKEN, true))); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for range 2 {
		_, _, err := p.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(template.CKMECEdwardsKeyPairGen, nil)},
			[]*pkcs11.Attribute{attr(pkcs11.CKA_TOKEN, true), attr(pkcs11.CKA_EC_PARAMS, template.EdwardsCurves[0]), attr(pkcs11.CKA_LABEL, "foreign")},
			[]*pkcs11.Attribute{attr(pkcs11.CKA_TOKEN, true), attr(pkcs11.CKA_LABEL, "foreign"), attr(pkcs11.CKA_EXTRACTABLE, true)})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, alg := range []keys.Algorithm{keys.ES256, keys.EdDSA, keys.HS256, keys.A256GCM} {
		ref := generate(t, h, string("with-foreign-"+alg+".v1"), alg, 0)
		if err := p.Logout(s); err != nil { // find it among the others
			t.Fatal(err)
		}
		if err := useOnce(t, h, ref); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if err := h.Destroy(t.Context(), ref); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	if n := len(search(t, p, s, attr(pkcs11.CKA_TOKEN, true))); n != len(objects)+4 {
		t.Errorf("%d foreign objects are left of %d", n, len(objects)+4)
	}
	_, err := h.Generate(t.Context(), keys.Ref{Token: "t", ID: keys.NewObjectID(), Label: "foreign", Algorithm: keys.ES256})
	if !errors.Is(err, keys.ErrKeyExists) {
		t.Errorf("a label that is taken: %v, want ErrKeyExists", err)
	}
}

func useOnce(t *testing.T, h *HSM, ref keys.Ref) error {
	t.Helper()
	if ref.Algorithm.Purpose() == keys.PurposeSign {
		_, err := h.Sign(t.Context(), ref, input(ref.Algorithm))
		return err
	}
	_, _, err := h.Wrap(t.Context(), ref, keys.NewDataKey(), nil)
	return err
}

// TestImpostors puts a second object, or another one, under a key's CKA_ID.
func TestImpostors(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	p, s := raw(t, h)
	for _, alg := range []keys.Algorithm{keys.ES256, keys.EdDSA, keys.HS256, keys.A256GCM} {
		ref := generate(t, h, string("real-"+alg+".v1"), alg, 0)
		bits, _ := alg.KeyBits(0)
		tmpl := template.New(template.Spec{Alg: alg, Bits: bits, ID: ref.ID[:], Label: ref.Label, Token: true, Curve: template.EdwardsCurves[0]})
		var err error
		m := []*pkcs11.Mechanism{pkcs11.NewMechanism(tmpl.Mechanism, nil)}
		if tmpl.Public != nil {
			_, _, err = p.GenerateKeyPair(s, m, tmpl.Public, tmpl.Private)
		} else {
			_, err = p.GenerateKey(s, m, tmpl.Private)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Logout(s); err != nil { // handles must be found again
			t.Fatal(err)
		}
		if err := useOnce(t, h, ref); !errors.Is(err, keys.ErrHSM) {
			t.Errorf("%s: two objects with one CKA_ID: %v", alg, err)
		}
		// Now only the impostor, which has the right id and label.
		key := mech.Key{Alg: alg, Bits: bits}
		class := uint(pkcs11.CKO_SECRET_KEY)
		if alg.Family().Asymmetric() {
			class = pkcs11.CKO_PRIVATE_KEY
			if key.Public, err = public.Parse(alg, ref.PublicKey); err != nil {
				t.Fatal(err)
			}
		}
		ms := &module.Session{}
		for _, k := range search(t, p, s, pkcs11.NewAttribute(pkcs11.CKA_ID, ref.ID[:]), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)) {
			key.Handle = k
			_, err := h.tokens["t"].tok.Exec(ms, func(s *module.Session) ([]byte, error) { return nil, key.Prove(s, ref.Check) })
			if err == nil {
				if err := p.DestroyObject(s, k); err != nil {
					t.Fatal(err)
				}
			}
		}
		ms.Close()
		if n := len(search(t, p, s, pkcs11.NewAttribute(pkcs11.CKA_ID, ref.ID[:]), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class))); n != 1 {
			t.Fatalf("%s: %d impostors", alg, n)
		}
		if err := useOnce(t, h, ref); !errors.Is(err, fault.ErrIdentity) {
			t.Errorf("%s: an impostor: %v", alg, err)
		}
		if err := h.Destroy(t.Context(), ref); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	if h.Health()[0].Ready != true {
		t.Error("impostors made the token not ready")
	}
}

// TestLoadWhileKeysComeAndGo signs and unwraps with 16 callers while keys are
// generated and destroyed. No call may fail.
func TestLoadWhileKeysComeAndGo(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	runHSM(t, h)
	sign, wrap := generate(t, h, "load.v1", keys.ES256, 0), generate(t, h, "load-wrap.v1", keys.A256GCM, 0)
	iv, wrapped, err := h.Wrap(t.Context(), wrap, keys.NewDataKey(), []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var done atomic.Int64
	for i := range 16 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var err error
				if i%2 == 0 {
					_, err = h.Sign(t.Context(), sign, input(keys.ES256))
				} else {
					_, err = h.Unwrap(t.Context(), wrap, iv, wrapped, []byte("aad"))
				}
				if err != nil {
					t.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	for i := range 15 {
		alg := []keys.Algorithm{keys.ES256, keys.HS256, keys.EdDSA, keys.A256GCM}[i%4]
		ref := generate(t, h, fmt.Sprintf("come-and-go.v%d", i+1), alg, 0)
		if err := useOnce(t, h, ref); err != nil {
			t.Error(err)
		}
		if err := h.Destroy(t.Context(), ref); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	if done.Load() < 15 {
		t.Errorf("%d operations", done.Load())
	}
}

// TestReopenFindsEverythingAgain finalises the module under running calls.
func TestReopenFindsEverythingAgain(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok) // a module of its own: the others keep theirs
	h := start(t, tok, f.use)
	ref := generate(t, h, "reopen.v1", keys.ES256, 0)
	tk := h.tokens["t"]
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 3 {
		if err := tk.reopen(t.Context(), false); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	if got := f.calls(fnFinalize); got != 3 {
		t.Errorf("C_Finalize was called %d times, want 3", got)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("after Close: %v", err)
	}
	again := start(t, tok, f.use)
	if _, err := again.Sign(t.Context(), ref, input(keys.ES256)); err != nil {
		t.Errorf("opened again: %v", err)
	}
}

func TestCanaryKeepsIdleSessionsAndTellsTheTruth(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use, func(c *Config) { c.Tokens[0].CanaryInterval = time.Millisecond })
	if _, err := h.Random(t.Context(), "", 8); err != nil { // one idle session
		t.Fatal(err)
	}
	signs := f.calls(fnSign)
	runHSM(t, h)
	// Each round signs twice with the canary and twice on the idle session.
	eventually(t, "the canary sings", func() bool { return f.calls(fnSign) > signs+20 })
	f.fail(fnSign, pkcs11.CKR_DEVICE_ERROR, always)
	eventually(t, "not ready", func() bool { return !h.Health()[0].Ready })
	f.fail(fnSign, 0, 0)
	eventually(t, "ready again", func() bool { return h.Health()[0].Ready })
}

func TestHungCanary(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use, func(c *Config) {
		c.Tokens[0].CanaryInterval, c.Tokens[0].StuckAfter = time.Millisecond, 20*time.Millisecond
	})
	f.stall(fnSign)
	t.Cleanup(func() { f.release(fnSign) })
	runHSM(t, h)
	eventually(t, "the canary hangs", func() bool { return h.Health()[0].Hung })
	f.release(fnSign)
	eventually(t, "ready again", func() bool { return h.Health()[0].Ready })
}
