// Package otlp sends audit records as OpenTelemetry logs (OTLP over HTTP,
// protobuf). The body is the record's line, or its OCSF event; the attributes
// carry what one searches by.
//
// A batch is sent by the caller's goroutine and counts as taken when the
// collector has answered so: the SDK's own batch processor drops what it has
// no room for.
package otlp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/log"
	sdk "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"

	"keyhole/audit"
	"keyhole/audit/export"
	"keyhole/audit/export/ocsf"
)

// Config says where to. URL is required.
type Config struct {
	URL     string // with its path, such as https://collector:4318/v1/logs
	TLS     *tls.Config
	Headers map[string]string // of each request; they may hold secrets
	Node    string
	Version string
	OCSF    bool
	Timeout time.Duration
}

// Sink implements export.Sink.
type Sink struct {
	ocsf     bool
	timeout  time.Duration
	exporter sdk.Exporter
	provider *sdk.LoggerProvider
	logger   log.Logger
	batch    *batch
}

// New returns a sink. It does not connect.
func New(ctx context.Context, c Config) (*Sink, error) {
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	options := []otlploghttp.Option{
		otlploghttp.WithEndpointURL(c.URL), otlploghttp.WithHeaders(c.Headers), otlploghttp.WithTimeout(c.Timeout),
		otlploghttp.WithCompression(otlploghttp.GzipCompression),
		otlploghttp.WithRetry(otlploghttp.RetryConfig{Enabled: false}), // the exporter of the log tries again
	}
	options = append(options, otlploghttp.WithHTTPClient(newClient(c.TLS, c.Timeout)))
	exporter, err := otlploghttp.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("preparing OTLP export: %w", err)
	}
	b := &batch{}
	provider := sdk.NewLoggerProvider(sdk.WithProcessor(b), sdk.WithAttributeValueLengthLimit(-1), sdk.WithResource(resource.NewSchemaless(
		attribute.String("service.name", "keyhole"), attribute.String("service.version", c.Version), attribute.String("service.instance.id", c.Node))))
	return &Sink{ocsf: c.OCSF, timeout: c.Timeout, exporter: exporter, provider: provider, logger: provider.Logger("keyhole/audit"), batch: b}, nil
}

// Rewind implements export.Sink: what the collector has answered for is its.
func (s *Sink) Rewind() uint64 { return 0 }

// Send implements export.Sink.
func (s *Sink) Send(ctx context.Context, entries []export.Entry) error {
	s.batch.records = s.batch.records[:0]
	for i := range entries {
		r, err := s.record(&entries[i])
		if err != nil {
			return err
		}
		s.logger.Emit(ctx, r)
	}
	if len(s.batch.records) != len(entries) {
		return fmt.Errorf("the OpenTelemetry SDK took %d of %d records", len(s.batch.records), len(entries))
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := s.exporter.Export(ctx, s.batch.records); err != nil {
		return fmt.Errorf("sending audit records by OTLP: %w", err)
	}
	return nil
}

// Close implements export.Sink.
func (s *Sink) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	return errors.Join(s.provider.Shutdown(ctx), s.exporter.Shutdown(ctx))
}

func (s *Sink) record(e *export.Entry) (log.Record, error) {
	r := &e.Record
	var out log.Record
	body := e.Line
	if s.ocsf {
		var err error
		if body, err = ocsf.Event(*r, e.Line); err != nil {
			return out, err
		}
	}
	out.SetTimestamp(r.Time)
	out.SetEventName("keyhole.audit." + r.Action)
	out.SetBody(attribute.StringValue(string(body)))
	severity, text := severity(r)
	out.SetSeverity(severity)
	out.SetSeverityText(text)
	attrs := []attribute.KeyValue{
		attribute.Int64("keyhole.audit.seq", int64(r.Seq)), attribute.String("keyhole.action", r.Action), attribute.String("keyhole.outcome", r.Outcome),
	}
	for _, a := range []struct{ name, value string }{
		{"keyhole.key", r.Key}, {"keyhole.kid", r.KeyID}, {"keyhole.reason", r.Reason}, {"keyhole.request_id", r.RequestID},
		{"enduser.id", r.Principal}, {"client.address", r.Source},
	} {
		if a.value != "" {
			attrs = append(attrs, attribute.String(a.name, a.value))
		}
	}
	out.AddAttributes(attrs...)
	return out, nil
}

func severity(r *audit.Record) (log.Severity, string) {
	switch r.Outcome {
	case audit.OutcomeDenied:
		return log.SeverityWarn, "WARN"
	case audit.OutcomeError:
		return log.SeverityError, "ERROR"
	}
	return log.SeverityInfo, "INFO"
}

// batch is a log processor that keeps what is emitted until it is sent.
type batch struct{ records []sdk.Record }

func (b *batch) OnEmit(_ context.Context, r *sdk.Record) error {
	b.records = append(b.records, r.Clone())
	return nil
}

func (*batch) Shutdown(context.Context) error   { return nil }
func (*batch) ForceFlush(context.Context) error { return nil }

func (*batch) Enabled(context.Context, sdk.EnabledParameters) bool { return true }
