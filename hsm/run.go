package hsm

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
)

// Pauses between attempts to bring a failed token back.
const (
	firstReopen = time.Second
	lastReopen  = time.Minute
)

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
// others; else with the whole module.
func (t *token) reopen(ctx context.Context, first bool) error {
	if err := t.tok.Reopen(ctx, first); err != nil {
		return err
	}
	return t.tryFor(ctx)
}
