package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/marks"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/objects"
	"keyhole/hsm/internal/probe"
	"keyhole/hsm/internal/workers"
	"keyhole/keys"
)

// HSM is a set of open tokens. All methods may be called concurrently. It
// implements gateway.Crypto and rotation.Token.
type HSM struct {
	tokens map[string]*token
	names  []string // in the order of the configuration
}

// Open loads the modules, logs in to every token (one attempt each), and
// finds out by round trips what each can do. It leaves at ctx's end. Errors:
// keys.ErrInvalid (the configuration), ErrNoModule, ErrNoToken,
// ErrNotInitialised, ErrPIN, ErrTokenInUse, keys.ErrHSM. After an error
// nothing stays open.
func Open(ctx context.Context, c Config) (*HSM, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fault.Ended(ctx)
	}
	h := &HSM{tokens: map[string]*token{}}
	for _, tc := range c.Tokens {
		t, err := openToken(ctx, c, tc)
		if err != nil {
			return nil, errors.Join(err, h.Close())
		}
		h.tokens[tc.Name] = t
		h.names = append(h.names, tc.Name)
	}
	return h, nil
}

func openToken(ctx context.Context, c Config, tc TokenConfig) (*token, error) {
	type result struct {
		t   *token
		err error
	}
	done := make(chan result, 1)
	go func() { // a module may hang
		t, err := newToken(c, tc)
		if err == nil {
			err = t.open(ctx)
		}
		done <- result{t, err}
	}()
	select {
	case r := <-done:
		return r.t, r.err
	case <-ctx.Done():
		go func() { // what opens after all is closed
			if r := <-done; r.err == nil {
				_ = r.t.close()
			}
		}()
		return nil, fmt.Errorf("opening token %q: %w", tc.Name, fault.Ended(ctx))
	}
}

// open logs in and probes.
func (t *token) open(ctx context.Context) error {
	if err := t.tok.Lock(ctx); err != nil {
		return err
	}
	err := t.openLocked()
	t.tok.Unlock()
	if err != nil {
		return errors.Join(err, t.close())
	}
	slot := t.tok.Slot()
	t.log.Info("token open", "label", slot.Label, "serial", slot.SerialNumber, "model", slot.Model,
		"sessions", t.Sessions, "algorithms", t.can.String(), "keeps_marks", t.marks.Supported() == nil)
	return nil
}

// openLocked is called with the management lock.
func (t *token) openLocked() error {
	if err := t.tok.Open(); err != nil {
		return err
	}
	can, curve, err := probe.Run(t.tok, t.GCMIV)
	if err != nil {
		return fmt.Errorf("%v: trying what it can do: %w", t.TokenConfig, err)
	}
	t.can = can
	if t.marks, err = marks.Probe(t.tok, t.log); err != nil {
		return fmt.Errorf("%v: trying whether it keeps data objects: %w", t.TokenConfig, err)
	}
	t.objects = objects.New(t.tok, t.log, t.GCMIV, curve)
	t.canary = probe.NewCanary(t.tok, can, t.GCMIV, curve, t.now)
	t.Sessions = sessionsWithin(t.Sessions, t.tok.Slot().MaxSessionCount)
	t.pool = workers.New(workers.Config[module.Session]{
		Workers: t.Sessions, Queue: queueLength, Wait: t.SessionWait, Expected: t.QueueWait, Release: (*module.Session).Close, Without: fault.NoSession,
	})
	// Without a deadline: openToken leaves when it hangs.
	if err := t.canary.Try(context.Background()); err != nil {
		return fmt.Errorf("%v: using a key of it: %w", t.TokenConfig, err)
	}
	return nil
}

// otherSessions of a token are crypto11's two, the canary's and the one of
// the management operation under way.
const otherSessions = 4

// sessionsWithin keeps the sessions below what the token allows. Zero and
// the largest number mean that it does not say.
func sessionsWithin(want int, limit uint) int {
	if limit == 0 || limit >= 1<<31 {
		return want
	}
	return max(1, min(want, int(limit)-otherSessions))
}

// closePatience is how long Close waits for calls under way.
const closePatience = 10 * time.Second

// Close refuses new calls, waits for those under way, ends the sessions and
// the login, and finalises the module if no other token of this process uses
// it. It fails when a call hangs; the module then stays as it is.
func (h *HSM) Close() error {
	errs := make([]error, len(h.names))
	var wg sync.WaitGroup
	for i, name := range h.names {
		wg.Go(func() { errs[i] = h.tokens[name].close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// close is idempotent.
func (t *token) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	hangs := func(err error) error {
		return fmt.Errorf("closing token %q: a call hangs: %w: %w", t.Name, keys.ErrHSM, err)
	}
	if t.pool != nil {
		if err := t.pool.Close(ctx); err != nil {
			return hangs(err)
		}
	}
	if err := t.tok.Lock(ctx); err != nil {
		return hangs(err)
	}
	defer t.tok.Unlock()
	t.tok.SetDown(t.closed())
	if t.canary != nil {
		if err := t.canary.Close(ctx); err != nil {
			return hangs(err)
		}
	}
	t.tok.Close()
	return nil
}

// token returns the token of that name, or keys.ErrInvalid.
func (h *HSM) token(name string) (*token, error) {
	if t := h.tokens[name]; t != nil {
		return t, nil
	}
	return nil, keys.Errorf(keys.ErrInvalid, "no token is configured under the name %q", name)
}

// DefaultToken is the token of keys that do not say.
func (h *HSM) DefaultToken() string { return h.names[0] }

// HasToken reports whether a token is configured under that name.
func (h *HSM) HasToken(name string) bool { return h.tokens[name] != nil }
