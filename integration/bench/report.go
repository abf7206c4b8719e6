package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is one row of the results. Rates are operations per second, medians
// over the rounds; ratios are medians of the ratios within a round, so that
// a machine that drifts does not decide them.
type report struct {
	Name    string  `json:"name"`
	Gateway float64 `json:"gateway"`
	Bare    float64 `json:"bare"`
	Raw     float64 `json:"raw"`
	VsBare  float64 `json:"vs_bare"`
	VsRaw   float64 `json:"vs_raw"`
	P50     float64 `json:"p50_ms"` // of the gateway's requests
	P99     float64 `json:"p99_ms"`
	BareP50 float64 `json:"bare_p50_ms"`
	BareP99 float64 `json:"bare_p99_ms"`
	Spread  float64 `json:"spread"`     // of vs_bare: largest less smallest
	CPU     float64 `json:"cpu_us"`     // processor time of the gateway per operation
	Memory  float64 `json:"memory_mib"` // the largest resident set of the gateway so far
}

func newReport(name string, gateway, bare []result, raw []float64) report {
	column := func(rs []result, f func(result) float64) []float64 {
		out := make([]float64, len(rs))
		for i, r := range rs {
			out[i] = f(r)
		}
		return out
	}
	rate := func(r result) float64 { return r.perSecond }
	p50 := func(r result) float64 { return float64(r.p50) / float64(time.Millisecond) }
	p99 := func(r result) float64 { return float64(r.p99) / float64(time.Millisecond) }
	g, b := column(gateway, rate), column(bare, rate)
	vsBare, vsRaw := ratios(g, b), ratios(g, raw)
	return report{
		Name: name, Gateway: round(median(g), 0), Bare: round(median(b), 0), Raw: round(median(raw), 0),
		VsBare: round(median(vsBare), 2), VsRaw: round(median(vsRaw), 2),
		P50: round(median(column(gateway, p50)), 3), P99: round(median(column(gateway, p99)), 3),
		BareP50: round(median(column(bare, p50)), 3), BareP99: round(median(column(bare, p99)), 3),
		Spread: round(slices.Max(vsBare)-slices.Min(vsBare), 2),
	}
}

func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}

func median(xs []float64) float64 {
	s := slices.Sorted(slices.Values(xs))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

func round(x float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(x*p) / p
}

func printTable(w io.Writer, rows []report) {
	if len(rows) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "row\tgateway/s\tbare/s\traw/s\tvs bare\tspread\tvs raw\tp50 ms\tp99 ms\tbare p50\tbare p99\tCPU us\tMiB\t")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f\t\n",
			r.Name, r.Gateway, r.Bare, r.Raw, r.VsBare, r.Spread, r.VsRaw, r.P50, r.P99, r.BareP50, r.BareP99, r.CPU, r.Memory)
	}
	_ = t.Flush()
}

// results are all that one run has measured.
type results struct {
	Machine string        `json:"machine"`
	Commit  string        `json:"commit"`
	Date    string        `json:"date"`
	Rows    []report      `json:"rows"`
	Curves  []curveReport `json:"curves"`
	Audit   []auditReport `json:"audit"`
}

func newResults(commit string) *results {
	return &results{
		Machine: fmt.Sprintf("%s/%s, %d processors, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version()),
		Commit:  commit, Date: time.Now().UTC().Format(time.DateOnly),
	}
}

func (r *results) print(w io.Writer) {
	printTable(w, r.Rows)
	printCurves(w, r.Curves)
	printAudit(w, r.Audit)
}

// write keeps the results as JSON in path and, for people, as a page and a
// picture beside it.
func (r *results) write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	base := strings.TrimSuffix(path, filepath.Ext(path))
	picture := base + "-latency.svg"
	err = os.WriteFile(path, append(b, '\n'), 0o644)
	if err == nil && len(r.Curves) > 0 {
		err = os.WriteFile(picture, plot(r.Curves[0]), 0o644)
	}
	if err == nil {
		err = os.WriteFile(base+".md", r.page(filepath.Base(picture)), 0o644)
	}
	return err
}
