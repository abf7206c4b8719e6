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
	Queued, QueuedBulk  int // operations that wait for a session
}

// WebhookStats is where the delivery to one webhook stands.
type WebhookStats struct {
	Name string
	Lag  time.Duration // how long the event at hand has waited; 0: none waits
	Dead int           // events that were given up and are kept
}

// State is where a scrape finds what is not counted but looked at.
type State struct {
	Tokens      func() []TokenStats
	Keys        func() ([]*keys.Key, error)
	SnapshotAge func() time.Duration
	Damaged     func() []string                  // keys whose rows were altered
	Due         func() int                       // keys that automatic work is due on
	Rotations   func() ([]*keys.Rotation, error) // under way
	Webhooks    func() []WebhookStats
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
		queued:   prometheus.NewDesc("keyhole_hsm_queue", "Operations that wait for a session.", []string{"token", "lane"}, nil),
		versions: prometheus.NewDesc("keyhole_key_versions", "Key versions by state.", []string{"state"}, nil),
		keys:     prometheus.NewDesc("keyhole_keys", "Keys, deleted ones not counted.", nil, nil),
		damaged:  prometheus.NewDesc("keyhole_keys_damaged", "Keys that are out of use because what is stored of them was altered.", nil, nil),
		due:      prometheus.NewDesc("keyhole_keys_due", "Keys that a rotation or the end of a version is due on.", nil, nil),
		open:     prometheus.NewDesc("keyhole_rotations", "Rotations under way.", []string{"phase"}, nil),
		oldest:   prometheus.NewDesc("keyhole_rotation_age_seconds", "Since the oldest rotation in the phase began.", []string{"phase"}, nil),
		lag:      prometheus.NewDesc("keyhole_webhook_lag_seconds", "How long the oldest event that the endpoint has not taken has waited.", []string{"webhook"}, nil),
		dead:     prometheus.NewDesc("keyhole_webhook_dead_events", "Events that the endpoint did not take and that are kept.", []string{"webhook"}, nil),
		age:      prometheus.NewDesc("keyhole_snapshot_age_seconds", "Time since the key snapshot was last known to be current.", nil, nil),
	})
}

type stateCollector struct {
	State
	ready, inUse, limit, stuck, queued, versions, keys, age *prometheus.Desc
	damaged, due, open, oldest, lag, dead                   *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.ready, c.inUse, c.limit, c.stuck, c.queued, c.versions, c.keys, c.age, c.damaged, c.due, c.open, c.oldest, c.lag, c.dead} {
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
		send(c.queued, float64(t.Queued), t.Name, "normal")
		send(c.queued, float64(t.QueuedBulk), t.Name, "bulk")
	}
	send(c.age, c.SnapshotAge().Seconds())
	send(c.damaged, float64(len(c.Damaged())))
	send(c.due, float64(c.Due()))
	for _, w := range c.Webhooks() {
		send(c.lag, w.Lag.Seconds(), w.Name)
		send(c.dead, float64(w.Dead), w.Name)
	}
	c.rotations(send)
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

// rotations sends nothing while the store cannot be read.
func (c *stateCollector) rotations(send func(d *prometheus.Desc, v float64, labels ...string)) {
	all, err := c.State.Rotations()
	if err != nil {
		return
	}
	now, count, oldest := c.Now(), map[keys.Phase]int{}, map[keys.Phase]time.Duration{}
	for _, r := range all {
		count[r.Phase]++
		oldest[r.Phase] = max(oldest[r.Phase], now.Sub(r.StartedAt))
	}
	for _, p := range []keys.Phase{keys.PhaseReserved, keys.PhaseAnnounced, keys.PhaseScheduled, keys.PhaseActivated} {
		send(c.open, float64(count[p]), string(p))
		send(c.oldest, oldest[p].Seconds(), string(p))
	}
}
