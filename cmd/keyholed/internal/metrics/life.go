package metrics

import (
	"context"
	"net/http"

	"keyhole/keys"
	"keyhole/usage"
)

// Webhook is webhook.Config.Observe.
func (s *Set) Webhook(name, result string) { s.deliveries.WithLabelValues(name, result).Inc() }

// UsageStore wraps the store that usage is kept in, so that writes of
// counters are counted.
func (s *Set) UsageStore(inner usage.Store) usage.Store { return &countingStore{inner, s} }

type countingStore struct {
	usage.Store
	set *Set
}

func (c *countingStore) ReserveUsage(ctx context.Context, node string, counted []keys.Usage) error {
	err := c.Store.ReserveUsage(ctx, node, counted)
	result := "ok"
	if err != nil {
		result = "error"
	}
	c.set.reservations.WithLabelValues(result).Inc()
	return err
}

// streamPath is the one path whose requests stay open.
const streamPath = "/v1/events"

// Streams wraps the API, so that open event streams are counted.
func (s *Set) Streams(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == streamPath {
			s.streams.Inc()
			defer s.streams.Dec()
		}
		inner.ServeHTTP(w, r)
	})
}
