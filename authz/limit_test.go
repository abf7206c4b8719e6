package authz_test

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"keyhole/authz"
	"keyhole/keys"
)

// limited checks that err tells a caller to wait.
func limited(t *testing.T, err error, kind error, wait time.Duration) {
	t.Helper()
	r, ok := errors.AsType[*authz.RateLimited](err)
	if !ok || !errors.Is(err, kind) || r.RetryAfter != wait {
		t.Errorf("got %v (%+v), want %v and a retry after %s", err, r, kind, wait)
	}
	if forCaller, ok := errors.AsType[*keys.Error](err); !ok || forCaller.Detail == "" || err.Error() != forCaller.Detail {
		t.Errorf("the caller is told %v", forCaller)
	}
}

func admit(t *testing.T, l *authz.Limiter, who string) func() {
	t.Helper()
	release, err := l.Admit(who)
	if err != nil {
		t.Errorf("%s is not admitted: %v", who, err)
		return func() {}
	}
	return release
}

func TestRate(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := authz.NewLimiter(authz.LimiterConfig{Rate: 2, Burst: 3, Now: c.now})
	for range 3 {
		admit(t, l, "a")()
	}
	_, err := l.Admit("a")
	limited(t, err, keys.ErrRateLimited, 500*time.Millisecond)
	admit(t, l, "b")()
	c.advance(499 * time.Millisecond)
	_, err = l.Admit("a")
	limited(t, err, keys.ErrRateLimited, time.Millisecond)
	c.advance(time.Millisecond)
	admit(t, l, "a")()
	_, err = l.Admit("a")
	limited(t, err, keys.ErrRateLimited, 500*time.Millisecond)
	c.advance(time.Hour)
	for range 3 {
		admit(t, l, "a")()
	}
	_, err = l.Admit("a")
	limited(t, err, keys.ErrRateLimited, 500*time.Millisecond)
}

func TestInFlight(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := authz.NewLimiter(authz.LimiterConfig{InFlight: 2, Rate: 100, Burst: 5, Now: c.now})
	first := admit(t, l, "a")
	second := admit(t, l, "a")
	_, err := l.Admit("a")
	limited(t, err, keys.ErrRateLimited, time.Second)
	other := admit(t, l, "b")
	first()
	third := admit(t, l, "a")
	_, err = l.Admit("a")
	limited(t, err, keys.ErrRateLimited, time.Second)
	second()
	third()
	other()
	// A request that comes too fast leaves its place.
	for range 2 {
		admit(t, l, "a")()
	}
	for range 5 {
		_, err = l.Admit("a")
		limited(t, err, keys.ErrRateLimited, 10*time.Millisecond)
	}
	c.advance(time.Second)
	admit(t, l, "a")
	admit(t, l, "a")
	_, err = l.Admit("a")
	limited(t, err, keys.ErrRateLimited, time.Second)
}

func TestInFlightAtOnce(t *testing.T) {
	t.Parallel()
	l := authz.NewLimiter(authz.LimiterConfig{InFlight: 5})
	var mu sync.Mutex
	now, most := 0, 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				release, err := l.Admit("a")
				if err != nil {
					continue
				}
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				mu.Lock()
				now--
				mu.Unlock()
				release()
			}
		})
	}
	wg.Wait()
	if most > 5 {
		t.Errorf("%d in flight, 5 are allowed", most)
	}
	for range 5 {
		admit(t, l, "a") // every place was given back
	}
}

