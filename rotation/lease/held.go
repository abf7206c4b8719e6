package lease

import (
	"context"
	"errors"
	"sync"
	"time"
)

// held is a lease that this process has.
type held struct {
	k      *Keeper
	name   string
	ctx    context.Context
	cancel context.CancelCauseFunc
	ended  chan struct{} // closed when it is not prolonged any more

	mu    sync.Mutex
	until time.Time // by the monotonic clock: the store's clock has it for as long, at least
}

type heldKey struct{}

// Check returns ErrLost if the lease of a context from Try or Wait was lost:
// the context ended for that, or the moment passed to which it was prolonged
// last, which a process that was stopped finds before its timers tell. It is
// to be asked before what cannot be undone. A context without a lease is nil.
func Check(ctx context.Context) error {
	h, ok := ctx.Value(heldKey{}).(*held)
	if !ok {
		return nil
	}
	if !h.good(time.Now()) {
		h.cancel(ErrLost)
	}
	if errors.Is(context.Cause(h.ctx), ErrLost) {
		return ErrLost
	}
	return nil
}

// acquire takes a lease that this process has claimed.
func (k *Keeper) acquire(ctx context.Context, name string) (*held, error) {
	begun := time.Now()
	switch ok, err := k.store.AcquireLease(ctx, name, k.holder, k.ttl); {
	case err != nil:
		return nil, err
	case !ok:
		return nil, ErrTaken
	}
	h := &held{k: k, name: name, ended: make(chan struct{}), until: begun.Add(k.ttl)}
	ctx = context.WithValue(ctx, heldKey{}, h)
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	if !h.good(time.Now()) {
		h.cancel(ErrLost)
	}
	go h.keep()
	return h, nil
}

func (h *held) good(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Before(h.until)
}

// keep prolongs the lease until its context ends.
func (h *held) keep() {
	defer close(h.ended)
	every := h.k.ttl / prolongs
	t := time.NewTimer(every)
	defer t.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-t.C:
		}
		if again := h.prolong(every); again > 0 {
			t.Reset(again)
		} else {
			h.cancel(ErrLost)
			return
		}
	}
}

// prolong acquires the lease again and returns when to do so next; 0: it is
// lost. One that has lapsed meanwhile is lost even if the store grants it
// again: somebody else may have had it in between.
func (h *held) prolong(every time.Duration) time.Duration {
	begun := time.Now()
	h.mu.Lock()
	until := h.until
	h.mu.Unlock()
	ctx, cancel := context.WithDeadline(h.ctx, until)
	defer cancel()
	ok, err := h.k.store.AcquireLease(ctx, h.name, h.k.holder, h.k.ttl)
	switch {
	case !time.Now().Before(until) || err == nil && !ok:
		h.k.log.WarnContext(h.ctx, "a lease was lost; its work is left to others", "lease", h.name, "err", err)
		return 0
	case err != nil:
		return min(every/5, time.Until(until))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = begun.Add(h.k.ttl)
	return every
}

// releaseTimeout bounds how long the end of some work waits for the store. A
// lease that is not given up lapses.
const releaseTimeout = 2 * time.Second

// done gives the lease up.
func (h *held) done() {
	h.cancel(context.Canceled)
	<-h.ended
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), releaseTimeout)
	defer cancel()
	if err := h.k.store.ReleaseLease(ctx, h.name, h.k.holder); err != nil {
		h.k.log.WarnContext(ctx, "a lease was not given up; it lapses by itself", "lease", h.name, "err", err)
	}
	h.k.unclaim(h.name)
}
