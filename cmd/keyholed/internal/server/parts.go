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
	shared   bool   // others have the store too
	self     string // the instance of this gateway
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
	_, stale := p.cache.Snapshot()
	all = append(all, p.storeCheck(ctx, stale == nil), check("audit", p.audit.Health()), check("snapshot", stale))
	if p.shared {
		all = append(all, p.nodesCheck(ctx))
	}
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

// storeCheck is good while keys may be used: that the store is away refuses
// changes only, and taking every gateway out of a balancer would make an
// outage of it.
func (p *parts) storeCheck(ctx context.Context, usable bool) rest.Check {
	c := rest.Check{Name: "store", OK: true}
	h := p.cache.Health()
	switch {
	case h.Mode == store.ModeStore && p.shared: // a probe must not wait for the network
		return c
	case h.Mode == store.ModeStore:
		ctx, cancel := context.WithTimeout(ctx, pingTimeout)
		defer cancel()
		err := p.store.Ping(ctx)
		if err == nil {
			return c
		}
		c.Detail = fmt.Sprintf("degraded: keys are used, and changes are refused: %v", err)
	case h.Mode == store.ModeWitness:
		c.Detail = fmt.Sprintf("degraded: silent for %s; keys are used while the tokens tell what is revoked, and changes are refused", h.StoreAge.Round(time.Second))
	default:
		c.Detail = fmt.Sprintf("degraded: silent for %s; keys are used until they are too old, and changes are refused", h.StoreAge.Round(time.Second))
	}
	if !usable {
		c.OK, c.Detail = false, fmt.Sprintf("silent for %s", h.StoreAge.Round(time.Second))
	}
	return c
}

// nodesCheck shows the gateways; it fails no probe.
func (p *parts) nodesCheck(ctx context.Context) rest.Check {
	c := rest.Check{Name: "nodes", OK: true}
	all, revision, err := p.nodes(ctx)
	if err != nil {
		c.Detail = "the store does not tell"
		return c
	}
	live := 0
	for _, n := range all {
		if n.Live {
			live++
		}
	}
	own := p.cache.Health().Revision
	c.Detail = fmt.Sprintf("%d live; this one is %d revisions behind", live, revision-min(own, revision))
	return c
}

// nodesTimeout bounds how long a probe waits to show what it does not depend on.
const nodesTimeout = 500 * time.Millisecond

// nodes returns the gateways that share the store, unless it is silent.
func (p *parts) nodes(ctx context.Context) ([]keys.Node, uint64, error) {
	if p.cache.Health().Mode != store.ModeStore {
		return nil, 0, keys.Errorf(keys.ErrStore, "the store is silent")
	}
	ctx, cancel := context.WithTimeout(ctx, nodesTimeout)
	defer cancel()
	return p.store.Nodes(ctx)
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
		all = append(all, metrics.TokenStats{
			Name: h.Name, Ready: h.Ready, InUse: h.SessionsInUse, Limit: h.SessionsMax, Stuck: h.Stuck, Queued: h.Queued, QueuedBulk: h.QueuedBulk,
		})
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
