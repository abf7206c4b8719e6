package faultmodule

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/softhsm"
	"keyhole/softhsm/softhsmtest"
)

func TestMain(m *testing.M) { os.Exit(softhsmtest.Main(m, 16)) }

// device is a module, opened, with one token.
type device struct {
	*T
	tok  *softhsm.Token
	p    *pkcs11.Ctx
	slot uint
}

func open(t *testing.T, orders ...string) *device {
	t.Helper()
	tok := softhsmtest.Start(t)
	d := &device{T: New(t, tok.Module), tok: tok}
	d.Set(orders...)
	if d.p = pkcs11.New(d.Path); d.p == nil {
		t.Fatal("the module does not load")
	}
	must(t, d.p.Initialize())
	t.Cleanup(func() { _ = d.p.Finalize() })
	d.slot = d.slotOf(t, tok)
	return d
}

func (d *device) slotOf(t *testing.T, tok *softhsm.Token) uint {
	t.Helper()
	slots, err := d.p.GetSlotList(true)
	must(t, err)
	for _, slot := range slots {
		info, err := d.p.GetTokenInfo(slot)
		must(t, err)
		if info.SerialNumber == tok.Serial {
			return slot
		}
	}
	t.Fatalf("token %s is not there", tok.Serial)
	return 0
}

func (d *device) session(t *testing.T) pkcs11.SessionHandle {
	t.Helper()
	s, err := d.p.OpenSession(d.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	return s
}

func (d *device) login(t *testing.T) pkcs11.SessionHandle {
	t.Helper()
	s := d.session(t)
	must(t, d.p.Login(s, pkcs11.CKU_USER, d.tok.PIN))
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, what string, err error, code uint) {
	t.Helper()
	if code == pkcs11.CKR_OK && err == nil {
		return
	}
	if !errors.Is(err, pkcs11.Error(code)) {
		t.Errorf("%s: %v, want %v", what, err, pkcs11.Error(code))
	}
}

// secret makes an HMAC key, whose signatures tell keys apart.
func (d *device) secret(t *testing.T, s pkcs11.SessionHandle, label string, id byte) pkcs11.ObjectHandle {
	t.Helper()
	o, err := d.p.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, []byte{id}),
	})
	must(t, err)
	return o
}

func (d *device) mac(s pkcs11.SessionHandle, o pkcs11.ObjectHandle) (string, error) {
	if err := d.p.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA256_HMAC, nil)}, o); err != nil {
		return "", err
	}
	mac, err := d.p.Sign(s, []byte("message"))
	return fmt.Sprintf("%x", mac), err
}

func (d *device) find(t *testing.T, s pkcs11.SessionHandle, label string) []pkcs11.ObjectHandle {
	t.Helper()
	must(t, d.p.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}))
	found, _, err := d.p.FindObjects(s, 10)
	must(t, errors.Join(err, d.p.FindObjectsFinal(s)))
	return found
}

func (d *device) random(s pkcs11.SessionHandle) error {
	_, err := d.p.GenerateRandom(s, 4)
	return err
}

func TestConditions(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.session(t)
	for order, failing := range map[string][]int{
		"C_GenerateRandom return CKR_DEVICE_ERROR":                      {1, 2, 3, 4, 5, 6, 7, 8},
		"C_GenerateRandom nth 3 return CKR_DEVICE_ERROR":                {3},
		"C_GenerateRandom from 2 to 4 return 0x30 # a number":           {2, 3, 4},
		"C_GenerateRandom each 3 return 48":                             {3, 6},
		"* from 7 return CKR_DEVICE_ERROR":                              {7, 8},
		"C_Sign return CKR_DEVICE_ERROR":                                nil,
		"* token nobody return CKR_DEVICE_ERROR":                        nil,
		"\t* token " + d.tok.Label + " nth 1 return CKR_DEVICE_ERROR  ": {1},
	} {
		d.Set(order)
		var got []int
		for n := 1; n <= 8; n++ {
			if err := d.random(s); err != nil {
				want(t, order, err, pkcs11.CKR_DEVICE_ERROR)
				got = append(got, n)
			}
		}
		if !slices.Equal(got, failing) {
			t.Errorf("%q: calls %v failed, want %v", order, got, failing)
		}
	}
}

