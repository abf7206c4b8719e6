package rest

import (
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"keyhole/gateway"
)

// Config is what the API needs. Service is required.
type Config struct {
	Service      *gateway.Service
	MaxBody      int64         // bytes of a body (default 1 MiB)
	MaxBatchBody int64         // bytes of a batch's body (default 8 MiB)
	MaxInFlight  int           // requests at work at one time (default 1024)
	MaxBatches   int           // batches among them (default 32), half of them of one caller: they may be large
	Timeout      time.Duration // of one request, from its headers on (default 30s); of a stream, until it begins
	MaxStreams   int           // event streams at one time (default 1024), half of them of one caller
	Heartbeat    time.Duration // between the signs of life of a stream (default 15s)
	StreamWrite  time.Duration // that a reader may take for what is sent: of a stream, or of an answer of fair size (default 10s)
	// Draining refuses new event streams once it is closed. Those that are
	// there are ended by the Service, which is told by the same channel. nil:
	// never.
	Draining <-chan struct{}
	Log      *slog.Logger // faults (default slog.Default())
	Access   *slog.Logger // a line per request; nil: none
	// Observe is told of each request: the route's template or "unmatched",
	// the method or "other", the status, and how long it took.
	Observe func(route, method string, code int, d time.Duration)
}

func (c Config) withDefaults() Config {
	if c.MaxBody <= 0 {
		c.MaxBody = 1 << 20
	}
	if c.MaxBatchBody <= 0 {
		c.MaxBatchBody = 8 << 20
	}
	if c.MaxInFlight <= 0 {
		c.MaxInFlight = 1024
	}
	if c.MaxBatches <= 0 {
		c.MaxBatches = 32
	}
	if c.Timeout <= 0 {
		c.Timeout = 30 * time.Second
	}
	if c.MaxStreams <= 0 {
		c.MaxStreams = 1024
	}
	if c.Heartbeat <= 0 {
		c.Heartbeat = 15 * time.Second
	}
	if c.StreamWrite <= 0 {
		c.StreamWrite = 10 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Observe == nil {
		c.Observe = func(string, string, int, time.Duration) {}
	}
	return c
}

// handler is the API. It is immutable but for what counts requests.
type handler struct {
	cfg      Config
	service  *gateway.Service
	router   router
	inFlight atomic.Int64
	batches  *places
	streams  *places
	overload quiet
}

// New returns the API.
func New(c Config) http.Handler {
	c = c.withDefaults()
	h := &handler{cfg: c, service: c.Service, batches: newPlaces(c.MaxBatches, "batches"), streams: newPlaces(c.MaxStreams, "event streams")}
	h.router = newRouter(routes(c.Service))
	return h
}
