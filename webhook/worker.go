package webhook

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// batch is how many events are read at one time, and how many unwanted ones
// may be passed over before that is written down.
const batch = 100

// worker delivers to one webhook. Its state is what the store has, or will
// have as soon as it can be written: nothing further is sent before.
type worker struct {
	cfg  *Config
	hook Hook
	to   *endpoint
	keys map[string]bool // nil: all

	ordered atomic.Bool   // the dead events are to be sent again
	wake    chan struct{} // holds a value when something was ordered

	// Of load, and then of run.
	state   store.Hook
	written uint64            // the cursor that the store has
	buried  []store.DeadEvent // that the store does not have yet
	unsaved bool              // the store must have state before anything else is sent

	mu      sync.Mutex // guards the following
	shown   store.Hook // a copy of state
	waiting time.Time  // when the event at hand was written; zero: none waits
	dead    int        // events that are kept as dead
}

func newWorker(c *Config, h Hook) (*worker, error) {
	if h.Timeout <= 0 {
		h.Timeout = 10 * time.Second
	}
	if h.GiveUpAfter <= 0 {
		h.GiveUpAfter = 24 * time.Hour
	}
	to, err := newEndpoint(h, c.Now)
	if err != nil {
		return nil, err
	}
	w := &worker{cfg: c, hook: h, to: to, wake: make(chan struct{}, 1)}
	if len(h.Keys) > 0 {
		w.keys = map[string]bool{}
		for _, k := range h.Keys {
			w.keys[k] = true
		}
	}
	return w, nil
}

func (w *worker) load(ctx context.Context) error {
	h, err := w.cfg.Store.Hook(ctx, w.hook.Name)
	if err != nil {
		return err
	}
	dead, err := w.cfg.Store.DeadEvents(ctx, w.hook.Name, 0)
	if err != nil {
		return err
	}
	oldest, _, err := w.cfg.Store.EventRange(ctx)
	if err != nil {
		return err
	}
	if h.Cursor+1 < oldest { // ids have gaps, so nobody knows for sure
		w.cfg.Log.WarnContext(ctx, "events may have been removed before a webhook took them", "webhook", w.hook.Name, "last_delivered", h.Cursor, "oldest_kept", oldest)
	}
	w.state, w.written = h, h.Cursor
	w.show(time.Time{})
	w.count(len(dead))
	return nil
}

// run delivers until ctx ends.
func (w *worker) run(ctx context.Context) {
	defer w.to.client.CloseIdleConnections()
	lost := false // the store cannot be used, and that was logged
	for ctx.Err() == nil {
		changed := w.cfg.Changed() // before looking, or a change in between would wait for the poll
		pause, err := w.round(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !lost {
			w.cfg.Log.WarnContext(ctx, "a webhook waits for the store", "webhook", w.hook.Name, "err", err)
		}
		lost = err != nil
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-w.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// round sends what can be sent now and returns when to look again. Its error
// is about the store.
func (w *worker) round(ctx context.Context) (pause time.Duration, err error) {
	if w.unsaved {
		if err := w.save(ctx); err != nil {
			return w.cfg.Poll, err
		}
	}
	if w.ordered.Swap(false) {
		w.state.RetryAt = time.Time{}
		if err := w.raise(ctx); err != nil {
			return w.cfg.Poll, err
		}
	}
	for ctx.Err() == nil {
		if pause := w.state.RetryAt.Sub(w.cfg.Now()); pause > 0 && pause <= maxRetryAfter { // more: the clock was set back
			return pause, nil
		}
		events, err := w.cfg.Store.Events(ctx, w.state.Cursor, batch)
		if err != nil {
			return w.cfg.Poll, err
		}
		all, err := w.send(ctx, events)
		if err != nil {
			return w.cfg.Poll, err
		}
		if all && len(events) < batch {
			break
		}
	}
	return w.cfg.Poll, nil
}

// send sends events until one is not taken, and reports whether all were.
func (w *worker) send(ctx context.Context, events []keys.Notice) (all bool, err error) {
	for _, n := range events {
		if !w.wants(n) {
			w.state.Cursor = n.ID
			continue
		}
		w.show(n.At)
		res := w.attempt(ctx, n)
		if ctx.Err() != nil && !res.taken() {
			return false, nil // neither taken nor refused
		}
		w.judge(ctx, n, res)
		if err := w.save(ctx); err != nil {
			return false, err
		}
		if !res.taken() {
			return false, nil
		}
	}
	w.show(time.Time{})
	if w.state.Cursor-w.written >= batch {
		return true, w.save(ctx)
	}
	return true, nil
}

// wants reports whether an event is meant for the webhook.
func (w *worker) wants(n keys.Notice) bool {
	if w.keys != nil && !w.keys[n.Key] {
		return false
	}
	for _, t := range w.hook.Events {
		if t == n.Type {
			return true
		}
	}
	return len(w.hook.Events) == 0
}

// raise sends the dead events again, each of them once, until it turns out
// that the endpoint takes none.
func (w *worker) raise(ctx context.Context) error {
	dead, err := w.cfg.Store.DeadEvents(ctx, w.hook.Name, 0)
	if err != nil {
		return err
	}
	if err := w.raiseAll(ctx, dead); err != nil || !w.unsaved {
		return err
	}
	return w.save(ctx)
}

func (w *worker) raiseAll(ctx context.Context, dead []store.DeadEvent) error {
	for _, d := range dead {
		res := w.attempt(ctx, d.Notice)
		switch {
		case res.taken():
			if err := w.cfg.Store.ForgetDead(ctx, w.hook.Name, d.Notice.ID); err != nil {
				return err // it stays dead, and may be sent once more
			}
			w.state.Failures, w.state.FirstFail, w.state.LastError, w.state.LastOK = 0, time.Time{}, "", w.cfg.Now()
			w.unsaved = true
			w.count(-1)
			w.cfg.Observe(w.hook.Name, Delivered)
		case ctx.Err() != nil:
			return nil
		default:
			w.cfg.Observe(w.hook.Name, Failed)
			w.cfg.Log.WarnContext(ctx, "a webhook does not take a dead event", "webhook", w.hook.Name, "host", w.to.url.Host, "event", d.Notice.ID, "problem", res.problem)
			if res.down() || res.unsigned {
				return nil
			}
		}
	}
	return nil
}

// save writes the state and what was buried.
func (w *worker) save(ctx context.Context) error {
	w.unsaved = true
	if err := w.cfg.Store.PutHook(ctx, w.state, w.buried...); err != nil {
		return err
	}
	w.count(len(w.buried))
	w.buried, w.unsaved, w.written = nil, false, w.state.Cursor
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown = w.state
	return nil
}

// show tells others where the webhook stands, and since when the event at
// hand has waited.
func (w *worker) show(waiting time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown, w.waiting = w.state, waiting
}

func (w *worker) count(dead int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead += dead
}