// An order that stays keeps its count; one that comes back begins anew.
func TestOrdersKeepTheirCounts(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.session(t)
	third := "C_GenerateRandom nth 3 return CKR_DEVICE_ERROR"
	d.Set(third)
	want(t, "the first call", d.random(s), pkcs11.CKR_OK)
	d.Add("C_Sign return CKR_DEVICE_ERROR")
	want(t, "the second", d.random(s), pkcs11.CKR_OK)
	d.Remove("C_Sign return CKR_DEVICE_ERROR")
	want(t, "the third", d.random(s), pkcs11.CKR_DEVICE_ERROR)
	d.Set()
	d.Set(third)
	want(t, "the first again", d.random(s), pkcs11.CKR_OK)
	if calls, faults := d.Calls("C_GenerateRandom"), d.Faults("C_GenerateRandom"); calls != 4 || faults != 1 {
		t.Errorf("%d calls and %d faults, want 4 and 1", calls, faults)
	}
}

func TestOrdersThatAreNotUnderstood(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.session(t)
	for _, order := range []string{
		"C_Nothing return CKR_DEVICE_ERROR", "C_Sign", "C_Sign return", "C_Sign return CKR_NOTHING", "C_Sign return CKR_OK twice",
		"C_Sign nth 0 return CKR_OK", "C_Sign nth x return CKR_OK", "C_Sign delay 5", "C_Sign delay", "C_Sign explode", "sessions",
		"sessions many", "shuffle well", "forget", "return CKR_OK", "C_Sign length -1", "gone a b", "C_Sign drop all",
	} {
		d.Set(order)
		want(t, order, d.random(s), 0x200) // CKR_FUNCTION_REJECTED
	}
	d.Set("# nothing", "")
	want(t, "a comment", d.random(s), pkcs11.CKR_OK)
}

// Somebody else writes the file, and says nothing.
func TestOrdersByHand(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.session(t)
	want(t, "before", d.random(s), pkcs11.CKR_OK)
	must(t, os.WriteFile(d.Path+".orders", []byte("C_GenerateRandom return CKR_DEVICE_MEMORY"), 0o600))
	deadline := time.Now().Add(time.Minute)
	for d.random(s) == nil {
		if time.Now().After(deadline) {
			t.Fatal("the orders were not read")
		}
	}
	want(t, "after", d.random(s), pkcs11.CKR_DEVICE_MEMORY)
}

func TestAfter(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.login(t)
	o := d.secret(t, s, "after", 1)
	d.Set("C_DestroyObject return CKR_OK")
	want(t, "a lie", d.p.DestroyObject(s, o), pkcs11.CKR_OK)
	if n := len(d.find(t, s, "after")); n != 1 {
		t.Errorf("%d objects after a destruction that was not done", n)
	}
	d.Set("C_DestroyObject after CKR_DEVICE_ERROR")
	want(t, "done", d.p.DestroyObject(s, o), pkcs11.CKR_DEVICE_ERROR)
	if n := len(d.find(t, s, "after")); n != 0 {
		t.Errorf("%d objects after a destruction that was done", n)
	}
}

// A call that stalls waits until it is let go, and blocks no other.
func TestStall(t *testing.T) {
	t.Parallel()
	d := open(t, "C_GenerateRandom nth 1 stall")
	s, other := d.session(t), d.session(t)
	var wg sync.WaitGroup
	wg.Go(func() { want(t, "stalled", d.random(s), pkcs11.CKR_OK) })
	for deadline := time.Now().Add(time.Minute); d.Inside("C_GenerateRandom") == 0; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the call never came")
		}
	}
	want(t, "another", d.random(other), pkcs11.CKR_OK)
	must(t, d.p.CloseSession(other))
	if d.Inside("C_GenerateRandom") != 1 {
		t.Error("the call did not stall")
	}
	d.Set()
	wg.Wait()
	d.Set("C_GenerateRandom stall 1us")
	want(t, "for a time", d.random(s), pkcs11.CKR_OK)
}

// 16 sessions with 50 ms for each call are as fast as one.
func TestDelaysRunInParallel(t *testing.T) {
	t.Parallel()
	d := open(t)
	var all []pkcs11.SessionHandle
	for range 16 {
		all = append(all, d.session(t))
	}
	d.Set("* delay 50ms")
	start := time.Now()
	var wg sync.WaitGroup
	for _, s := range all {
		wg.Go(func() { want(t, "delayed", d.random(s), pkcs11.CKR_OK) })
	}
	wg.Wait()
	t.Logf("16 calls of 50 ms took %s", time.Since(start))
	if n := d.Faults("C_GenerateRandom"); n != 0 {
		t.Errorf("delays count as %d faults", n)
	}
}

