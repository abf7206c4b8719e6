package webhook

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/keys"
	"keyhole/rotation/lease"
	"keyhole/store"
)

// batch is how many events are read at one time, and how many unwanted ones
// may be passed over before that is written down.
const batch = 100

// worker delivers to one webhook. While it has the lease its state is what the
// store has, or will have as soon as it can be written: nothing further is
// sent before. Without the lease the state is what the store said last.
type worker struct {
	cfg    *Config
	leases *lease.Keeper
	hook   Hook
	to     *endpoint
	keys   map[string]bool // nil: all

	ordered atomic.Bool   // the dead events are to be sent again
	wake    chan struct{} // holds a value when something was ordered

	// Of load, and then of run.
	held    context.Context // of the lease; nil: not held
	done    func()          // gives it up
	counted time.Time       // when the dead events were counted last
	state   store.Hook
	written uint64            // the cursor that the store has
	buried  []store.DeadEvent // that the store does not have yet
	unsaved bool              // the store must have state before anything else is sent

	mu      sync.Mutex // guards the following
	shown   store.Hook // a copy of state
	waiting time.Time  // when the event at hand was written; zero: none waits
	dead    int        // events that are kept as dead
}

func newWorker(c *Config, leases *lease.Keeper, h Hook) (*worker, error) {
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
	w := &worker{cfg: c, leases: leases, hook: h, to: to, wake: make(chan struct{}, 1)}
	if len(h.Keys) > 0 {
		w.keys = map[string]bool{}
		for _, k := range h.Keys {
			w.keys[k] = true
		}
	}
	return w, nil
}

func (w *worker) load(ctx context.Context) error {
	if err := w.read(ctx); err != nil {
		return err
	}
	oldest, _, err := w.cfg.Store.EventRange(ctx)
	if err != nil {
		return err
	}
	if w.state.Cursor+1 < oldest { // ids have gaps, so nobody knows for sure
		w.cfg.Log.WarnContext(ctx, "events may have been removed before a webhook took them", "webhook", w.hook.Name, "last_delivered", w.state.Cursor, "oldest_kept", oldest)
	}
	w.show(time.Time{})
	return w.countDead(ctx)
}

// read takes the state from the store. What this worker did and could not
// write down is forgotten.
func (w *worker) read(ctx context.Context) error {
	h, err := w.cfg.Store.Hook(ctx, w.hook.Name)
	if err != nil {
		return err
	}
	w.state, w.written, w.buried, w.unsaved = h, h.Cursor, nil, false
	return nil
}

// countDead counts the dead events, which other gateways bury and raise too.
func (w *worker) countDead(ctx context.Context) error {
	if now := time.Now(); now.Sub(w.counted) < w.cfg.Poll {
		return nil
	}
	dead, err := w.cfg.Store.DeadEvents(ctx, w.hook.Name, 0)
	if err != nil {
		return err
	}
	w.counted = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = len(dead)
	return nil
}

// run delivers until ctx ends.
func (w *worker) run(ctx context.Context) {
	defer w.to.client.CloseIdleConnections()
	defer w.release()
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

// round sends what can be sent now, unless another gateway does, and returns
// when to look again. Its error is about the store.
func (w *worker) round(ctx context.Context) (pause time.Duration, err error) {
	if w.held != nil && lease.Check(w.held) != nil {
		w.release()
	}
	if w.held == nil {
		due, pause, err := w.due(ctx)
		if err != nil || !due {
			return pause, err
		}
		w.held, w.done, err = w.leases.Try(ctx, "webhook/"+w.hook.Name)
		if errors.Is(err, lease.ErrTaken) {
			return w.cfg.Poll, nil
		}
		if err == nil {
			err = w.read(ctx)
		}
		if err != nil {
			w.release()
			return w.cfg.Poll, err
		}
	}
	pause, err = w.deliver(w.held)
	if !w.unsaved || w.held.Err() != nil {
		w.release()
	}
	return pause, err
}

// release gives the lease up, if the worker has it.
func (w *worker) release() {
	if w.done != nil {
		w.done()
	}
	w.held, w.done = nil, nil
}

// due reports whether there is something to do, as the store says, and
// otherwise when to look again.
func (w *worker) due(ctx context.Context) (due bool, pause time.Duration, err error) {
	if err := w.read(ctx); err != nil {
		return false, w.cfg.Poll, err
	}
	if err := w.countDead(ctx); err != nil {
		return false, w.cfg.Poll, err
	}
	events, err := w.cfg.Store.Events(ctx, w.state.Cursor, batch)
	if err != nil {
		return false, w.cfg.Poll, err
	}
	var waiting time.Time
	for _, n := range events {
		if w.wants(n) {
			waiting, due = n.At, true
			break
		}
		w.state.Cursor = n.ID
	}
	w.show(waiting)
	if w.ordered.Load() {
		return true, 0, nil
	}
	if pause := w.retryIn(); pause > 0 && due {
		return false, min(pause, w.cfg.Poll), nil
	}
	return due || len(events) == batch, w.cfg.Poll, nil
}

// retryIn returns how long the next attempt has to wait.
func (w *worker) retryIn() time.Duration {
	pause := w.state.RetryAt.Sub(w.cfg.Now())
	if pause > maxRetryAfter { // the clock was set back
		return 0
	}
	return pause
}

// deliver sends what can be sent now, under the lease, and returns when to
// look again. Its error is about the store.
func (w *worker) deliver(ctx context.Context) (pause time.Duration, err error) {
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
		if pause := w.retryIn(); pause > 0 {
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
