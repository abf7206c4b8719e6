package authz

import (
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"keyhole/authz/internal/lru"
	"keyhole/keys"
)

// LimiterConfig bounds what one caller can take. The zero value sets no
// limit on requests and the default ones on failures.
type LimiterConfig struct {
	// Rate is how many requests per second a principal may make, and Burst
	// how many at once after a pause (default: Rate, at least 1). 0: no limit.
	Rate  float64
	Burst int
	// InFlight is how many requests of a principal may be under way at one
	// time. 0: no limit.
	InFlight int
	// FailedLogins is how many failed authentications per second one source
	// may keep up (default 1), and FailedLoginBurst how many at once
	// (default 30). A source is an IPv4 address or an IPv6 /64. Negative: no
	// limit. Callers behind one proxy are one source; good credentials are
	// served whatever others there do.
	FailedLogins     float64
	FailedLoginBurst int
	// FailedOperations is how many ciphertexts per second that do not open
	// a principal may keep sending (default 1), and FailedOperationBurst how
	// many at once (default 100); beyond, ciphertexts are refused, and nothing
	// else. Negative: no limit.
	FailedOperations     float64
	FailedOperationBurst int
	// Entries is how many principals, how many sources of failed logins and
	// how many of anonymous requests are remembered (default 16384 each);
	// those seen least recently are forgotten first.
	Entries int
	Now     func() time.Time // default time.Now
}

// RateLimited is the error of a request that came too soon. It unwraps to a
// *keys.Error, which says so to the caller.
type RateLimited struct {
	RetryAfter time.Duration // when trying again may help: 1 ms to 1 h
	Err        error
	// Repeated says that Admit has refused the same caller within the second
	// before: another record of that would only help to fill the log. Else
	// Repetitions is how many were Repeated since the last one that was not.
	Repeated    bool
	Repetitions int64
}

func (r *RateLimited) Error() string { return r.Err.Error() }

// Unwrap returns the error for the caller.
func (r *RateLimited) Unwrap() error { return r.Err }

// Limiter bounds what one caller can take. Failures are counted in buckets
// of their own, which successes do not refill. A nil or zero Limiter sets no
// limits.
type Limiter struct {
	cfg        LimiterConfig
	principals *lru.Map[string, *account]
	anonymous  *lru.Map[netip.Prefix, *account] // apart: whoever has many addresses must not crowd out principals
	sources    *lru.Map[netip.Prefix, *rate.Limiter]
}

// account is what is known about one caller.
type account struct {
	requests *rate.Limiter
	failures *rate.Limiter
	inFlight atomic.Int64
	release  func()
	refusals repeats // by Admit
	overload repeats // of operations
}

// repeats tells what happens again within a second from what does not.
type repeats struct {
	last  atomic.Int64 // Unix ns of the last one that was not repeated
	since atomic.Int64 // those that were
}

func (r *repeats) again(now time.Time) (repeated bool, repetitions int64) {
	last := r.last.Load()
	if now.Sub(time.Unix(0, last)) < time.Second || !r.last.CompareAndSwap(last, now.UnixNano()) {
		r.since.Add(1)
		return true, 0
	}
	return false, r.since.Swap(0)
}

// NewLimiter returns a Limiter.
func NewLimiter(c LimiterConfig) *Limiter {
	if c.Burst <= 0 {
		c.Burst = max(1, int(math.Ceil(c.Rate)))
	}
	c.FailedLogins, c.FailedLoginBurst = failureDefaults(c.FailedLogins, c.FailedLoginBurst, 30)
	c.FailedOperations, c.FailedOperationBurst = failureDefaults(c.FailedOperations, c.FailedOperationBurst, 100)
	if c.Entries <= 0 {
		c.Entries = 16384
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Limiter{
		cfg:        c,
		principals: lru.New[string, *account](c.Entries),
		anonymous:  lru.New[netip.Prefix, *account](c.Entries),
		sources:    lru.New[netip.Prefix, *rate.Limiter](c.Entries),
	}
}

func failureDefaults(perSecond float64, burst, defaultBurst int) (float64, int) {
	if perSecond == 0 {
		perSecond = 1
	}
	if burst <= 0 {
		burst = defaultBurst
	}
	return perSecond, burst
}

// bucket returns a limiter, nil for no limit.
func bucket(perSecond float64, burst int) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), burst)
}

// LoginAllowed reports whether source may fail to authenticate once more and
// be told why. The error is a *RateLimited of kind keys.ErrRateLimited.
func (l *Limiter) LoginAllowed(source netip.Addr) error {
	if l == nil || l.sources == nil || l.cfg.FailedLogins < 0 {
		return nil
	}
	if b, ok := l.sources.Get(network(source)); ok {
		return drained(b, l.cfg.Now(), "too many failed logins from this address; wait before the next try")
	}
	return nil
}