func TestDrop(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.login(t)
	other := d.session(t)
	d.Set("* nth 1 drop")
	want(t, "dropped", d.random(s), pkcs11.CKR_SESSION_HANDLE_INVALID)
	want(t, "dropped too", d.random(other), pkcs11.CKR_SESSION_HANDLE_INVALID)
	again := d.session(t)
	if again != 1 {
		t.Errorf("the first session is number %d, want the lowest free one", again)
	}
	info, err := d.p.GetSessionInfo(again)
	must(t, err)
	if info.State != pkcs11.CKS_RW_PUBLIC_SESSION {
		t.Errorf("state %d: the login has outlived its sessions", info.State)
	}
	if n := d.Counts().Sessions; n != 1 {
		t.Errorf("%d sessions are open, want 1", n)
	}
}

func TestSessionLimit(t *testing.T) {
	t.Parallel()
	d := open(t, "sessions 2")
	first, _ := d.session(t), d.session(t)
	_, err := d.p.OpenSession(d.slot, pkcs11.CKF_SERIAL_SESSION)
	want(t, "the third", err, pkcs11.CKR_SESSION_COUNT)
	must(t, d.p.CloseSession(first))
	d.session(t)
	if c := d.Counts(); c.MostSessions != 2 {
		t.Errorf("%d sessions at one time, want 2", c.MostSessions)
	}
}

func TestPINLocks(t *testing.T) {
	t.Parallel()
	d := open(t, "pin-tries 3")
	s := d.session(t)
	flags := func() uint {
		info, err := d.p.GetTokenInfo(d.slot)
		must(t, err)
		return info.Flags & (pkcs11.CKF_USER_PIN_COUNT_LOW | pkcs11.CKF_USER_PIN_FINAL_TRY | pkcs11.CKF_USER_PIN_LOCKED)
	}
	for i, f := range []uint{0, pkcs11.CKF_USER_PIN_COUNT_LOW, pkcs11.CKF_USER_PIN_COUNT_LOW | pkcs11.CKF_USER_PIN_FINAL_TRY} {
		if got := flags(); got != f {
			t.Errorf("flags %#x after %d wrong PINs, want %#x", got, i, f)
		}
		want(t, "a wrong PIN", d.p.Login(s, pkcs11.CKU_USER, "nonsense"), pkcs11.CKR_PIN_INCORRECT)
	}
	want(t, "the right one, too late", d.p.Login(s, pkcs11.CKU_USER, d.tok.PIN), pkcs11.CKR_PIN_LOCKED)
	if got := flags(); got&pkcs11.CKF_USER_PIN_LOCKED == 0 {
		t.Errorf("flags %#x of a locked PIN", got)
	}
	if n := d.Counts().WrongPINs; n != 3 {
		t.Errorf("%d wrong PINs, want 3", n)
	}
}

