package webhook

import (
	"context"
	"time"

	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
)

// maxShown is how many dead events of one webhook are listed, the oldest.
const maxShown = 1000

// List says where each webhook stands, in the order of the configuration.
func (d *Dispatcher) List(ctx context.Context) ([]api.Webhook, error) {
	all := make([]api.Webhook, 0, len(d.workers))
	for _, w := range d.workers {
		one, err := w.describe(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// Retry orders that a webhook's dead events are sent again, and that what
// waits for its next attempt is tried at once. It does not wait for that: the
// answer is where the webhook stands at this moment. A process that ends
// before it got to it forgets the order. Errors: keys.ErrNotFound, ErrStore.
func (d *Dispatcher) Retry(ctx context.Context, name string) (api.Webhook, error) {
	for _, w := range d.workers {
		if w.hook.Name == name {
			one, err := w.describe(ctx)
			if err != nil {
				return api.Webhook{}, err
			}
			w.ordered.Store(true)
			select {
			case w.wake <- struct{}{}:
			default:
			}
			return one, nil
		}
	}
	return api.Webhook{}, keys.Errorf(keys.ErrNotFound, "there is no webhook of that name in the configuration")
}

func (w *worker) describe(ctx context.Context) (api.Webhook, error) {
	_, newest, err := w.cfg.Store.EventRange(ctx)
	if err != nil {
		return api.Webhook{}, err
	}
	dead, err := w.cfg.Store.DeadEvents(ctx, w.hook.Name, maxShown)
	if err != nil {
		return api.Webhook{}, err
	}
	h, _, _ := w.standing()
	out := api.Webhook{
		Name: w.hook.Name, Host: w.to.url.Host, Failures: h.Failures, RetryAt: moment(h.RetryAt), LastOKAt: moment(h.LastOK),
		LastError: h.LastError, Dead: make([]api.DeadEvent, 0, len(dead)),
	}
	if newest > h.Cursor {
		out.Pending = newest - h.Cursor
	}
	for _, e := range dead {
		out.Dead = append(out.Dead, api.DeadEvent{Event: event(e.Notice), Error: e.Error, At: moment(e.At)})
	}
	return out, nil
}

func (w *worker) standing() (h store.Hook, waiting time.Time, dead int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shown, w.waiting, w.dead
}

// Stats is what is measured of one webhook.
type Stats struct {
	Name string
	Lag  time.Duration // how long the event at hand has waited; 0: none waits
	Dead int           // events that are kept as dead
}

// Stats reads no store.
func (d *Dispatcher) Stats() []Stats {
	all := make([]Stats, 0, len(d.workers))
	for _, w := range d.workers {
		_, waiting, dead := w.standing()
		s := Stats{Name: w.hook.Name, Dead: dead}
		if !waiting.IsZero() {
			s.Lag = max(0, w.cfg.Now().Sub(waiting))
		}
		all = append(all, s)
	}
	return all
}
