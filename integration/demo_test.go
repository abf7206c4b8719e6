package integration

import (
	"encoding/json"
	"encoding/xml"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// `make demo` goes through all its steps and leaves nothing behind.
func TestDemo(t *testing.T) {
	tmp := t.TempDir()
	s := execute(t, tmp, []string{"KEYHOLE_BIN=" + bin, "TMPDIR=" + tmp}, "", filepath.Join(repo, "integration", "demo.sh"))
	if s.code != 0 {
		t.Fatalf("status %d\n%s%s", s.code, s.out, s.errOut)
	}
	for _, want := range []string{"1. ", "2. ", "3. ", "4. ", "5. ", "6. ", "7. ", "8. ", "9. ", "is good", "ALTERED", "Verified OK", "payments.v1 -> payments.v2", "kh1:customers.v1:", "Done."} {
		if !strings.Contains(s.out, want) {
			t.Errorf("the demonstration does not show %q:\n%s", want, s.out)
		}
	}
	left, err := os.ReadDir(tmp)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("it leaves %v behind", left)
	}
}

// A demonstration whose gateway does not start says so, and why.
func TestDemoFails(t *testing.T) {
	tmp, stub := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(stub, "keyholed"), []byte("#!/bin/sh\necho no HSM today >&2\nexit 3\n"), 0o700))
	s := execute(t, tmp, []string{"KEYHOLE_BIN=" + stub, "TMPDIR=" + tmp}, "", filepath.Join(repo, "integration", "demo.sh"))
	if s.code == 0 || strings.Contains(s.out, "Done.") || !strings.Contains(s.errOut, "keyholed did not start") || !strings.Contains(s.errOut, "no HSM today") {
		t.Errorf("status %d\n%s%s", s.code, s.out, s.errOut)
	}
	left, err := os.ReadDir(tmp)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("it leaves %v behind", left)
	}
}

// The benchmark measures every row that is promised, and writes figures that
// agree with each other. How large they are is not judged here.
func TestBenchmark(t *testing.T) {
	dir := t.TempDir()
	bench, out := filepath.Join(dir, "bench"), filepath.Join(dir, "benchmarks.json")
	if s := execute(t, repo, nil, "", "go", "build", "-o", bench, "./integration/bench"); s.code != 0 {
		t.Fatal(s.errOut)
	}
	s := execute(t, dir, []string{"TMPDIR=" + dir}, "", bench, "-bin", bin, "-duration", "100ms", "-rounds", "1", "-out", out, "-memory", t.TempDir())
	if s.code != 0 {
		t.Fatalf("status %d\n%s%s", s.code, s.out, s.errOut)
	}
	page, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	must(t, err)
	picture, err := os.ReadFile(filepath.Join(dir, "benchmarks-latency.svg"))
	must(t, err)
	if err := xml.Unmarshal(picture, new(struct{})); err != nil {
		t.Errorf("the picture is no XML: %v", err)
	}
	text, err := os.ReadFile(out)
	must(t, err)
	var result struct {
		Machine, Commit, Date string
		Rows                  []struct {
			Name    string
			Gateway float64
			Bare    float64
			Raw     float64
			VsBare  float64 `json:"vs_bare"`
			VsRaw   float64 `json:"vs_raw"`
			P50     float64 `json:"p50_ms"`
			P99     float64 `json:"p99_ms"`
			CPU     float64 `json:"cpu_us"`
			Memory  float64 `json:"memory_mib"`
		}
		Curves []struct {
			Points []struct{ Load, Rate float64 }
		}
		Audit []struct {
			Name         string
			Disk, Memory float64
			Ratio        float64 `json:"throughput_ratio"`
			Fsync        float64 `json:"fsync_p50_ms"`
		}
	}
	must(t, json.Unmarshal(text, &result))
	var names []string
	for _, r := range result.Rows {
		names = append(names, r.Name)
		// The ratios are of the rates before these were rounded to whole numbers.
		apart := func(ratio, a, b float64) bool { return math.Abs(ratio-a/b) > 0.02+(a+b)/(b*b) }
		if r.Gateway <= 0 || r.Bare <= 0 || r.Raw <= 0 || r.P50 <= 0 || r.P99 < r.P50 || apart(r.VsBare, r.Gateway, r.Bare) || apart(r.VsRaw, r.Gateway, r.Raw) {
			t.Errorf("%+v", r)
		}
		if !strings.Contains(s.out, r.Name) || !strings.Contains(string(page), "| "+r.Name+" |") || r.CPU < 0 || r.Memory <= 0 {
			t.Errorf("the table or the page has no row %s, or it lacks something:\n%s", r.Name, s.out)
		}
	}
	if len(result.Curves) != 1 || len(result.Curves[0].Points) < 5 {
		t.Errorf("latency against load: %+v", result.Curves)
	}
	slices.Sort(names)
	promised := []string{"batch100-encrypt-1k", "batch100-es256", "encrypt-1k-c16", "sign-es256-c1", "sign-es256-c16", "sign-rs256-2048-c16"}
	for _, name := range promised {
		if !slices.Contains(names, name) {
			t.Errorf("no row %s in %v", name, names)
		}
	}
	for i, name := range []string{"audit-cost-es256-c1", "audit-cost-es256-c16"} {
		if len(result.Audit) != 2 {
			t.Fatalf("the audit log's costs are %+v", result.Audit)
		}
		r := result.Audit[i]
		if r.Name != name || r.Disk <= 0 || r.Memory <= 0 || r.Fsync <= 0 || math.Abs(r.Ratio-r.Disk/r.Memory) > 0.02 || !strings.Contains(s.out, name) {
			t.Errorf("%+v\n%s", r, s.out)
		}
	}
	if result.Machine == "" || result.Date == "" || result.Commit == "" {
		t.Errorf("what was measured is not said: %+v", result)
	}
	left, err := filepath.Glob(filepath.Join(dir, "keyhole-bench-*"))
	must(t, err)
	if len(left) != 0 {
		t.Errorf("it leaves %v behind", left)
	}
}