// After a new login every old number is that of another key.
func TestShuffle(t *testing.T) {
	t.Parallel()
	d := open(t, "shuffle")
	s := d.login(t)
	macs := map[string]string{}
	numbers := map[string]pkcs11.ObjectHandle{}
	labels := []string{"a", "b", "c"}
	for i, label := range labels {
		numbers[label] = d.secret(t, s, label, byte(i))
	}
	for round := range 4 {
		for _, label := range labels {
			found := d.find(t, s, label)
			if len(found) != 1 {
				t.Fatalf("round %d: %d objects %s", round, len(found), label)
			}
			mac, err := d.mac(s, found[0])
			must(t, err)
			if round == 0 {
				macs[label] = mac
			} else if mac != macs[label] {
				t.Errorf("round %d: %s is another key", round, label)
			}
			if old, err := d.mac(s, numbers[label]); round > 0 && (err != nil || old == macs[label]) {
				t.Errorf("round %d: the old number of %s is not another key: %v", round, label, err)
			}
		}
		for _, label := range labels {
			numbers[label] = d.find(t, s, label)[0]
		}
		if round%2 == 0 {
			must(t, d.p.CloseAllSessions(d.slot))
		} else {
			must(t, d.p.Finalize())
			must(t, d.p.Initialize())
		}
		s = d.login(t)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.login(t)
	lost, kept := d.secret(t, s, "lost", 1), d.secret(t, s, "kept", 2)
	d.Set("forget lost")
	if n := len(d.find(t, s, "lost")); n != 0 {
		t.Errorf("%d objects were not forgotten", n)
	}
	must(t, d.p.FindObjectsInit(s, nil))
	found, _, err := d.p.FindObjects(s, 100)
	must(t, errors.Join(err, d.p.FindObjectsFinal(s)))
	if len(found) != 1 || found[0] != kept {
		t.Errorf("found %v, want %v", found, kept)
	}
	_, err = d.mac(s, lost)
	want(t, "its handle", err, pkcs11.CKR_KEY_HANDLE_INVALID)
	_, err = d.p.GetAttributeValue(s, lost, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
	want(t, "its label", err, pkcs11.CKR_OBJECT_HANDLE_INVALID)
	_, err = d.mac(s, kept)
	must(t, err)
	d.Set()
	_, err = d.mac(s, lost)
	must(t, err)
}

func TestGone(t *testing.T) {
	t.Parallel()
	d := open(t)
	other := softhsmtest.Start(t)
	otherSlot := d.slotOf(t, other)
	s := d.session(t)
	o, err := d.p.OpenSession(otherSlot, pkcs11.CKF_SERIAL_SESSION)
	must(t, err)
	d.Set("gone " + d.tok.Label)
	want(t, "its session", d.random(s), pkcs11.CKR_DEVICE_REMOVED)
	want(t, "the other's", d.random(o), pkcs11.CKR_OK)
	_, err = d.p.OpenSession(d.slot, pkcs11.CKF_SERIAL_SESSION)
	want(t, "a new session", err, pkcs11.CKR_TOKEN_NOT_PRESENT)
	slots, err := d.p.GetSlotList(true)
	must(t, err)
	if slices.Contains(slots, d.slot) || !slices.Contains(slots, otherSlot) {
		t.Errorf("slots %v; %d is gone, %d is not", slots, d.slot, otherSlot)
	}
	d.Set()
	want(t, "an old session", d.random(s), pkcs11.CKR_SESSION_HANDLE_INVALID)
	want(t, "a new session", d.random(d.session(t)), pkcs11.CKR_OK)
}

func TestLies(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.login(t)
	o := d.secret(t, s, "lies", 1)
	d.Set("C_Sign length 7")
	mac, err := d.mac(s, o)
	must(t, err)
	if len(mac) != 2*7 {
		t.Errorf("%d bytes, want 7", len(mac)/2)
	}
	d.Set("C_GetTokenInfo flags 0x20000")
	info, err := d.p.GetTokenInfo(d.slot)
	must(t, err)
	if info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY == 0 {
		t.Errorf("flags %#x", info.Flags)
	}
}

// Threads of one process, with orders that change under them.
func TestThreads(t *testing.T) {
	t.Parallel()
	d := open(t, "shuffle")
	s := d.login(t)
	o := d.secret(t, s, "threads", 1)
	right, err := d.mac(s, o)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var ok, failed [8]int
	for i := range ok {
		mine := d.session(t)
		wg.Go(func() {
			for ctx.Err() == nil {
				mac, err := d.mac(mine, o)
				switch {
				case errors.Is(err, pkcs11.Error(pkcs11.CKR_DEVICE_MEMORY)), errors.Is(err, pkcs11.Error(pkcs11.CKR_OPERATION_ACTIVE)):
					failed[i]++ // C_SignInit has begun what C_Sign did not end
					_ = d.p.CloseSession(mine)
					if mine, err = d.p.OpenSession(d.slot, pkcs11.CKF_SERIAL_SESSION); err != nil {
						t.Error(err)
						return
					}
				case err != nil || mac != right:
					t.Errorf("%v, and a MAC %q", err, mac)
					return
				default:
					ok[i]++
				}
			}
		})
	}
	for i := range 200 {
		d.Set(fmt.Sprintf("C_Sign each %d return CKR_DEVICE_MEMORY", i%7+2), "C_SignInit each 5 delay 10us")
	}
	d.Set()
	cancel()
	wg.Wait()
	if n := d.Counts().Inside["C_Sign"]; n != 0 {
		t.Errorf("%d calls are still inside", n)
	}
	t.Logf("%v calls worked, %v failed as ordered", ok, failed)
}

func TestBuildErrors(t *testing.T) {
	t.Parallel()
	if _, err := Build(t.TempDir()+"/x.so", "/nowhere.so"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no real module: %v", err)
	}
}

// The name of what is missing is in the error: whoever runs the tests reads it.
func TestNoCompiler(t *testing.T) {
	t.Parallel()
	_, err := compile("gcc-that-is-not-there")
	if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "apt-get install gcc") {
		t.Errorf("without gcc: %v", err)
	}
}

// BenchmarkSign shows what the module costs a signature: the least that one
// costs on a token.
func BenchmarkSign(b *testing.B) {
	tok := softhsmtest.Start(b)
	f := New(b, tok.Module)
	for name, path := range map[string]string{"real": f.Path + ".real", "fault": f.Path} {
		b.Run(name, func(b *testing.B) {
			p := pkcs11.New(path)
			if err := p.Initialize(); err != nil {
				b.Fatal(err)
			}
			defer p.Finalize()
			slots, err := p.GetSlotList(true)
			if err != nil {
				b.Fatal(err)
			}
			s, err := p.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := p.GenerateRandom(s, 16); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
