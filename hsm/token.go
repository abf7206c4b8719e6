package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
	"github.com/sony/gobreaker/v2"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/workers"
	"keyhole/keys"
)

// token is one open token.
type token struct {
	TokenConfig
	log      *slog.Logger
	now      func() time.Time
	observed func(function, token, result string, d time.Duration)

	mod  *module
	slot atomic.Pointer[slotInfo] // set before anything else happens

	gen     atomic.Uint64         // see the package comment
	down    atomic.Pointer[error] // why the token cannot be used at all, or nil
	loginMu sync.Mutex            // one login at a time

	contexts contexts
	pool     *workers.Pool[session]
	breaker  atomic.Pointer[gobreaker.CircuitBreaker[[]byte]]
	sick     chan struct{} // capacity 1: the breaker opened, Run should look

	objects sync.Map                 // keys.ObjectID to *object
	limits  map[keys.Algorithm]error // by the probe: why the token cannot; nil: it can
	edCurve []byte                   // by the probe: how the token spells Ed25519
	canary  canary
	manage  managing
}

// contexts are the crypto11 contexts of a token: the present one, and those
// of earlier logins, which wait to be closed by somebody who may block.
type contexts struct {
	mu      sync.Mutex
	current *crypto11.Context
	old     []*crypto11.Context
}

// Limits of the circuit breaker.
const (
	breakerFailures = 3               // device errors in a row that open it
	breakerPause    = 2 * time.Second // until it lets one call try again
)

func newToken(c Config, tc TokenConfig, m *module) *token {
	t := &token{TokenConfig: tc, log: c.Log.With("token", tc.Name), now: c.Now, observed: c.Observe, mod: m, sick: make(chan struct{}, 1)}
	t.resetBreaker()
	return t
}

// resetBreaker closes the breaker.
func (t *token) resetBreaker() {
	t.breaker.Store(gobreaker.NewCircuitBreaker[[]byte](gobreaker.Settings{
		Name: t.Name, Timeout: breakerPause,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerFailures },
		IsSuccessful: func(err error) bool { return !failure(err) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				select {
				case t.sick <- struct{}{}:
				default:
				}
			}
		},
	}))
}

// failure reports whether err speaks against the token: a device error, or
// one that the repair within the call did not mend.
func failure(err error) bool {
	switch fault.Of(err) {
	case fault.Device, fault.Session, fault.Login:
		return true
	}
	return false
}

// setDown makes every call fail with err; nil ends that.
func (t *token) setDown(err error) {
	if err == nil {
		t.down.Store(nil)
		return
	}
	t.down.Store(&err)
}

// do runs op on a pooled session, within the caller's time.
func (t *token) do(ctx context.Context, op func(*session) ([]byte, error)) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, fault.Ended(ctx)
	}
	out, err := t.pool.Do(ctx, func(s *session) ([]byte, error) {
		out, err := t.breaker.Load().Execute(func() ([]byte, error) { return t.exec(s, op) })
		if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
			err = fmt.Errorf("token %q: not tried after device errors: %w", t.Name, keys.ErrHSM)
		}
		return out, err
	})
	switch {
	case errors.Is(err, workers.ErrBusy):
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, fault.Ended(ctx)
		}
		return nil, keys.Errorf(keys.ErrOverloaded, "the HSM is busy; try again later")
	case errors.Is(err, workers.ErrLeft):
		return nil, fault.Ended(ctx)
	case errors.Is(err, workers.ErrClosed):
		return nil, fmt.Errorf("token %q is closed: %w", t.Name, keys.ErrHSM)
	}
	return out, err
}

// exec runs op over s, and repairs a session, handle or login that turns out
// to be bad, each once. op must be good for repetition.
func (t *token) exec(s *session, op func(*session) ([]byte, error)) (out []byte, err error) {
	t.mod.enter()
	defer t.mod.leave()
	if down := t.down.Load(); down != nil {
		return nil, *down
	}
	defer func() {
		if r := recover(); r != nil {
			t.drop(s)
			out, err = nil, fmt.Errorf("panic in a PKCS#11 call: %v: %w", r, keys.ErrHSM)
		}
	}()
	var repaired [fault.Device + 1]bool
	for {
		if err = t.ready(s); err == nil {
			if out, err = op(s); err == nil {
				return out, nil
			}
		}
		// After an error the session may hold an unfinished operation.
		t.drop(s)
		c := fault.Of(err)
		if repaired[c] || c != fault.Session && c != fault.Handle && c != fault.Login {
			return nil, err
		}
		repaired[c] = true
	}
}

// login logs in again, unless somebody else has since generation seen. The
// caller is inside the module and holds a session that is not logged in.
func (t *token) login(seen uint64) error {
	t.loginMu.Lock()
	defer t.loginMu.Unlock()
	if t.gen.Load() != seen {
		return nil
	}
	t.gen.Add(1) // before the login: see the package comment
	err := t.configure()
	switch {
	case err == nil:
		t.log.Warn("the login was lost and is made anew")
	case errors.Is(err, ErrPIN):
		t.setDown(err)
		t.log.Error("login refused", "err", err)
	}
	return err
}

