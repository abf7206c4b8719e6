package hsmtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/keys"
)

// testContextEnded shows that a call whose time is over does nothing.
func (s *suite) testContextEnded(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	expired, cancel2 := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel2()
	signing, aes := s.generate(t, keys.ES256, 0), s.generate(t, keys.A256GCM, 0)
	iv, wrapped := s.wrap(t, aes, random(keys.DataKeySize), nil)
	for name, c := range map[string]struct {
		ctx  context.Context
		want []error // any of them
	}{
		"cancelled": {cancelled, []error{context.Canceled, keys.ErrTimeout}},
		"expired":   {expired, []error{keys.ErrTimeout, context.DeadlineExceeded}},
	} {
		fresh := s.ref(t, keys.ES256, 0)
		_, gerr := s.b.Generate(c.ctx, fresh)
		_, serr := s.b.Sign(c.ctx, signing, input(keys.ES256, "hello"))
		_, _, werr := s.b.Wrap(c.ctx, aes, random(keys.DataKeySize), nil)
		_, uerr := s.b.Unwrap(c.ctx, aes, iv, wrapped, nil)
		_, rerr := s.b.Random(c.ctx, "", 16)
		_, lerr := s.b.List(c.ctx, signing.Token)
		_, ierr := s.b.Inspect(c.ctx, signing)
		_, kerr := s.b.StoreKey(c.ctx, false)
		merr := s.b.MarkRevoked(c.ctx, signing, keys.VersionID{Key: "ended", Number: 1}, time.Now())
		if s.opts.NoMarks {
			merr = lerr
		}
		for method, err := range map[string]error{"List": lerr, "Inspect": ierr, "StoreKey": kerr, "MarkRevoked": merr} {
			if !errors.Is(err, c.want[0]) && !errors.Is(err, c.want[1]) {
				t.Errorf("%s, %s: %v, want one of %v", method, name, err, c.want)
			}
		}
		for method, err := range map[string]error{"Generate": gerr, "Sign": serr, "Wrap": werr, "Unwrap": uerr, "Random": rerr, "Destroy": s.b.Destroy(c.ctx, signing)} {
			if !errors.Is(err, c.want[0]) && !errors.Is(err, c.want[1]) {
				t.Errorf("%s, %s: %v, want one of %v", method, name, err, c.want)
			}
			if errors.Is(err, keys.ErrDecrypt) {
				t.Errorf("%s, %s, blames the ciphertext: %v", method, name, err)
			}
		}
		s.works(t, signing)
		s.works(t, s.make(t, fresh)) // nothing was left behind
	}
}

// testFailuresLeaveItUsable shows that refused input costs nothing: neither
// sessions nor the token's good name.
func (s *suite) testFailuresLeaveItUsable(t *testing.T) {
	sign, mac, aes := s.generate(t, keys.ES256, 0), s.generate(t, keys.HS256, 0), s.generate(t, keys.A256GCM, 0)
	iv, wrapped := s.wrap(t, aes, random(keys.DataKeySize), nil)
	missing := s.ref(t, keys.ES256, 0)
	missing.PublicKey, missing.Check = sign.PublicKey, sign.Check
	for range 50 { // far more than any pool has sessions
		s.notUnwrapped(t, aes, "changed", iv, nil, flip(wrapped, 0))
		if _, err := s.b.Sign(t.Context(), sign, []byte("no digest")); err == nil {
			t.Error("signed what is no digest")
		}
		if s.verify(t, mac, []byte("hello"), make([]byte, 32)) {
			t.Error("zeros are a MAC")
		}
		if _, err := s.b.Sign(t.Context(), missing, input(keys.ES256, "hello")); err == nil {
			t.Error("signed by a key that does not exist")
		}
	}
	for _, ref := range []keys.Ref{sign, mac, aes} {
		s.works(t, ref)
	}
}

// testConcurrentUse has more callers than a pool has sessions.
func (s *suite) testConcurrentUse(t *testing.T) {
	refs := []keys.Ref{s.generate(t, keys.ES256, 0), s.generate(t, keys.ES256, 0), s.generate(t, keys.HS256, 0), s.generate(t, keys.A256GCM, 0), s.generate(t, keys.A256GCM, 0)}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			for j := range 10 {
				ref := refs[(i+j)%len(refs)]
				if err := use(t.Context(), s.b, ref); err != nil {
					t.Errorf("%s: %v", ref.Algorithm, err)
				}
				if _, err := s.b.Random(t.Context(), "", 16); err != nil {
					t.Errorf("Random: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// testConcurrentGenerateOfOne lets several callers make the same version:
// one of them does. RSA, because it takes its time.
func (s *suite) testConcurrentGenerateOfOne(t *testing.T) {
	ref := s.ref(t, keys.RSAOAEP, 2048)
	t.Cleanup(func() { s.destroy(t, ref) })
	made := make([]keys.Generated, 4)
	errs := make([]error, len(made))
	var wg sync.WaitGroup
	for i := range made {
		wg.Go(func() { made[i], errs[i] = s.b.Generate(t.Context(), ref) })
	}
	wg.Wait()
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
			s.works(t, complete(ref, made[i]))
		}
	}
	if won != 1 {
		t.Errorf("%d of %d made the same key: %v", won, len(made), errors.Join(errs...))
	}
}

// testGeneratingDisturbsNobody makes and destroys keys beside signatures.
func (s *suite) testGeneratingDisturbsNobody(t *testing.T) {
	ref := s.generate(t, keys.ES256, 0)
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := 0; n < 10 || !done.Load(); n++ {
				if err := use(t.Context(), s.b, ref); err != nil {
					t.Errorf("beside generation: %v", err)
					return
				}
			}
		})
	}
	var makers sync.WaitGroup
	for range 2 {
		makers.Go(func() {
			for range 8 {
				if err := s.comeAndGo(t); err != nil {
					t.Error(err)
				}
			}
		})
	}
	makers.Wait()
	done.Store(true)
	wg.Wait()
}

// comeAndGo makes a key, uses it and destroys it.
func (s *suite) comeAndGo(t *testing.T) error {
	ref := s.ref(t, keys.ES256, 0)
	made, err := s.b.Generate(t.Context(), ref)
	if err != nil {
		return fmt.Errorf("Generate: %w", err)
	}
	if err := use(t.Context(), s.b, complete(ref, made)); err != nil {
		return err
	}
	if err := s.b.Destroy(t.Context(), ref); err != nil {
		return fmt.Errorf("Destroy: %w", err)
	}
	return nil
}
