package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/marks"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/objects"
	"keyhole/hsm/internal/probe"
	"keyhole/hsm/internal/workers"
	"keyhole/keys"
)

// token is one configured token with all that serves it.
type token struct {
	TokenConfig
	log *slog.Logger
	now func() time.Time

	tok     *module.Token
	breaker atomic.Pointer[gobreaker.CircuitBreaker[[]byte]]
	sick    chan struct{} // capacity 1: the breaker opened, Run should look

	// What open makes; nil before.
	pool    *workers.Pool[module.Session]
	can     probe.Capabilities
	objects *objects.Keys
	canary  *probe.Canary
	marks   *marks.Marks
}

// Limits of the circuit breaker.
const (
	breakerFailures = 3               // device errors in a row that open it
	breakerPause    = 2 * time.Second // until it lets one call try again
)

// newToken loads the token's module, which may hang.
func newToken(c Config, tc TokenConfig) (*token, error) {
	t := &token{TokenConfig: tc, log: c.Log.With("token", tc.Name), now: c.Now, sick: make(chan struct{}, 1)}
	t.resetBreaker()
	m := tc.module()
	m.PIN, m.Log, m.Observe, m.Reopened = tc.PIN, t.log, c.Observe, t.resetBreaker
	var err error
	t.tok, err = module.Load(m)
	return t, err
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

// sessionPause is how long a call waits that found no session on the token:
// others hold them, who will be done sooner or later.
const sessionPause = 5 * time.Millisecond

// do runs op on a pooled session, within the caller's time. Where the token
// has fewer sessions than it was thought to have, calls wait for those that
// there are, no longer than for one of the pool's.
func (t *token) do(ctx context.Context, op func(*module.Session) ([]byte, error)) ([]byte, error) {
	var until time.Time
	for {
		out, err := t.attempt(ctx, op)
		if !fault.NoSession(err) {
			return out, err
		}
		now := time.Now()
		if until.IsZero() {
			until = now.Add(t.SessionWait)
		}
		if now.After(until) {
			return nil, err
		}
		select {
		case <-time.After(sessionPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// attempt is do, once.
func (t *token) attempt(ctx context.Context, op func(*module.Session) ([]byte, error)) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, fault.Ended(ctx)
	}
	out, err := t.pool.Do(ctx, keys.LaneOf(ctx), func(s *module.Session) ([]byte, error) {
		out, err := t.breaker.Load().Execute(func() ([]byte, error) { return t.tok.Exec(s, op) })
		if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
			err = fmt.Errorf("token %q: not tried after device errors: %w", t.Name, keys.ErrHSM)
		}
		return out, err
	})
	busy, isBusy := errors.AsType[*workers.Busy](err)
	switch {
	case isBusy:
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, fault.Ended(ctx)
		}
		overloaded := keys.Errorf(keys.ErrOverloaded, "the HSM is busy; try again later")
		overloaded.RetryAfter = max(busy.For, time.Millisecond)
		return nil, overloaded
	case errors.Is(err, workers.ErrLeft):
		return nil, fault.Ended(ctx)
	case errors.Is(err, workers.ErrClosed):
		return nil, t.closed()
	}
	return out, err
}

func (t *token) closed() error { return fmt.Errorf("token %q is closed: %w", t.Name, keys.ErrHSM) }

// try uses the canary key once, on its session and on the idle sessions of
// the pool, so that they do not time out. It leaves at ctx's end, and does not
// begin while an earlier trial hangs.
func (t *token) try(ctx context.Context) error {
	err := t.canary.Try(ctx)
	if err == nil {
		t.pool.EachIdle(ctx, func(s *module.Session) { _, _ = t.tok.Exec(s, t.canary.On) }) // a bad session is dropped by Exec
	}
	return err
}
