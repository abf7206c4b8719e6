package hsm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

// stormKeys are several of each kind: that one of them is used in place of
// another is what must never happen.
func stormKeys(t *testing.T, h *HSM) []*stormKey {
	t.Helper()
	var all []*stormKey
	for i := range 4 {
		for _, alg := range []keys.Algorithm{keys.ES256, keys.EdDSA, keys.HS256, keys.A256GCM} {
			k := &stormKey{ref: generate(t, h, fmt.Sprintf("storm-%s-%d.v1", alg, i), alg, 0), in: input(alg)}
			var err error
			switch alg {
			case keys.HS256:
				k.mac, err = h.Sign(t.Context(), k.ref, k.in)
			case keys.A256GCM:
				k.data = keys.NewDataKey()
				k.iv, k.wrapped, err = h.Wrap(t.Context(), k.ref, k.data, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, k)
		}
	}
	return all
}

type stormKey struct {
	ref         keys.Ref
	in, mac     []byte // mac: what is right
	data        []byte // of a wrapping key
	iv, wrapped []byte // data
	mu          sync.Mutex
	made        []made // in the storm, to be opened after it
}

type made struct{ iv, wrapped []byte }

// checkMade opens what was wrapped in the storm, all of it.
func (k *stormKey) checkMade(t *testing.T, h *HSM) {
	t.Helper()
	for _, m := range k.made {
		if got, err := h.Unwrap(t.Context(), k.ref, m.iv, m.wrapped, nil); err != nil || !slices.Equal(got, k.data) {
			t.Fatalf("%s: what it wrapped in the storm opens as %x: %v", k.ref.Label, got, err)
		}
	}
}

// errWrong says that a call had a result, and that it was another key's.
var errWrong = errors.New("another key answered")

// use does one operation and judges its result by what was known before.
func (k *stormKey) use(ctx context.Context, h *HSM) error {
	switch k.ref.Algorithm {
	case keys.HS256:
		mac, err := h.Sign(ctx, k.ref, k.in)
		if err == nil && !slices.Equal(mac, k.mac) {
			err = errWrong
		}
		return err
	case keys.A256GCM:
		got, err := h.Unwrap(ctx, k.ref, k.iv, k.wrapped, nil)
		if err == nil && !slices.Equal(got, k.data) {
			err = errWrong
		}
		if err != nil {
			return err
		}
		iv, wrapped, err := h.Wrap(ctx, k.ref, k.data, nil)
		if err == nil {
			k.mu.Lock()
			k.made = append(k.made, made{iv, wrapped})
			k.mu.Unlock()
		}
		return err
	}
	sig, err := h.Sign(ctx, k.ref, k.in)
	if err != nil {
		return err
	}
	if ok, err := h.Verify(ctx, k.ref, k.in, sig); err != nil || !ok { // by the public key, in software
		return fmt.Errorf("%w: %w", errWrong, err)
	}
	return nil
}

// TestResetUnderLoad drops all sessions and the login again and again while 16
// callers use 16 keys. Each new login gives the numbers of keys to other keys,
// and the numbers of sessions come back at once. No call may fail, and none
// may be answered by another key.
func TestResetUnderLoad(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	f.Set("shuffle")
	h := start(t, tok, f.use)
	all := stormKeys(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make([]atomic.Int64, len(all)) // by caller
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				k := all[n%len(all)]
				if err := k.use(t.Context(), h); err != nil {
					t.Errorf("%s: %v", k.ref.Label, err)
					cancel()
				}
				done[i].Add(1)
			}
		})
	}
	resets := 0
	for ; resets < 40 && ctx.Err() == nil; resets++ {
		f.Set("shuffle")
		f.Set("shuffle", "* nth 1 drop")
		// Nobody is still busy with this reset when the next one comes.
		before := make([]int64, len(all))
		for i := range done {
			before[i] = done[i].Load()
		}
		for i := range done {
			eventually(t, "calls after the reset", func() bool { return done[i].Load() >= before[i]+2 || ctx.Err() != nil })
		}
	}
	cancel()
	wg.Wait()
	for _, k := range all {
		k.checkMade(t, h)
	}
	calls := int64(0)
	for i := range done {
		calls += done[i].Load()
	}
	t.Logf("%d resets, %d calls, %d logins", resets, calls, f.calls(fnLogin))
}

