package audit_test

import (
	"log/slog"
	"os"
	"strconv"
	"testing"

	"keyhole/audit"
	"keyhole/audit/checkpoint"
)

// manyRecords is how long the log of BenchmarkOpenVouched is: a million, or
// as KEYHOLE_BENCH_RECORDS says (`make bench-open`).
func manyRecords(b *testing.B) int {
	b.Helper()
	s := os.Getenv("KEYHOLE_BENCH_RECORDS")
	if s == "" {
		return 1_000_000
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1000 {
		b.Fatalf("KEYHOLE_BENCH_RECORDS is %q", s)
	}
	return n
}

// BenchmarkOpenVouched opens a long log as a gateway finds it after a crash:
// a checkpoint, and a minute's worth of records behind it (6,000, a hundred a
// second).
func BenchmarkOpenVouched(b *testing.B) {
	dir := b.TempDir()
	c := audit.Config{Dir: dir, Node: "gateway-1", Log: slog.New(slog.DiscardHandler)}
	l, err := audit.Open(c)
	if err != nil {
		b.Fatal(err)
	}
	many := make([]audit.Record, 1000)
	for i := range many {
		many[i] = typical()
	}
	write := func(n int) {
		for range n / len(many) {
			if _, err := l.Append(b.Context(), many...); err != nil {
				b.Fatal(err)
			}
		}
	}
	n := manyRecords(b)
	write(n)
	key := newAuditKey(b, "keyhole-audit.v1")
	if _, _, err := l.Checkpoint(key); err != nil {
		b.Fatal(err)
	}
	write(6000)
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	c.Keys = checkpoint.NewKeys(key.Key)
	for b.Loop() {
		l, err := audit.Open(c)
		if err != nil {
			b.Fatal(err)
		}
		if l.Size() != uint64(n/1000*1000+6000) {
			b.Fatalf("it has %d records", l.Size())
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n), "records")
}
