package module

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"keyhole/keys"
)

// drainPatience is how long reopening waits for calls under way.
const drainPatience = 10 * time.Second

// Reopen opens the token anew after a failure: alone, if gently and the module
// has other tokens, which may be well; else it drains and finalises the module
// and opens all its tokens anew, unless somebody else has meanwhile. A token
// that does not open is down. Reopen leaves at ctx's end; what hangs in the
// module goes on hanging.
func (t *Token) Reopen(ctx context.Context, gently bool) error {
	seen := t.mod.currentEpoch()
	done := make(chan error, 1)
	go func() {
		drain, cancel := context.WithTimeout(ctx, drainPatience)
		defer cancel()
		done <- t.Alone(drain, func() error { return t.reopen(gently, seen) })
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Alone runs f with the management lock while nobody is inside the module. It
// fails without having run f when ctx ends before: a call hangs.
func (t *Token) Alone(ctx context.Context, f func() error) error {
	if err := t.Lock(ctx); err != nil {
		return err
	}
	defer t.Unlock()
	if err := t.mod.pause(ctx); err != nil {
		return err
	}
	defer t.mod.resume()
	return f()
}

// reopen is Reopen with nobody inside the module.
func (t *Token) reopen(gently bool, seen uint64) error {
	m := t.mod
	if m.currentEpoch() != seen {
		return nil
	}
	m.mu.Lock()
	tokens := slices.Collect(maps.Values(m.tokens))
	m.mu.Unlock()
	if !slices.Contains(tokens, t) {
		return fmt.Errorf("token %q is closed: %w", t.cfg.Name, keys.ErrHSM)
	}
	if gently && len(tokens) > 1 {
		tokens = []*Token{t}
		_ = m.ctx.CloseAllSessions(t.slot.Load().ID) // of a token that is failing already
	}
	for _, t := range tokens {
		t.closeContexts(true)
	}
	var errs []error
	for _, t := range tokens {
		err := t.open()
		t.SetDown(err)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t.cfg.Reopened()
		t.cfg.Log.Warn("token open again")
	}
	return errors.Join(errs...)
}
