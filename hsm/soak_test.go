package hsm

import (
	"bytes"
	"errors"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"

	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

// failures is how many ciphertexts that do not open are sent to the token: a
// few, or as many as `make soak` says.
func failures(t *testing.T) int {
	t.Helper()
	s := os.Getenv("KEYHOLE_SOAK_UNWRAPS")
	if s == "" {
		return 4000
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1000 {
		t.Fatalf("KEYHOLE_SOAK_UNWRAPS is %q", s)
	}
	return n
}

// resident returns the memory of this process, in bytes, after collecting.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if kb, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			n, err := strconv.Atoi(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(kb), []byte("kB")))))
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// Ciphertexts that do not open leave nothing behind: callers can send as many
// as they like.
func TestFailedUnwrapsLeaveNothing(t *testing.T) {
	h := start(t, softhsmtest.Start(t))
	n := failures(t)
	for _, tt := range []struct {
		alg  keys.Algorithm
		bits int
		n    int
	}{{keys.A256GCM, 0, n}, {keys.RSAOAEP, 2048, n / 20}} { // RSA takes the token that much longer
		t.Run(string(tt.alg), func(t *testing.T) {
			ref := generate(t, h, "soak-"+keys.NewObjectID().String(), tt.alg, tt.bits)
			iv, wrapped, err := h.Wrap(t.Context(), ref, keys.NewDataKey(), nil)
			if err != nil {
				t.Fatal(err)
			}
			bad := bytes.Clone(wrapped)
			bad[len(bad)-1] ^= 1
			fail := func(n int) {
				var wg sync.WaitGroup
				for range 4 {
					wg.Go(func() {
						for range n / 4 {
							if _, err := h.Unwrap(t.Context(), ref, iv, bad, nil); !errors.Is(err, keys.ErrDecrypt) {
								t.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			}
			fail(tt.n / 10)
			before := resident(t)
			for part := range 5 {
				fail(tt.n / 5)
				t.Logf("%s: %d failed, %+.1f KiB", tt.alg, (part+1)*tt.n/5, float64(resident(t)-before)/1024)
			}
			// What the process grows by for other reasons does not grow with n.
			if grown, most := resident(t)-before, 16<<20+4*tt.n; grown > most {
				t.Errorf("%d failed calls left %d KiB, at most %d are allowed", tt.n, grown>>10, most>>10)
			}
			if _, err := h.Unwrap(t.Context(), ref, iv, wrapped, nil); err != nil {
				t.Error(err)
			}
		})
	}
}
