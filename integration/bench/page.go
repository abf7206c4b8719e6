package main

import (
	"bytes"
	"fmt"
)

// goals are the figures to reach, by row: the gateway's throughput as a part
// of the bare handler's or of the raw loop's.
var goals = map[string]struct {
	bare, raw float64 // 0: none
}{
	"sign-es256-c16":      {bare: 1},
	"sign-rs256-2048-c16": {raw: 0.9},
	"encrypt-1k-c16":      {bare: 0.9},
	"batch100-es256":      {raw: 0.9},
}

// page is the results for people, in Markdown.
func (r *results) page(picture string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Benchmarks\n\nWritten by `make bench` on %s, commit %s, on %s shared with others, load generator included. The ratios are what to compare: all rivals\n"+
		"work in one run, in turn, and each ratio is the median of the rounds.\n\n", r.Date, r.Commit, r.Machine)
	b.WriteString("The *bare handler* is net/http, encoding/json and one miekg/pkcs11 session per request from a channel: it authenticates nobody, decides nothing and records\n" +
		"nothing. The *raw loop* calls C_Sign or C_Encrypt on the same token, on as many threads as the row has connections. The gateway does TLS, JWT, policy, usage\n" +
		"counting and durable audit for every operation.\n")
	if len(r.Rows) > 0 {
		b.WriteString("\n| row | gateway/s | of bare | of raw | goal | p50 ms | p99 ms | CPU per operation | largest memory so far |\n|---|---|---|---|---|---|---|---|---|\n")
		for _, row := range r.Rows {
			fmt.Fprintf(&b, "| %s | %.0f | %.2f ± %.2f | %.2f | %s | %.2f | %.2f | %.0f µs | %.0f MiB |\n",
				row.Name, row.Gateway, row.VsBare, row.Spread/2, row.VsRaw, goal(row), row.P50, row.P99, row.CPU, row.Memory)
		}
	}
	for _, c := range r.Curves {
		fmt.Fprintf(&b, "\n## Latency against load (%s)\n\nArrivals at a constant rate; a latency runs from the moment at which the request was due. The gateway does %.0f/s at most here.\n\n"+
			"| load | requests/s | p50 ms | p99 ms | bare p50 | bare p99 |\n|---|---|---|---|---|---|\n", c.Name, c.Max)
		for _, p := range c.Points {
			fmt.Fprintf(&b, "| %.0f%% | %.0f | %.2f | %.2f | %.2f | %.2f |\n", 100*p.Load, p.Rate, p.GatewayP50, p.GatewayP99, p.BareP50, p.BareP99)
		}
		if p, ok := c.half(); ok {
			fmt.Fprintf(&b, "\nAt half load the gateway adds %.2f ms to the median and %.2f ms to the 99th percentile (goals: 0.3 and 2).\n", p.GatewayP50-p.BareP50, p.GatewayP99-p.BareP99)
		}
		fmt.Fprintf(&b, "\n![latency against load](%s)\n", picture)
	}
	if len(r.Audit) > 0 {
		b.WriteString("\n## What the durable audit log costs\n\nThe same gateway with its log on the disk and on a memory file system (goals: at least 0.85 of the throughput at 16 connections, at most\n" +
			"0.5 ms on top of an fsync at one).\n\n| row | disk/s | memory/s | ratio | disk p50 ms | memory p50 ms | an fsync ms | beyond it ms |\n|---|---|---|---|---|---|---|---|\n")
		for _, a := range r.Audit {
			fmt.Fprintf(&b, "| %s | %.0f | %.0f | %.2f ± %.2f | %.2f | %.2f | %.2f | %.2f |\n", a.Name, a.Disk, a.Memory, a.Throughput, a.Spread/2, a.DiskP50, a.MemoryP50, a.FsyncP50, a.BeyondP50)
		}
	}
	return b.Bytes()
}

func goal(r report) string {
	switch g := goals[r.Name]; {
	case g.bare > 0:
		return fmt.Sprintf("%.2f of bare", g.bare)
	case g.raw > 0:
		return fmt.Sprintf("%.2f of raw", g.raw)
	}
	return ""
}