// configure makes a crypto11 context, which logs in: at most one attempt.
func (t *token) configure() error {
	m, slot := t.mod, t.slot.Load()
	m.mu.Lock()
	refused := m.refused[slot.SerialNumber]
	m.mu.Unlock()
	if refused {
		return fmt.Errorf("%v: this process has tried a PIN that was refused, and tries none again: correct the PIN and restart: %w", t.TokenConfig, ErrPIN)
	}
	info, err := m.ctx.GetTokenInfo(slot.slot)
	if err != nil {
		return fault.Wrap(fault.OpTokenInfo, err)
	}
	if err := checkPINFlags(info.Flags); err != nil {
		return fmt.Errorf("%v: %w", t.TokenConfig, err)
	}
	if info.Flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0 {
		t.log.Warn("a wrong PIN was given to this token before")
	}
	pin, err := t.PIN()
	if err != nil {
		return fmt.Errorf("%v: reading the PIN: %w: %w", t.TokenConfig, keys.ErrHSM, err)
	}
	number := int(slot.slot)
	start := time.Now()
	c, err := m.newContext(&crypto11.Config{SlotNumber: &number, Pin: string(pin)})
	clear(pin)
	if err := t.note(fault.OpLogin, start, err); err != nil {
		if fault.Of(err) != fault.PIN {
			return fmt.Errorf("%v: %w", t.TokenConfig, err)
		}
		m.mu.Lock()
		m.refused[slot.SerialNumber] = true
		m.mu.Unlock()
		return fmt.Errorf("%v: one login was tried (%s), and none will be again by this process: correct the PIN and restart: %w", t.TokenConfig, fault.Result(err), ErrPIN)
	}
	t.contexts.mu.Lock()
	if t.contexts.current != nil {
		t.contexts.old = append(t.contexts.old, t.contexts.current)
	}
	t.contexts.current = c
	t.contexts.mu.Unlock()
	return nil
}

// closeContexts closes the old contexts, and the present one too if all. It
// waits for their sessions, so nobody may be using them: the caller holds the
// management lock.
func (t *token) closeContexts(all bool) {
	t.contexts.mu.Lock()
	closing := t.contexts.old
	t.contexts.old = nil
	if all && t.contexts.current != nil {
		closing = append(closing, t.contexts.current)
		t.contexts.current = nil
	}
	t.contexts.mu.Unlock()
	for _, c := range closing {
		t.mod.closeContext(c)
	}
}

// openLocked finds the token and logs in. The caller holds the management lock, and
// is inside the module or has paused it.
func (t *token) openLocked() error {
	m := t.mod
	if m.users() == 0 {
		start := time.Now()
		anchor, err := m.anchor(t.TokenConfig)
		t.observed(fault.OpInitialize, t.Name, fault.Result(err), time.Since(start))
		if err != nil {
			return err
		}
		defer m.closeContext(anchor)
	}
	found, skipped, err := m.survey()
	if err != nil {
		return err
	}
	slot, err := pick(t.TokenConfig, found, skipped)
	if err != nil {
		return err
	}
	m.mu.Lock()
	other := m.tokens[slot.SerialNumber]
	m.mu.Unlock()
	if other != nil && other != t {
		return fmt.Errorf("%v: serial %s is open as token %q: %w", t.TokenConfig, slot.SerialNumber, other.Name, ErrTokenInUse)
	}
	if old := t.slot.Load(); old != nil && old.SerialNumber != slot.SerialNumber {
		return fmt.Errorf("%v: serial %s is there now, not %s: %w", t.TokenConfig, slot.SerialNumber, old.SerialNumber, ErrNoToken)
	}
	t.slot.Store(&slot)
	if err := t.logout(); err != nil {
		return err
	}
	t.gen.Add(1)
	if err := t.configure(); err != nil {
		// crypto11 leaves the session of a failed login open. Nobody is in
		// the token now: SoftHSM crashes when sessions in use are closed.
		_ = m.ctx.CloseAllSessions(slot.slot)
		return err
	}
	m.mu.Lock()
	m.tokens[slot.SerialNumber] = t
	m.mu.Unlock()
	return nil
}

// logout ends a login that other code of this process has left: a token that
// is logged in takes any PIN for the right one.
func (t *token) logout() error {
	slot := t.slot.Load().slot
	h, err := t.mod.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return fault.Wrap(fault.OpOpenSession, err)
	}
	defer func() { _ = t.mod.ctx.CloseSession(h) }() // it was for one question
	info, err := t.mod.ctx.GetSessionInfo(h)
	if err != nil {
		return fault.Wrap(fault.OpSessionInfo, err)
	}
	if info.State == pkcs11.CKS_RO_PUBLIC_SESSION || info.State == pkcs11.CKS_RW_PUBLIC_SESSION {
		return nil
	}
	t.log.Warn("other code of this process is logged in to the token; it is logged out")
	return fault.Wrap(fault.OpLogin, t.mod.ctx.Logout(h))
}