func TestFailedOperations(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := authz.NewLimiter(authz.LimiterConfig{FailedOperations: 0.5, FailedOperationBurst: 3, Now: c.now})
	allowed := func(who string) {
		t.Helper()
		if err := l.OperationAllowed(who); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
	for range 2 {
		l.OperationFailed("a")
	}
	for range 100 { // successes neither cost nor pardon
		allowed("a")
	}
	l.OperationFailed("a")
	limited(t, l.OperationAllowed("a"), keys.ErrRateLimited, 2*time.Second)
	admit(t, l, "a")()     // for anything else
	l.OperationFailed("a") // of a request that was under way: no debt grows
	c.advance(2 * time.Second)
	allowed("a")
	l.OperationFailed("a")
	limited(t, l.OperationAllowed("a"), keys.ErrRateLimited, 2*time.Second)
	allowed("b")
}

func TestFailedLogins(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := authz.NewLimiter(authz.LimiterConfig{FailedLoginBurst: 2, Now: c.now})
	addr := netip.MustParseAddr
	allowed := func(a string) {
		t.Helper()
		if err := l.LoginAllowed(addr(a)); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	refused := func(a string) {
		t.Helper()
		limited(t, l.LoginAllowed(addr(a)), keys.ErrRateLimited, time.Second)
	}
	allowed("192.0.2.1")
	l.LoginFailed(addr("192.0.2.1"))
	allowed("192.0.2.1")
	l.LoginFailed(addr("::ffff:192.0.2.1")) // the same address
	refused("192.0.2.1")
	refused("::ffff:192.0.2.1")
	allowed("192.0.2.2")
	c.advance(time.Second)
	allowed("192.0.2.1")

	// An IPv6 attacker holds a /64 at least.
	l.LoginFailed(addr("2001:db8:0:1::1"))
	l.LoginFailed(addr("2001:db8:0:1:ffff::2"))
	refused("2001:db8:0:1::3")
	allowed("2001:db8:0:2::3")
	l.LoginFailed(addr("fe80::1%eth0"))
	l.LoginFailed(addr("fe80::1%eth1"))
	refused("fe80::2%eth2")
	// Sources without an address are one.
	l.LoginFailed(netip.Addr{})
	l.LoginFailed(netip.Addr{})
	limited(t, l.LoginAllowed(netip.Addr{}), keys.ErrRateLimited, time.Second)
}

func TestNoLimits(t *testing.T) {
	t.Parallel()
	source := netip.MustParseAddr("192.0.2.1")
	for name, l := range map[string]*authz.Limiter{
		"nil": nil, "zero": {},
		"off": authz.NewLimiter(authz.LimiterConfig{FailedLogins: -1, FailedOperations: -1}),
	} {
		for range 1000 {
			admit(t, l, "a") // never released
			l.OperationFailed("a")
			if err := l.OperationAllowed("a"); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			l.LoginFailed(source)
			if err := l.LoginAllowed(source); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

func TestDefaultLimits(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := authz.NewLimiter(authz.LimiterConfig{Now: c.now})
	source := netip.MustParseAddr("192.0.2.1")
	for i := range 31 {
		if err := l.LoginAllowed(source); (err == nil) != (i < 30) {
			t.Errorf("after %d failed logins: %v", i, err)
		}
		l.LoginFailed(source)
	}
	for i := range 101 {
		if err := l.OperationAllowed("a"); (err == nil) != (i < 100) {
			t.Errorf("after %d failed operations: %v", i, err)
		}
		l.OperationFailed("a")
	}
	// A very slow rate does not overflow.
	l = authz.NewLimiter(authz.LimiterConfig{Rate: 1e-12, Now: c.now})
	admit(t, l, "a")()
	_, err := l.Admit("a")
	limited(t, err, keys.ErrRateLimited, time.Hour)
}

// TestForgetful: attackers with many addresses cannot fill the memory, and
// the one seen most is not forgotten first.
func TestForgetful(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := authz.NewLimiter(authz.LimiterConfig{FailedLoginBurst: 1, Entries: 64, Now: c.now})
	worst := netip.MustParseAddr("203.0.113.7")
	l.LoginFailed(worst)
	for i := range 5000 {
		l.LoginFailed(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
		if l.LoginAllowed(worst) == nil {
			t.Fatalf("forgotten after %d others, though seen each time", i)
		}
	}
	if n := l.Sources(); n > 64 {
		t.Errorf("%d sources are remembered, want 64 at most", n)
	}
}

func BenchmarkAdmit(b *testing.B) {
	l := authz.NewLimiter(authz.LimiterConfig{Rate: 1e9, InFlight: 1000})
	names := make([]string, 64)
	for i := range names {
		names[i] = fmt.Sprint("jwt:corp:agent-", i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		release, err := l.Admit(names[i%64])
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}
