package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ExportStats is how far the audit log's export to one place is behind.
type ExportStats struct {
	Name string
	Lag  uint64        // records
	Age  time.Duration // of the oldest that was tried and not taken
}

// AuditState is where a scrape finds what is looked at of the audit log.
type AuditState struct {
	Size    func() uint64 // records
	Vouched func() int64  // records that the last checkpoint vouches for
	Exports func() []ExportStats
}

// WatchAudit adds the metrics of st. Call it once.
func (s *Set) WatchAudit(st AuditState) {
	s.registry.MustRegister(&auditCollector{
		AuditState: st,
		unvouched:  prometheus.NewDesc("keyhole_audit_unvouched_records", "Records behind the last checkpoint.", nil, nil),
		lag:        prometheus.NewDesc("keyhole_audit_export_lag_records", "Records that the other side has not taken.", []string{"export"}, nil),
		age:        prometheus.NewDesc("keyhole_audit_export_lag_seconds", "Age of the oldest record that was sent and not taken.", []string{"export"}, nil),
	})
}

type auditCollector struct {
	AuditState
	unvouched, lag, age *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *auditCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.unvouched
	ch <- c.lag
	ch <- c.age
}

// Collect implements prometheus.Collector.
func (c *auditCollector) Collect(ch chan<- prometheus.Metric) {
	vouched := uint64(c.Vouched()) // asked first: the log only grows
	ch <- prometheus.MustNewConstMetric(c.unvouched, prometheus.GaugeValue, float64(c.Size()-vouched))
	for _, e := range c.Exports() {
		ch <- prometheus.MustNewConstMetric(c.lag, prometheus.GaugeValue, float64(e.Lag), e.Name)
		ch <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, e.Age.Seconds(), e.Name)
	}
}

// Checkpoint is told of each attempt to sign one.
func (s *Set) Checkpoint(_ int64, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	s.checkpoints.WithLabelValues(result).Inc()
}

// Exported returns what is told of each attempt to send records.
func (s *Set) Exported(name string) func(records int, err error) {
	taken, failed := s.exported.WithLabelValues(name), s.exportFailed.WithLabelValues(name)
	return func(records int, err error) {
		if err != nil {
			failed.Inc()
			return
		}
		taken.Add(float64(records))
	}
}
