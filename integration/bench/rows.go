package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"time"

	"keyhole/gateway/api"
)

// row is one line of the table: an operation, how many connections ask for
// it, and how many operations a request holds.
type row struct {
	name  string
	op    string // es256, rs256, encrypt
	size  int    // payload, bytes
	conns int
	batch int // 0: one per request
}

var allRows = []row{
	{"sign-es256-c1", "es256", 64, 1, 0},
	{"sign-es256-c16", "es256", 64, 16, 0},
	{"sign-rs256-2048-c16", "rs256", 64, 16, 0},
	{"encrypt-1k-c16", "encrypt", 1024, 16, 0},
	{"batch100-es256", "es256", 64, 4, 100},
	{"batch100-encrypt-1k", "encrypt", 1024, 4, 100},
}

// auditRows are measured with the audit log on a disk and in memory.
var auditRows = []row{
	{"audit-cost-es256-c1", "es256", 64, 1, 0},
	{"audit-cost-es256-c16", "es256", 64, 16, 0},
}

// curveRows are measured for their latency against load.
var curveRows = []row{
	{"latency-es256", "es256", 64, 0, 0},
}

// selection is what is to be measured.
type selection struct{ rows, curves, costs []row }

func selectRows(pattern string) (s selection, err error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return s, err
	}
	matching := func(all []row) []row {
		return slices.DeleteFunc(slices.Clone(all), func(r row) bool { return !re.MatchString(r.name) })
	}
	s = selection{matching(allRows), matching(curveRows), matching(auditRows)}
	if len(s.rows)+len(s.curves)+len(s.costs) == 0 {
		return s, fmt.Errorf("no row matches %q", pattern)
	}
	return s, nil
}

// gatewayPath and barePath are where the rivals do the row's work.
func (r row) gatewayPath() string {
	act := "sign"
	if r.op == "encrypt" {
		act = "encrypt"
	}
	path := "/v1/keys/" + benchKeys[r.op].Name + "/" + act
	if r.batch > 0 {
		path += "/batch"
	}
	return path
}

func (r row) barePath() string {
	if r.batch > 0 {
		return "/" + r.op + "/batch"
	}
	return "/" + r.op
}

// body is the request that both servers get.
func (r row) body() ([]byte, error) {
	payload := make([]byte, r.size)
	var item any = api.SignRequest{Payload: payload}
	if r.op == "encrypt" {
		item = api.EncryptRequest{Plaintext: payload}
	}
	if r.batch == 0 {
		return json.Marshal(item)
	}
	items := make([]any, r.batch)
	for i := range items {
		items[i] = item
	}
	return json.Marshal(api.BatchRequest[any]{Items: items})
}

// measure gives each rival its turn, rounds times over.
func (a *arena) measure(ctx context.Context, r row, rounds int, d time.Duration) (report, error) {
	body, err := r.body()
	if err != nil {
		return report{}, err
	}
	per := max(1, r.batch)
	var gateway, bare []result
	var rawRates, cpu []float64
	for range rounds {
		before, err := cpuOf(a.gateway.Process.Pid)
		if err != nil {
			return report{}, err
		}
		g, err := load(ctx, a.target, r.gatewayPath(), body, r.conns, per, d)
		if err != nil {
			return report{}, fmt.Errorf("gateway: %w", err)
		}
		after, err := cpuOf(a.gateway.Process.Pid)
		if err != nil {
			return report{}, err
		}
		cpu = append(cpu, float64((after-before).Microseconds())/(g.perSecond*d.Seconds()))
		b, err := load(ctx, a.bare, r.barePath(), body, r.conns, per, d)
		if err != nil {
			return report{}, fmt.Errorf("bare handler: %w", err)
		}
		n, err := a.rawRate(ctx, r.op, r.size, r.conns, d)
		if err != nil {
			return report{}, fmt.Errorf("raw loop: %w", err)
		}
		gateway, bare, rawRates = append(gateway, g), append(bare, b), append(rawRates, n)
	}
	if err := ctx.Err(); err != nil {
		return report{}, err
	}
	rep := newReport(r.name, gateway, bare, rawRates)
	rep.CPU = round(median(cpu), 1)
	rep.Memory, err = memoryOf(a.gateway.Process.Pid)
	rep.Memory = round(rep.Memory, 0)
	return rep, err
}