// LoginFailed counts a failed authentication from source.
func (l *Limiter) LoginFailed(source netip.Addr) {
	if l == nil || l.sources == nil || l.cfg.FailedLogins < 0 {
		return
	}
	l.sources.GetOrMake(network(source), func() *rate.Limiter {
		return bucket(l.cfg.FailedLogins, l.cfg.FailedLoginBurst)
	}).AllowN(l.cfg.Now(), 1)
}

// Admit takes a place among the principal's requests in flight; release
// gives it back and must be called once. The error is a *RateLimited of kind
// keys.ErrRateLimited: after too many requests, or with too many in flight.
func (l *Limiter) Admit(principal string) (release func(), err error) {
	if l == nil || l.principals == nil {
		return func() {}, nil
	}
	return l.admit(l.principals.GetOrMake(principal, l.newAccount))
}

// AdmitAnonymous is Admit for a caller without a name, who is whoever comes
// from the same IPv4 address or IPv6 /64.
func (l *Limiter) AdmitAnonymous(source netip.Addr) (release func(), err error) {
	if l == nil || l.principals == nil {
		return func() {}, nil
	}
	return l.admit(l.anonymous.GetOrMake(network(source), l.newAccount))
}

func (l *Limiter) admit(a *account) (release func(), err error) {
	now := l.cfg.Now()
	if l.cfg.InFlight > 0 && a.inFlight.Add(1) > int64(l.cfg.InFlight) {
		a.inFlight.Add(-1)
		return nil, a.refuse(now, time.Second, keys.Errorf(keys.ErrRateLimited,
			"this caller has %d requests under way, which is the limit; wait for some to end", l.cfg.InFlight))
	}
	if a.requests != nil && !a.requests.AllowN(now, 1) {
		a.release()
		return nil, a.refuse(now, untilNext(a.requests, now), keys.Errorf(keys.ErrRateLimited,
			"this caller may make %g requests per second; slow down", l.cfg.Rate))
	}
	return a.release, nil
}

// refuse makes the error of a request that is not admitted.
func (a *account) refuse(now time.Time, retryAfter time.Duration, err error) error {
	r := &RateLimited{RetryAfter: retryAfter, Err: err}
	r.Repeated, r.Repetitions = a.refusals.again(now)
	return r
}

// Overloaded notes that an operation of the principal was refused because the
// gateway has too much to do. What it returns is RateLimited's Repeated and
// Repetitions.
func (l *Limiter) Overloaded(principal string) (repeated bool, repetitions int64) {
	if l == nil || l.principals == nil {
		return false, 0
	}
	a := l.principals.GetOrMake(principal, l.newAccount)
	return a.overload.again(l.cfg.Now())
}

// OperationAllowed reports whether the principal may send one more ciphertext
// that might not open. The error is a *RateLimited of kind
// keys.ErrRateLimited.
func (l *Limiter) OperationAllowed(principal string) error {
	if l == nil || l.principals == nil || l.cfg.FailedOperations < 0 {
		return nil
	}
	a := l.principals.GetOrMake(principal, l.newAccount)
	return drained(a.failures, l.cfg.Now(), "too many ciphertexts of this caller did not open; wait before the next one")
}

// OperationFailed counts a ciphertext that did not open.
func (l *Limiter) OperationFailed(principal string) {
	if l == nil || l.principals == nil {
		return
	}
	if a := l.principals.GetOrMake(principal, l.newAccount); a.failures != nil {
		a.failures.AllowN(l.cfg.Now(), 1)
	}
}

func (l *Limiter) newAccount() *account {
	a := &account{
		requests: bucket(l.cfg.Rate, l.cfg.Burst),
		failures: bucket(l.cfg.FailedOperations, l.cfg.FailedOperationBurst),
		release:  func() {},
	}
	if l.cfg.InFlight > 0 {
		a.release = func() { a.inFlight.Add(-1) }
	}
	return a
}

// drained reports that b, from which only failures take, is empty.
func drained(b *rate.Limiter, now time.Time, detail string) error {
	if b.TokensAt(now) >= 1 {
		return nil
	}
	return &RateLimited{RetryAfter: untilNext(b, now), Err: keys.Errorf(keys.ErrRateLimited, "%s", detail)}
}

// untilNext returns how long b needs to hold a whole token.
func untilNext(b *rate.Limiter, now time.Time) time.Duration {
	seconds := (1 - b.TokensAt(now)) / float64(b.Limit())
	const rounding = 1e-6 // of the milliseconds, below
	return time.Duration(math.Ceil(min(max(seconds, 0.001), 3600)*1000-rounding)) * time.Millisecond
}

// network is what one attacker can be assumed to hold: an IPv4 address, or
// an IPv6 /64. Sources without an address are one.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
