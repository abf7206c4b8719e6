package webhook

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// signPause is the longest pause after a signature that failed: it is not
// for the endpoint to recover from.
const signPause = time.Minute

// result is how an attempt ended.
type result struct {
	answer
	unsigned bool // nothing was sent
}

func (r result) taken() bool { return r.problem == "" }

// attempt signs an event and sends it.
func (w *worker) attempt(ctx context.Context, n keys.Notice) result {
	d, err := newDelivery(w.hook.Name, n)
	if err == nil {
		var jws string
		if jws, err = w.cfg.Signer.sign(ctx, w.hook.SigningKey, w.hook.Name, d, w.cfg.Now()); err == nil {
			return result{answer: w.to.post(ctx, d, jws)}
		}
	}
	if ctx.Err() == nil {
		w.cfg.Log.WarnContext(ctx, "an event for a webhook is not signed", "webhook", w.hook.Name, "event", n.ID, "err", err)
	}
	problem := "it cannot be signed; the log says why"
	if known, ok := errors.AsType[*keys.Error](err); ok {
		problem = "it cannot be signed: " + known.Detail
	}
	return result{answer: answer{problem: problem}, unsigned: true}
}

// judge changes the state by the result of an attempt for n, the event behind
// the cursor.
func (w *worker) judge(ctx context.Context, n keys.Notice, r result) {
	h, now := &w.state, w.cfg.Now()
	if r.taken() {
		if h.Failures > 0 {
			w.cfg.Log.InfoContext(ctx, "a webhook takes events again", "webhook", w.hook.Name, "host", w.to.url.Host, "failures", h.Failures)
		}
		*h = store.Hook{Name: h.Name, Cursor: n.ID, LastOK: now}
		w.cfg.Observe(w.hook.Name, Delivered)
		return
	}
	h.Failures++
	h.LastError = r.problem
	if r.unsigned {
		h.RetryAt = now.Add(min(w.pause(h.Failures), signPause))
		w.cfg.Observe(w.hook.Name, Failed)
		return
	}
	if h.FirstFail.IsZero() {
		h.FirstFail = now
	}
	log := w.cfg.Log.With("webhook", w.hook.Name, "host", w.to.url.Host, "event", n.ID, "problem", r.problem, "failures", h.Failures)
	// Each event has its time, and so has an endpoint that begins to fail:
	// after a night that the gateway was off, one refusal buries nothing.
	end := h.FirstFail
	if n.At.After(end) {
		end = n.At
	}
	end = end.Add(w.hook.GiveUpAfter)
	if r.status == http.StatusGone || !now.Before(end) {
		w.buried = append(w.buried, store.DeadEvent{Hook: w.hook.Name, Notice: n, Error: r.problem, At: now})
		h.Cursor, h.RetryAt = n.ID, now.Add(w.pause(1))
		w.cfg.Observe(w.hook.Name, Dead)
		log.ErrorContext(ctx, "an event for a webhook is given up and kept as dead")
		return
	}
	h.RetryAt = now.Add(max(w.pause(h.Failures), r.retryAfter))
	if h.RetryAt.After(end) {
		h.RetryAt = end
	}
	w.cfg.Observe(w.hook.Name, Failed)
	if h.Failures == 1 {
		log.WarnContext(ctx, "a webhook does not take an event; it will be tried again", "give_up_at", end)
	} else {
		log.DebugContext(ctx, "a webhook still does not take an event", "retry_at", h.RetryAt)
	}
}

// pause returns how long to wait after a number of failures in a row: between
// half and all of what doubles with each, so that many gateways do not come
// back at one moment.
func (w *worker) pause(failures int) time.Duration {
	d := w.cfg.FirstPause
	for ; failures > 1 && d < lastPause; failures-- {
		d *= 2
	}
	d = min(d, lastPause)
	return d/2 + rand.N(d/2+1) //nolint:gosec // a pause is no secret
}
