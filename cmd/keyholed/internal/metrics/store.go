package metrics

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"keyhole/keys"
	"keyhole/store"
)

// StoreState is where a scrape finds how this gateway and the others stand to
// the store.
type StoreState struct {
	Health func() store.Health
	// Nodes returns the gateways and the revision of the store.
	Nodes func(ctx context.Context) ([]keys.Node, uint64, error)
	Self  string // keys.Node.Instance of this one
}

// WatchStore adds the metrics of st. Call it once.
func (s *Set) WatchStore(st StoreState) {
	s.registry.MustRegister(&storeCollector{
		StoreState: st,
		mode:       prometheus.NewDesc("keyhole_store_mode", "1 for whose word keys are used by: store, witness (the tokens, while the store is silent), snapshot (nobody's, until it is too old) or stale (no key is used).", []string{"mode"}, nil),
		marked:     prometheus.NewDesc("keyhole_versions_marked", "Versions that are out of use because their token tells so and the store does not, yet.", nil, nil),
		nodes:      prometheus.NewDesc("keyhole_nodes_live", "Gateways that share the store and live, this one among them.", nil, nil),
		behind:     prometheus.NewDesc("keyhole_node_behind_revisions", "Revisions of the store that a living gateway does not have yet.", []string{"node"}, nil),
	})
}

type storeCollector struct {
	StoreState
	mode, marked, nodes, behind *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *storeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.mode, c.marked, c.nodes, c.behind} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. While the store is silent nothing
// is said of the gateways.
func (c *storeCollector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	h := c.Health()
	for _, m := range store.Modes() {
		is := 0.0
		if m == h.Mode {
			is = 1
		}
		send(c.mode, is, string(m))
	}
	send(c.marked, float64(h.Marked))
	all, revision, err := c.Nodes(context.Background())
	if err != nil {
		return
	}
	live, newest := 0, map[string]keys.Node{} // by name: one that was killed may be there again
	for _, n := range all {
		if n.Live {
			live++
			newest[n.Name] = n // in order of their starts
		}
	}
	for name, n := range newest {
		if n.Instance == c.Self {
			n.Revision = h.Revision // further than its last heartbeat
		}
		send(c.behind, float64(revision-min(n.Revision, revision)), name)
	}
	send(c.nodes, float64(live))
}
