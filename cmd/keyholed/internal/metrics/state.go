package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"keyhole/keys"
)

// TokenStats is the state of one HSM token.
type TokenStats struct {
	Name                string
	Ready               bool
	InUse, Limit, Stuck int // sessions
}

// State is where a scrape finds what is not counted but looked at.
type State struct {
	Tokens      func() []TokenStats
	Keys        func() ([]*keys.Key, error)
	SnapshotAge func() time.Duration
	Now         func() time.Time // default time.Now
}

// Watch adds the metrics of st. Call it once.
func (s *Set) Watch(st State) {
	if st.Now == nil {
		st.Now = time.Now
	}
	s.registry.MustRegister(&stateCollector{
		State:    st,
		ready:    prometheus.NewDesc("keyhole_hsm_ready", "1 while the token serves.", []string{"token"}, nil),
		inUse:    prometheus.NewDesc("keyhole_hsm_sessions_in_use", "Sessions that a call is running on.", []string{"token"}, nil),
		limit:    prometheus.NewDesc("keyhole_hsm_sessions_max", "Most sessions at one time.", []string{"token"}, nil),
		stuck:    prometheus.NewDesc("keyhole_hsm_sessions_stuck", "Sessions whose call does not return.", []string{"token"}, nil),
		versions: prometheus.NewDesc("keyhole_key_versions", "Key versions by state.", []string{"state"}, nil),
		keys:     prometheus.NewDesc("keyhole_keys", "Keys, deleted ones not counted.", nil, nil),
		age:      prometheus.NewDesc("keyhole_snapshot_age_seconds", "Time since the key snapshot was last known to be current.", nil, nil),
	})
}

type stateCollector struct {
	State
	ready, inUse, limit, stuck, versions, keys, age *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.ready, c.inUse, c.limit, c.stuck, c.versions, c.keys, c.age} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. While the snapshot is stale the
// keys are not counted: no number is better than an old one.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, t := range c.Tokens() {
		ready := 0.0
		if t.Ready {
			ready = 1
		}
		send(c.ready, ready, t.Name)
		send(c.inUse, float64(t.InUse), t.Name)
		send(c.limit, float64(t.Limit), t.Name)
		send(c.stuck, float64(t.Stuck), t.Name)
	}
	send(c.age, c.SnapshotAge().Seconds())
	all, err := c.State.Keys()
	if err != nil {
		return
	}
	now, count := c.Now(), map[keys.State]int{}
	for _, k := range all {
		for _, v := range k.Versions {
			count[k.StateAt(v, now)]++
		}
	}
	send(c.keys, float64(len(all)))
	for _, state := range keys.States() {
		send(c.versions, float64(count[state]), string(state))
	}
}
