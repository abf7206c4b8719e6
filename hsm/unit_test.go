package hsm

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"go.uber.org/goleak"

	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

func TestSessionsWithin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want  int
		limit uint
		got   int
	}{{8, 0, 8}, {8, pkcs11.CK_UNAVAILABLE_INFORMATION, 8}, {8, 16, 8}, {8, 10, 6}, {8, 3, 1}, {64, 1 << 20, 64}} {
		if got := sessionsWithin(c.want, c.limit); got != c.got {
			t.Errorf("%d of %d: %d, want %d", c.want, c.limit, got, c.got)
		}
	}
}

// TestObserve collects what an operator's metrics see.
func TestObserve(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]int{}
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok) // a module of its own, which this test initialises
	h := start(t, tok, f.use, func(c *Config) {
		c.Observe = func(function, token, result string, d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			if token != "t" || d < 0 {
				t.Errorf("%s: token %q, %v", function, token, d)
			}
			seen[function+" "+result]++
		}
	})
	ref := generate(t, h, "observe.v1", keys.A256GCM, 0)
	iv, wrapped, err := h.Wrap(t.Context(), ref, keys.NewDataKey(), nil)
	if err != nil {
		t.Fatal(err)
	}
	wrapped[0] ^= 1
	if _, err := h.Unwrap(t.Context(), ref, iv, wrapped, nil); !errors.Is(err, keys.ErrDecrypt) {
		t.Fatal(err)
	}
	if _, err := h.Random(t.Context(), "", 8); err != nil {
		t.Fatal(err)
	}
	if err := h.Destroy(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{"Initialize ok", "Login ok", "OpenSession ok", "Generate ok", "Find ok", "Sign ok", "Encrypt ok", "Decrypt ok", "Decrypt CKR_GENERAL_ERROR", "Random ok", "Destroy ok"} {
		if seen[want] == 0 {
			t.Errorf("no %q in %v", want, seen)
		}
	}
}

// TestCloseLeavesNothing must not run beside others: it counts goroutines.
func TestCloseLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	tok := softhsmtest.Start(t)
	h, err := Open(t.Context(), Config{Tokens: []TokenConfig{tokenConfig(tok)}})
	if err != nil {
		t.Fatal(err)
	}
	ref := generate(t, h, "leak.v1", keys.ES256, 0)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := h.Sign(t.Context(), ref, input(keys.ES256)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for range 2 {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.Generate(t.Context(), keys.Ref{Token: "t", ID: keys.NewObjectID(), Label: "x.v1", Algorithm: keys.HS256}); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("after Close: %v", err)
	}
}
