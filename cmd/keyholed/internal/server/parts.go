package server

import (
	"context"
	"sync/atomic"
	"time"

	"keyhole/audit"
	"keyhole/cmd/keyholed/internal/metrics"
	"keyhole/gateway/rest"
	"keyhole/hsm"
	"keyhole/store"
)

// parts is what readiness looks at.
type parts struct {
	token    *hsm.HSM
	store    store.Store
	audit    *audit.Log
	cache    *store.Cache
	stopping atomic.Bool
}

// pingTimeout bounds how long a probe waits for the store.
const pingTimeout = 2 * time.Second

// ready names each part and whether it serves.
func (p *parts) ready(ctx context.Context) []rest.Check {
	var all []rest.Check
	for _, h := range p.token.Health() {
		all = append(all, rest.Check{Name: "hsm:" + h.Name, OK: h.Ready, Detail: h.Detail})
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	_, stale := p.cache.Snapshot()
	all = append(all, check("store", p.store.Ping(ctx)), check("audit", p.audit.Health()), check("snapshot", stale))
	if p.stopping.Load() {
		all = append(all, rest.Check{Name: "gateway", Detail: "stopping"})
	}
	return all
}

func check(name string, err error) rest.Check {
	c := rest.Check{Name: name, OK: err == nil}
	if err != nil {
		c.Detail = err.Error()
	}
	return c
}

func (p *parts) tokens() []metrics.TokenStats {
	var all []metrics.TokenStats
	for _, h := range p.token.Health() {
		all = append(all, metrics.TokenStats{Name: h.Name, Ready: h.Ready, InUse: h.SessionsInUse, Limit: h.SessionsMax, Stuck: h.Stuck})
	}
	return all
}
