package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

// auditReport is what the disk under the audit log costs: the same load on
// two gateways, one with its audit log on the disk and one in memory, in
// turn. The work of encoding, hashing and writing is in both. Medians over
// the rounds; ratios are of the two turns of a round.
type auditReport struct {
	Name       string  `json:"name"`
	Disk       float64 `json:"disk"`             // operations per second
	Memory     float64 `json:"memory"`           // the same
	Throughput float64 `json:"throughput_ratio"` // disk to memory
	Spread     float64 `json:"spread"`           // of it: largest less smallest
	DiskP50    float64 `json:"disk_p50_ms"`
	MemoryP50  float64 `json:"memory_p50_ms"`
	FsyncP50   float64 `json:"fsync_p50_ms"` // of a line of 512 bytes and its fsync, by itself
	BeyondP50  float64 `json:"beyond_fsync_p50_ms"`
}

// auditCost measures the rows. memory is a directory on a memory file system.
func (a *arena) auditCost(ctx context.Context, keyholed, memory string, rows []row, rounds int, d time.Duration) (_ []auditReport, err error) {
	dir, err := os.MkdirTemp(memory, "keyhole-bench-")
	if err != nil {
		return nil, fmt.Errorf("-memory names no directory to write to: %w", err)
	}
	defer os.RemoveAll(dir)
	quick, err := startGateway(ctx, keyholed, a.dir+"-memory", filepath.Join(dir, "audit"))
	if err != nil {
		return nil, err
	}
	defer quick.stop()
	if err := quick.checkGateway(ctx); err != nil {
		return nil, err
	}
	reports := make([]auditReport, len(rows))
	for i, r := range rows {
		body, err := r.body()
		if err != nil {
			return nil, err
		}
		var disk, mem []result
		var syncs []float64
		for range rounds {
			g, err := load(ctx, a.target, r.gatewayPath(), body, r.conns, 1, d)
			if err != nil {
				return nil, fmt.Errorf("%s on the disk: %w", r.name, err)
			}
			m, err := load(ctx, quick.target, r.gatewayPath(), body, r.conns, 1, d)
			if err != nil {
				return nil, fmt.Errorf("%s in memory: %w", r.name, err)
			}
			s, err := fsyncs(ctx, filepath.Join(a.dir, "fsync"), d/4)
			if err != nil {
				return nil, err
			}
			disk, mem, syncs = append(disk, g), append(mem, m), append(syncs, s)
		}
		reports[i] = newAuditReport(r.name, disk, mem, syncs)
	}
	return reports, ctx.Err()
}

func newAuditReport(name string, disk, memory []result, syncs []float64) auditReport {
	var d, m, dp, mp, beyond []float64
	ms := func(r result) float64 { return float64(r.p50) / float64(time.Millisecond) }
	for i := range disk {
		d, m = append(d, disk[i].perSecond), append(m, memory[i].perSecond)
		dp, mp = append(dp, ms(disk[i])), append(mp, ms(memory[i]))
		beyond = append(beyond, dp[i]-mp[i]-syncs[i])
	}
	ratio := ratios(d, m)
	return auditReport{
		Name: name, Disk: round(median(d), 0), Memory: round(median(m), 0),
		Throughput: round(median(ratio), 2), Spread: round(slices.Max(ratio)-slices.Min(ratio), 2),
		DiskP50: round(median(dp), 3), MemoryP50: round(median(mp), 3), FsyncP50: round(median(syncs), 3), BeyondP50: round(median(beyond), 3),
	}
}

// fsyncs returns the median time, in milliseconds, of appending a line to a
// file and an fsync.
func fsyncs(ctx context.Context, path string, d time.Duration) (float64, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close(); _ = os.Remove(path) }()
	line := make([]byte, 512)
	var took []float64
	for end := time.Now().Add(d); len(took) == 0 || ctx.Err() == nil && time.Now().Before(end); {
		start := time.Now()
		if _, err := f.Write(line); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, float64(time.Since(start))/float64(time.Millisecond))
	}
	return median(took), nil
}

func printAudit(w io.Writer, rows []auditReport) {
	if len(rows) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\naudit log\tdisk/s\tmemory/s\tratio\tspread\tdisk p50\tmemory p50\tfsync p50\tbeyond it, ms\t")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n",
			r.Name, r.Disk, r.Memory, r.Throughput, r.Spread, r.DiskP50, r.MemoryP50, r.FsyncP50, r.BeyondP50)
	}
	_ = t.Flush()
}
