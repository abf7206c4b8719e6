package hsm

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"keyhole/hsm/internal/fault"
)

// Pauses between attempts to bring a failed token back.
const (
	firstReopen = time.Second
	lastReopen  = 10 * time.Second
)

// wholeModule is how many attempts there are to one that takes the module's
// other tokens with it: it may help, and makes them wait. It is the second of
// them.
const wholeModule = 8

// Run tries every token each CanaryInterval, and brings failed ones back:
// it drains the module, finalises it and opens its tokens anew, with growing
// pauses. A refused PIN is never tried again; one that was held back is, when
// the token does not say any more that it is locked. Run returns nil when ctx
// ends.
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
		held := errors.Is(err, fault.ErrPINHeld)
		if err != nil && ctx.Err() == nil && (held || !errors.Is(err, ErrPIN)) {
			t.log.Error("the canary failed", "err", err)
			if err = t.reopen(ctx, held || failed%wholeModule != 1); err != nil && ctx.Err() == nil {
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

// reopen opens the token anew and tries it: alone, if gently and the module
// has others; else with the whole module.
func (t *token) reopen(ctx context.Context, gently bool) error {
	if err := t.tok.Reopen(ctx, gently); err != nil {
		return err
	}
	return t.tryFor(ctx)
}
