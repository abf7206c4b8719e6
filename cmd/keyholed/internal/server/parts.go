package server

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"keyhole/audit"
	"keyhole/audit/export"
	"keyhole/cmd/keyholed/internal/metrics"
	"keyhole/gateway/rest"
	"keyhole/hsm"
	"keyhole/keys"
	"keyhole/store"
	"keyhole/webhook"
)

// parts is what readiness looks at.
type parts struct {
	token    *hsm.HSM
	store    store.Store
	audit    *audit.Log
	cache    *store.Cache
	hooks    *webhook.Dispatcher
	exports  []*export.Exporter
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
	if damaged := p.cache.Damaged(); len(damaged) > 0 { // the other keys serve on
		all = append(all, rest.Check{Name: "keys", OK: true, Detail: damagedText(damaged)})
	}
	for _, e := range p.exports { // nothing waits for it, and nothing is lost
		c := rest.Check{Name: "export:" + e.Status().Name, OK: true}
		if s := e.Status(); s.Err != nil {
			c.Detail = fmt.Sprintf("%d records behind: %v", s.Lag, s.Err)
		}
		all = append(all, c)
	}
	if p.stopping.Load() {
		all = append(all, rest.Check{Name: "gateway", Detail: "stopping"})
	}
	return all
}

// damagedText names the first few.
func damagedText(names []string) string {
	const most = 20
	text, more := names, ""
	if len(names) > most {
		text, more = names[:most], fmt.Sprintf(" and %d more", len(names)-most)
	}
	return "altered in the database and out of use until `keyholed adopt`: " + strings.Join(text, ", ") + more
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

// rotations returns those that are under way, for a scrape.
func (p *parts) rotations() ([]*keys.Rotation, error) {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	return p.store.Rotations(ctx, store.RotationFilter{OpenOnly: true})
}

func (p *parts) webhooks() []metrics.WebhookStats {
	var all []metrics.WebhookStats
	for _, w := range p.hooks.Stats() {
		all = append(all, metrics.WebhookStats(w))
	}
	return all
}
