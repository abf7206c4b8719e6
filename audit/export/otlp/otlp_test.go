package otlp_test

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"keyhole/audit"
	"keyhole/audit/export"
	"keyhole/audit/export/otlp"
)

// receiver speaks the collector's side of the protocol.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	fail    int // answers with 503 so many times
	records []*logs.LogRecord
	service string
	bad     []string
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewTLSServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail > 0 {
		r.fail--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if req.URL.Path != "/v1/logs" || req.Header.Get("Authorization") != "Bearer secret" {
		r.bad = append(r.bad, fmt.Sprint(req.URL, " ", len(req.Header.Get("Authorization"))))
	}
	z, err := gzip.NewReader(req.Body)
	if err != nil {
		r.bad = append(r.bad, err.Error())
		return
	}
	b, err := io.ReadAll(z)
	var in collector.ExportLogsServiceRequest
	if err == nil {
		err = proto.Unmarshal(b, &in)
	}
	if err != nil {
		r.bad = append(r.bad, err.Error())
		return
	}
	for _, res := range in.ResourceLogs {
		r.service = attribute(res.Resource.Attributes, "service.name")
		for _, scope := range res.ScopeLogs {
			r.records = append(r.records, scope.LogRecords...)
		}
	}
	out, err := proto.Marshal(&collector.ExportLogsServiceResponse{})
	if err != nil {
		r.bad = append(r.bad, err.Error())
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(out)
}

func attribute(all []*common.KeyValue, name string) string {
	for _, a := range all {
		if a.Key == name {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func (r *receiver) got() []*logs.LogRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*logs.LogRecord(nil), r.records...)
}

func run(t *testing.T, r *receiver, ocsf bool, fill func(*audit.Log)) *export.Exporter {
	t.Helper()
	dir := t.TempDir()
	l, err := audit.Open(audit.Config{Dir: dir, Node: "node-1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	pool := x509.NewCertPool()
	pool.AddCert(r.Certificate())
	sink, err := otlp.New(t.Context(), otlp.Config{
		URL: r.URL + "/v1/logs", TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, Headers: map[string]string{"Authorization": "Bearer secret"},
		Node: "node-1", Version: "v1", OCSF: ocsf,
	})
	if err != nil {
		t.Fatal(err)
	}
	fill(l)
	e, err := export.New(export.Config{Dir: dir, Name: "otlp", Sink: sink, Size: l.Size, Log: slog.New(slog.DiscardHandler), Batch: 10})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	deadline := time.Now().Add(30 * time.Second)
	for e.Status().Lag > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%+v after 30 seconds", e.Status())
		}
		time.Sleep(5 * time.Millisecond)
	}
	return e
}

func TestExport(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.fail = 1
	run(t, r, false, func(l *audit.Log) {
		for i := range 25 {
			if _, err := l.Append(t.Context(), audit.Record{
				Action: "sign", Key: "payments", KeyID: "payments.v3", Principal: "jwt:corp:alice", Source: "10.0.0.1", Outcome: audit.OutcomeDenied,
				Reason: "forbidden", RequestID: fmt.Sprint("r", i), Details: map[string]string{"long": strings.Repeat("x", 1000)},
			}); err != nil {
				t.Fatal(err)
			}
		}
	})
	got := r.got()
	if len(got) != 25 || len(r.bad) != 0 || r.service != "keyhole" {
		t.Fatalf("%d records from %q, bad requests %v", len(got), r.service, r.bad)
	}
	for i, g := range got {
		rec, err := audit.ParseLine([]byte(g.Body.GetStringValue() + "\n"))
		if err != nil || rec.Seq != uint64(i) || rec.RequestID != fmt.Sprint("r", i) || len(rec.Details["long"]) != 1000 {
			t.Fatalf("record %d: %+v, %v", i, rec, err)
		}
		if attribute(g.Attributes, "keyhole.kid") != "payments.v3" || attribute(g.Attributes, "enduser.id") != "jwt:corp:alice" ||
			g.SeverityText != "WARN" || g.EventName != "keyhole.audit.sign" || int64(g.TimeUnixNano) != rec.Time.UnixNano() {
			t.Fatalf("%v", g)
		}
	}
}

func TestExportOCSF(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	run(t, r, true, func(l *audit.Log) {
		if _, err := l.Append(t.Context(), audit.Record{Action: "sign", Outcome: audit.OutcomeOK}); err != nil {
			t.Fatal(err)
		}
	})
	if got := r.got(); len(got) != 1 || !strings.HasPrefix(got[0].Body.GetStringValue(), `{"class_uid":6003,`) {
		t.Errorf("%v", got)
	}
}
