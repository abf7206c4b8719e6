package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/gateway/api"
)

// Every kind of fault at random under load, with rotations. No signature is
// wrong, no ciphertext is lost, and when it is over no request fails.
// KEYHOLE_FAULT_GUSTS makes it longer, KEYHOLE_FAULT_SEED repeats one.
func TestFaultStorm(t *testing.T) {
	t.Parallel()
	gusts := number(t, "KEYHOLE_FAULT_GUSTS", 25)
	seed := number(t, "KEYHOLE_FAULT_SEED", uint64(time.Now().UnixNano()))
	t.Logf("KEYHOLE_FAULT_SEED=%d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	b := newBrittle(t, "session_wait: 500ms", "stuck_after: 2s")
	signers := []string{"payments", "orders", "refunds"}
	for _, name := range signers {
		b.create(name, "ES256", 0)
		b.learn(name)
	}
	b.create("vault", "A256GCM", 0)
	b.f.Set("shuffle") // counts from the next C_Initialize

	var mu sync.Mutex
	told := map[string]int{}
	var sealed []string
	note := func(what string, a answer) {
		mu.Lock()
		defer mu.Unlock()
		if a.status == http.StatusOK {
			told[what+": done"]++
		} else {
			told[what+": "+strings.SplitN(a.trouble(), ",", 2)[0]]++
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	loop := func(f func(n int)) {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				f(n)
			}
		})
	}
	for i := range 4 {
		loop(func(n int) {
			a := b.sign(signers[(n+i)%len(signers)])
			note("sign", a)
			if a.status != http.StatusOK {
				<-time.After(5 * time.Millisecond) // far sooner than Retry-After says
			}
		})
	}
	loop(func(int) {
		a := b.post(agent, "/v1/keys/vault/encrypt", `{"plaintext":"aGVsbG8="}`)
		note("encrypt", a)
		if a.status != http.StatusOK {
			<-time.After(5 * time.Millisecond)
			return
		}
		var e api.EncryptResponse
		a.into(&e)
		mu.Lock()
		sealed = append(sealed, e.Ciphertext)
		mu.Unlock()
	})
	orders := stormOrders()
	for gust := range gusts {
		now := []string{"shuffle"}
		for range dice.IntN(4) {
			now = append(now, orders[dice.IntN(len(orders))](dice))
		}
		b.f.Set(now...)
		deadline := time.After(time.Duration(100+dice.IntN(900)) * time.Millisecond)
		if gust%5 == 4 {
			// In a calm, so that its public key is known before it signs.
			b.f.Set("shuffle")
			name := signers[dice.IntN(len(signers))]
			eventually(t, "a version to rotate to", func() bool {
				at := time.Now().Add(2 * time.Second)
				_, err := b.as(admin).Rotate(t.Context(), name, api.RotateRequest{ActivateAt: api.Time{Time: at}})
				return err == nil
			})
			b.learn(name)
			b.f.Set(now...)
		}
		<-deadline
		b.alive()
	}
	b.f.Set("shuffle")
	served, ready := b.recovered("payments")
	cancel()
	wg.Wait()
	for range 50 {
		for _, name := range signers {
			if a := b.sign(name); a.status != http.StatusOK {
				t.Errorf("after the storm: %s", a.trouble())
			}
		}
	}
	for i, c := range sealed {
		if i%max(1, len(sealed)/200) != 0 {
			continue
		}
		if a := b.unseal(c); a.status != http.StatusOK {
			t.Errorf("a ciphertext of the storm: %s", a.trouble())
		}
	}
	b.whole("the storm")
	counts := b.f.Counts()
	faults := uint64(0)
	for n := range maps.Values(counts.Faults) {
		faults += n
	}
	for _, what := range slices.Sorted(maps.Keys(told)) {
		t.Logf("%6d  %s", told[what], what)
	}
	t.Logf("%d gusts, %d calls into the HSM failed or stalled; %d logins, %d wrong PINs; signatures again after %s, ready after %s; %d ciphertexts, none lost",
		gusts, faults, counts.Calls["C_Login"], counts.WrongPINs, served, ready, len(sealed))
}

func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	must(t, err)
	return n
}

// stormOrders make orders by dice. None has a good ciphertext called bad: what
// a token says of a ciphertext is believed.
func stormOrders() []func(*rand.Rand) string {
	functions := []string{"C_Sign", "C_SignInit", "C_EncryptInit", "C_DecryptInit", "C_OpenSession", "C_GetSessionInfo", "C_FindObjectsInit",
		"C_FindObjects", "C_GetAttributeValue", "C_GenerateKey", "C_GenerateKeyPair", "C_DestroyObject", "C_CloseSession", "C_GetTokenInfo",
		"C_GetSlotList", "C_Finalize", "C_Initialize"}
	codes := []string{"CKR_DEVICE_ERROR", "CKR_DEVICE_MEMORY", "CKR_HOST_MEMORY", "CKR_GENERAL_ERROR", "CKR_FUNCTION_FAILED",
		"CKR_TOKEN_NOT_PRESENT", "CKR_SESSION_HANDLE_INVALID", "CKR_SESSION_CLOSED", "CKR_OPERATION_ACTIVE", "CKR_KEY_HANDLE_INVALID",
		"CKR_OBJECT_HANDLE_INVALID", "CKR_USER_NOT_LOGGED_IN", "CKR_CRYPTOKI_NOT_INITIALIZED", "CKR_SESSION_COUNT", "0x80000017"}
	pick := func(dice *rand.Rand, of []string) string { return of[dice.IntN(len(of))] }
	fail := func(dice *rand.Rand) string {
		return fmt.Sprintf("%s each %d %s %s", pick(dice, functions), 1+dice.IntN(9), pick(dice, []string{"return", "return", "after"}), pick(dice, codes))
	}
	return []func(*rand.Rand) string{
		fail, fail, fail,
		func(dice *rand.Rand) string { return fmt.Sprintf("* nth %d drop", 1+dice.IntN(50)) },
		func(dice *rand.Rand) string {
			return fmt.Sprintf("%s nth %d stall", pick(dice, functions), 1+dice.IntN(5))
		},
		func(dice *rand.Rand) string { return fmt.Sprintf("* each 3 delay %dms", 1+dice.IntN(20)) },
		func(dice *rand.Rand) string {
			return fmt.Sprintf("C_Sign each %d length %d", 1+dice.IntN(4), dice.IntN(64))
		},
		func(*rand.Rand) string { return "gone" },
		func(dice *rand.Rand) string { return fmt.Sprintf("sessions %d", 5+dice.IntN(4)) },
	}
}
