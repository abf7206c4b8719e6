// Package metrics is what the operations listener shows under /metrics. It
// has a registry of its own. Names end in their unit; no label takes a value
// that a caller can choose.
package metrics

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"keyhole/authz"
	"keyhole/gateway"
)

// Set is all metrics of one gateway.
type Set struct {
	registry *prometheus.Registry

	requests *children[request, observed]
	calls    *children[call, observed]
	failures *children[string, prometheus.Counter]

	auditCommit  prometheus.Observer
	auditRecords prometheus.Counter
	auditFailed  prometheus.Counter

	reloads      *prometheus.CounterVec
	reloadFailed *prometheus.GaugeVec
	certExpiry   prometheus.Gauge

	deliveries   *prometheus.CounterVec
	reservations *prometheus.CounterVec
	streams      prometheus.Gauge

	checkpoints  *prometheus.CounterVec
	exported     *prometheus.CounterVec
	exportFailed *prometheus.CounterVec
}

type request struct {
	route, method string
	code          int
}

type call struct{ function, token, result string }

type observed struct {
	count   prometheus.Counter
	seconds prometheus.Observer
}

// Buckets reach from a cached answer to a stuck HSM.
var (
	requestBuckets = []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	callBuckets    = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30}
)

// New returns the metrics of a gateway of the given version and revision.
func New(version, revision string) *Set {
	s := &Set{registry: prometheus.NewRegistry()}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	build := s.gauge("keyhole_build_info", "Always 1; its labels say what is running.", "version", "revision")
	build.WithLabelValues(version, revision).Set(1)

	requests := s.counter("keyhole_http_requests_total", "Requests that were answered.", "route", "method", "code")
	requestTime := s.histogram("keyhole_http_request_duration_seconds", "From the first byte read of a request to its answer.", requestBuckets, "route")
	s.requests = newChildren(request{"other", "other", 0}, func(k request) observed {
		return observed{requests.WithLabelValues(k.route, k.method, strconv.Itoa(k.code)), requestTime.WithLabelValues(k.route)}
	})

	calls := s.counter("keyhole_hsm_calls_total", "PKCS#11 calls by their result: ok, or the CKR name.", "token", "function", "result")
	callTime := s.histogram("keyhole_hsm_call_duration_seconds", "Duration of PKCS#11 calls.", callBuckets, "token", "function")
	s.calls = newChildren(call{"other", "other", "other"}, func(k call) observed {
		return observed{calls.WithLabelValues(k.token, k.function, k.result), callTime.WithLabelValues(k.token, k.function)}
	})

	failures := s.counter("keyhole_auth_failures_total", "Authentications that failed, by the precise reason.", "reason")
	s.failures = newChildren("other", func(reason string) prometheus.Counter { return failures.WithLabelValues(reason) })

	s.auditCommit = s.histogram("keyhole_audit_commit_seconds", "One write and fsync of the audit log.", callBuckets).WithLabelValues()
	s.auditRecords = s.counter("keyhole_audit_records_total", "Audit records made durable.").WithLabelValues()
	s.auditFailed = s.counter("keyhole_audit_commit_failures_total", "Commits of the audit log that failed; their requests were refused.").WithLabelValues()

	s.reloads = s.counter("keyhole_reloads_total", "Reloads of certificates, JWKS, CRLs and policies.", "what", "result")
	s.reloadFailed = s.gauge("keyhole_reload_failed", "1 while the files cannot be used and the old contents serve on.", "what")
	for _, what := range []string{"tls", "auth", "policies"} { // there from the start, for alarms to watch
		s.reloadFailed.WithLabelValues(what)
		for _, result := range []string{"ok", "error"} {
			s.reloads.WithLabelValues(what, result)
		}
	}
	s.certExpiry = s.gauge("keyhole_tls_certificate_expiry_timestamp_seconds", "When the server's certificate expires, Unix time.").WithLabelValues()
	s.deliveries = s.counter("keyhole_webhook_deliveries_total", "Attempts to deliver an event: delivered, failed (tried again) or dead (given up).", "webhook", "result")
	s.reservations = s.counter("keyhole_usage_reservations_total", "Writes of usage counters to the store.", "result")
	for _, result := range []string{"ok", "error"} {
		s.reservations.WithLabelValues(result)
	}
	s.streams = s.gauge("keyhole_event_streams", "Event streams that are open.").WithLabelValues()
	s.checkpoints = s.counter("keyhole_audit_checkpoints_total", "Attempts to sign a checkpoint of the audit log.", "result")
	for _, result := range []string{"ok", "error"} {
		s.checkpoints.WithLabelValues(result)
	}
	s.exported = s.counter("keyhole_audit_exported_records_total", "Audit records that the other side has taken.", "export")
	s.exportFailed = s.counter("keyhole_audit_export_failures_total", "Attempts to send audit records that failed; they are tried again.", "export")
	return s
}

func (s *Set) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	s.registry.MustRegister(v)
	return v
}

func (s *Set) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	s.registry.MustRegister(v)
	return v
}

func (s *Set) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	s.registry.MustRegister(v)
	return v
}

// Handler serves the metrics.
func (s *Set) Handler() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{Registry: s.registry, MaxRequestsInFlight: 4, Timeout: 20 * time.Second})
}

var methods = []string{
	http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions,
}

// Request is rest.Config.Observe. route is the route's template, "" if the
// request matched none.
func (s *Set) Request(route, method string, code int, d time.Duration) {
	if route == "" {
		route = "none"
	}
	if !slices.Contains(methods, method) {
		method = "other" // the caller's own text
	}
	o := s.requests.get(request{route, method, code})
	o.count.Inc()
	o.seconds.Observe(d.Seconds())
}

// HSMCall is hsm.Config.Observe.
func (s *Set) HSMCall(function, token, result string, d time.Duration) {
	o := s.calls.get(call{function, token, result})
	o.count.Inc()
	o.seconds.Observe(d.Seconds())
}

// AuditCommit is audit.Config.Observe.
func (s *Set) AuditCommit(records int, d time.Duration, err error) {
	s.auditCommit.Observe(d.Seconds())
	if err != nil {
		s.auditFailed.Inc()
		return
	}
	s.auditRecords.Add(float64(records))
}

// Reload counts a reload of "tls", "auth" or "policies".
func (s *Set) Reload(what string, err error) {
	result, failed := "ok", 0.0
	if err != nil {
		result, failed = "error", 1
	}
	s.reloads.WithLabelValues(what, result).Inc()
	s.reloadFailed.WithLabelValues(what).Set(failed)
}

// CertificateExpiry notes when the server's certificate expires.
func (s *Set) CertificateExpiry(t time.Time) { s.certExpiry.Set(float64(t.Unix())) }

// Authenticator wraps a, so that its failures are counted.
func (s *Set) Authenticator(a gateway.Authenticator) gateway.Authenticator {
	return &countingAuthenticator{a, s}
}

type countingAuthenticator struct {
	inner gateway.Authenticator
	set   *Set
}

func (c *countingAuthenticator) Authenticate(ctx context.Context, cr authz.Credentials) (authz.Principal, error) {
	p, err := c.inner.Authenticate(ctx, cr)
	if err != nil {
		reason := "unavailable" // no verdict: the JWKS could not be had, or the caller left
		if f, ok := errors.AsType[*authz.Failure](err); ok {
			reason = f.Reason
		}
		c.set.failures.get(reason).Inc()
	}
	return p, err
}
