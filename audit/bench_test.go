package audit_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"keyhole/audit"
)

func typical() audit.Record {
	return audit.Record{
		RequestID: "01J9ZK3Y7Q8W5R2T4V6X8Z0A1B", Principal: "jwt:corp:payments-api", AuthMethod: "jwt", Source: "192.0.2.17",
		Action: "sign", Key: "payments", Version: 3, KeyID: "payments.v3", Algorithm: "ES256", Policies: []string{"agents-sign"},
		Outcome: audit.OutcomeOK, Size: 512, Duration: 123456 * time.Nanosecond,
	}
}

// BenchmarkFsync is what the disk itself takes: one line, one fsync.
func BenchmarkFsync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	line, err := json.Marshal(typical())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := f.Write(line); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			c := config(b.TempDir())
			commits := 0
			c.Observe = func(int, time.Duration, error) { commits++ }
			l, err := audit.Open(c)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetParallelism((callers + 1) / 2) // times GOMAXPROCS, which is 2 where this is measured
			if callers == 1 {
				for b.Loop() {
					if _, err := l.Append(b.Context(), typical()); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := l.Append(b.Context(), typical()); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/float64(commits), "records/commit")
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	l, err := audit.Open(config(dir))
	if err != nil {
		b.Fatal(err)
	}
	many := make([]audit.Record, 1000)
	for i := range many {
		many[i] = typical()
	}
	for range 50 {
		if _, err := l.Append(b.Context(), many...); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		l, err := audit.Open(config(dir))
		if err != nil {
			b.Fatal(err)
		}
		l.Close()
	}
}

func BenchmarkRead(b *testing.B) {
	dir := b.TempDir()
	l, err := audit.Open(config(dir))
	if err != nil {
		b.Fatal(err)
	}
	many := make([]audit.Record, 1000)
	for i := range many {
		many[i] = typical()
	}
	if _, err := l.Append(b.Context(), many...); err != nil {
		b.Fatal(err)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "00000001.jsonl"))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	for b.Loop() {
		for _, err := range audit.Read(dir) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