// TestFaultStorm has every kind of fault at once, at random, while keys are
// used, made and destroyed. What is answered is right; when it is over the
// token is ready by itself, and nothing fails any more.
func TestFaultStorm(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	f.Set("shuffle")
	h := start(t, tok, f.use, func(c *Config) {
		c.Tokens[0].StuckAfter, c.Tokens[0].CanaryInterval = time.Second, 50*time.Millisecond
	})
	runHSM(t, h)
	all := stormKeys(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var right, failed, lost atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				k := all[n%len(all)]
				each, done := context.WithTimeout(t.Context(), 5*time.Second)
				err := k.use(each, h)
				done()
				switch {
				case err == nil:
					right.Add(1)
				case errors.Is(err, errWrong), errors.Is(err, keys.ErrDecrypt):
					// ErrDecrypt would tell a caller that a good ciphertext is bad.
					t.Errorf("%s: %v", k.ref.Label, err)
				case expected(err):
					failed.Add(1)
					<-time.After(time.Millisecond) // as a client does that comes again
				default:
					t.Errorf("%s: no caller's fault: %v", k.ref.Label, err)
				}
			}
		})
	}
	wg.Go(func() { // the management plane
		for n := 1; ctx.Err() == nil; n++ {
			each, done := context.WithTimeout(t.Context(), 5*time.Second)
			ref := keys.Ref{Token: "t", ID: keys.NewObjectID(), Label: fmt.Sprintf("comes-and-goes.v%d", n), Algorithm: keys.ES256, Bits: 256}
			// SoftHSM was once seen to answer CKR_TEMPLATE_INCONSISTENT in a storm. And
			// what one try has left, where the token did not let it go, another one finds.
			if _, err := h.Generate(each, ref); err != nil && !expected(err) && !errors.Is(err, keys.ErrUnsupported) && !errors.Is(err, keys.ErrKeyExists) {
				t.Errorf("Generate: %v", err)
			}
			if err := h.Destroy(each, ref); err != nil {
				lost.Add(1) // what recovery is for: CKA_IDs are stored before keys are made
				if !expected(err) {
					t.Errorf("Destroy: %v", err)
				}
				<-time.After(time.Millisecond)
			}
			done()
		}
	})
	orders := stormOrders()
	for range 60 {
		now := []string{"shuffle"}
		for range dice.IntN(4) {
			now = append(now, orders[dice.IntN(len(orders))](dice))
		}
		f.Set(now...)
		before, gust := right.Load(), time.Now().Add(200*time.Millisecond)
		eventually(t, "calls in the storm", func() bool { return right.Load() > before+100 || time.Now().After(gust) })
	}
	f.Set("shuffle")
	calm := time.Now()
	eventually(t, "ready after the storm", func() bool { return h.Health()[0].Ready })
	recovered := time.Since(calm)
	cancel()
	wg.Wait()
	for _, k := range all {
		if err := k.use(t.Context(), h); err != nil {
			t.Errorf("%s after the storm: %v", k.ref.Label, err)
		}
		k.checkMade(t, h)
	}
	generate(t, h, "after-the-storm.v1", keys.ES256, 0)
	counts := f.Counts()
	faults := uint64(0)
	for _, n := range slices.Sorted(maps.Values(counts.Faults)) {
		faults += n
	}
	t.Logf("%d faults in %d functions, %d calls right, %d failed, none wrong; %d destructions left to recovery; ready %s after the storm; %d logins, none refused",
		faults, len(slices.DeleteFunc(slices.Collect(maps.Values(counts.Faults)), func(n uint64) bool { return n == 0 })),
		right.Load(), failed.Load(), lost.Load(), recovered.Round(time.Millisecond), counts.Calls["C_Login"])
	if counts.WrongPINs != 0 {
		t.Errorf("%d wrong PINs", counts.WrongPINs)
	}
}

func expected(err error) bool {
	return errors.Is(err, keys.ErrHSM) || errors.Is(err, keys.ErrOverloaded) || errors.Is(err, keys.ErrTimeout)
}

// stormOrders make orders by dice. None makes a token say that a ciphertext
// is bad: it would be believed.
func stormOrders() []func(*rand.Rand) string {
	functions := []fn{fnSign, "C_SignInit", "C_EncryptInit", "C_DecryptInit", fnOpenSession, fnSessionInfo, fnFindInit, "C_FindObjects",
		"C_GetAttributeValue", "C_GenerateKey", fnGenPair, fnDestroy, "C_CloseSession", fnTokenInfo, "C_GetSlotList", fnFinalize, fnInitialize}
	codes := []string{"CKR_DEVICE_ERROR", "CKR_DEVICE_MEMORY", "CKR_HOST_MEMORY", "CKR_GENERAL_ERROR", "CKR_FUNCTION_FAILED", "CKR_TOKEN_NOT_PRESENT",
		"CKR_SESSION_HANDLE_INVALID", "CKR_SESSION_CLOSED", "CKR_OPERATION_ACTIVE", "CKR_KEY_HANDLE_INVALID", "CKR_OBJECT_HANDLE_INVALID",
		"CKR_USER_NOT_LOGGED_IN", "CKR_CRYPTOKI_NOT_INITIALIZED", "CKR_SESSION_COUNT", "0x80000017"}
	pick := func(dice *rand.Rand) fn { return functions[dice.IntN(len(functions))] }
	fail := func(dice *rand.Rand) string {
		how := []string{"return", "return", "after"}[dice.IntN(3)]
		return fmt.Sprintf("%s each %d %s %s", pick(dice), 1+dice.IntN(9), how, codes[dice.IntN(len(codes))])
	}
	return []func(*rand.Rand) string{
		fail, fail, fail,
		func(dice *rand.Rand) string { return fmt.Sprintf("* nth %d drop", 1+dice.IntN(20)) },
		func(dice *rand.Rand) string { return fmt.Sprintf("%s nth %d stall", pick(dice), 1+dice.IntN(5)) },
		func(dice *rand.Rand) string { return fmt.Sprintf("%s each 3 delay %dms", pick(dice), 1+dice.IntN(20)) },
		func(dice *rand.Rand) string {
			return fmt.Sprintf("C_Sign each %d length %d", 1+dice.IntN(4), dice.IntN(64))
		},
		func(*rand.Rand) string { return "gone" },
		func(dice *rand.Rand) string { return fmt.Sprintf("sessions %d", 6+dice.IntN(4)) },
	}
}
