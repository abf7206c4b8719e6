package hsm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"keyhole/keys"
)

// Pauses between attempts to bring a failed token back.
const (
	firstReopen = time.Second
	lastReopen  = time.Minute
)

// drainPatience is how long reopening waits for calls under way.
const drainPatience = 10 * time.Second

// Run tries every token each CanaryInterval, and brings failed ones back:
// it drains the module, finalises it and opens its tokens anew, with growing
// pauses. A refused PIN is never tried again. Run returns nil when ctx ends.
func (h *HSM) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range h.names {
		g.Go(func() error {
			h.tokens[name].watch(ctx)
			return nil
		})
	}
	return g.Wait()
}

// watch is Run for one token.
func (t *token) watch(ctx context.Context) {
	pause := t.CanaryInterval
	reopen, failed := firstReopen, 0
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-t.sick:
			timer.Stop()
		case <-timer.C:
		}
		pause = t.CanaryInterval
		err := t.tryFor(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrPIN) {
			t.log.Error("the canary failed", "err", err)
			if err = t.reopen(ctx, failed == 0); err != nil && ctx.Err() == nil {
				t.log.Error("the token is not back yet", "err", err, "next", reopen)
				pause, reopen, failed = reopen, min(2*reopen, lastReopen), failed+1
			}
		}
		if err == nil {
			reopen, failed = firstReopen, 0
		}
	}
}

// tryFor is try, for as long as a call may take.
func (t *token) tryFor(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.StuckAfter)
	defer cancel()
	return t.try(ctx)
}

// reopen opens the token anew and tries it: alone first, if the module has
// others, which may be well; else with the whole module. It leaves at ctx's
// end; what hangs in the module goes on hanging.
func (t *token) reopen(ctx context.Context, first bool) error {
	seen := t.mod.currentEpoch()
	done := make(chan error, 1)
	go func() { done <- t.mod.reopen(ctx, t, first, seen) }()
	select {
	case err := <-done:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return t.tryFor(ctx)
}

// reopen finalises the module and opens its tokens anew, unless somebody else
// has since epoch seen; or, if gently, only opens t anew where the module has
// other tokens. It fails without having done anything when a call hangs.
func (m *module) reopen(ctx context.Context, t *token, gently bool, seen uint64) error {
	drain, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	if err := m.lockAdmin(drain); err != nil {
		return err
	}
	defer m.unlockAdmin()
	if m.currentEpoch() != seen {
		return nil
	}
	if err := m.pause(drain); err != nil {
		return err
	}
	defer m.resume()
	m.mu.Lock()
	tokens := slices.Collect(maps.Values(m.tokens))
	m.mu.Unlock()
	if !slices.Contains(tokens, t) {
		return fmt.Errorf("token %q is closed: %w", t.Name, keys.ErrHSM)
	}
	if gently && len(tokens) > 1 {
		tokens = []*token{t}
		_ = m.ctx.CloseAllSessions(t.slot.Load().slot) // of a token that is failing already
	}
	for _, t := range tokens {
		t.closeContexts(true)
	}
	var errs []error
	for _, t := range tokens {
		err := t.openLocked()
		t.setDown(err)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t.resetBreaker()
		t.log.Warn("token open again")
	}
	return errors.Join(errs...)
}
