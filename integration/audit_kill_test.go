package integration

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit"
	"keyhole/audit/checkpoint"
)

// kills is how often the soak test kills the gateway: a few, or as often as
// `make soak-audit` says.
func kills(t *testing.T) int {
	t.Helper()
	s := os.Getenv("KEYHOLE_AUDIT_KILLS")
	if s == "" {
		return 6
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("KEYHOLE_AUDIT_KILLS is %q", s)
	}
	return n
}

// promise is what an answer promises to be in the log.
type promise struct {
	outcome string
	records int
}

// promises are the answers that were given, by request id.
type promises struct {
	mu    sync.Mutex
	given map[string]promise
	odd   []answer // answers that nobody should get
}

func (p *promises) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.given)
}

// load sends requests until the gateway is gone: signatures one by one and a
// hundred at a time, and what is denied.
func (p *promises) load(g *gateway) *sync.WaitGroup {
	const one = `{"payload":"aGVsbG8="}`
	batch := `{"items":[` + strings.Repeat(one+",", 99) + one + `]}`
	token := g.line(agent + ".jwt")
	var wg sync.WaitGroup
	for _, work := range []struct {
		path, body string
		status     int
		promise
	}{
		{"/v1/keys/payments/sign", one, http.StatusOK, promise{audit.OutcomeOK, 1}},
		{"/v1/keys/payments/sign", one, http.StatusOK, promise{audit.OutcomeOK, 1}},
		{"/v1/keys/payments/sign/batch", batch, http.StatusOK, promise{audit.OutcomeOK, 100}},
		{"/v1/admin/keys/payments/rotate", "{}", http.StatusForbidden, promise{audit.OutcomeDenied, 1}},
	} {
		wg.Go(func() {
			for {
				a, err := g.tryCall(g.http, token, http.MethodPost, work.path, work.body)
				if err != nil {
					return
				}
				p.mu.Lock()
				if a.status == work.status {
					p.given[a.requestID()] = work.promise
				} else {
					p.odd = append(p.odd, a)
				}
				p.mu.Unlock()
			}
		})
	}
	return &wg
}

// losePower does to a killed gateway's log what a loss of power may do and
// kill -9 rarely does: the last line is written in part, and the hashes
// behind the last checkpoint, which are not synced, are gone.
func (g *gateway) losePower(rng *rand.Rand) {
	g.t.Helper()
	files, err := filepath.Glob(g.path("audit/*.jsonl"))
	must(g.t, err)
	last := files[len(files)-1]
	records := g.records()
	line := fmt.Sprintf(`{"seq":%d,"time":"2026-01-02T03:04:05.000000006Z","node":"dev","action":"sign"`, records[len(records)-1].Seq+1)
	f, err := os.OpenFile(last, os.O_WRONLY|os.O_APPEND, 0)
	must(g.t, err)
	defer f.Close()
	_, err = f.WriteString(line[:1+rng.IntN(len(line)-1)])
	must(g.t, err)
	signed, err := checkpoint.Last(g.path("audit/checkpoints"))
	must(g.t, err)
	c, err := checkpoint.Peek(signed)
	must(g.t, err)
	must(g.t, os.Truncate(g.path("audit/hashes"), tlog.StoredHashCount(c.Size)*tlog.HashSize))
}

// A gateway is killed at random moments under load. Each answer that was
// given is in the log, with as many records as it promised; the log verifies
// after each kill and holds every checkpoint that an auditor took meanwhile;
// unfinished lines are cut, and the cuts recorded.
func TestAuditSurvivesKills(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	g := stopped(t)
	g.edit("keyhole.yaml", "  dir: audit\n", "  dir: audit\n  checkpoint_every: 1s\n  segment_size: 1MiB\n")
	g.start()
	g.create("payments", "ES256", 0)
	p := &promises{given: map[string]promise{}}
	kept := t.TempDir()
	var since []string
	cuts := 0
	for round := range kills(t) {
		wg := p.load(g)
		moment := p.count() + 1 + rng.IntN(300)
		eventually(t, "the gateway is at work", func() bool {
			g.alive()
			return p.count() >= moment
		})
		g.kill()
		wg.Wait()
		g.whole(since...)
		if round%2 == 1 {
			g.losePower(rng)
			cuts++
		}
		copyFile(t, g.path("audit/checkpoints"), filepath.Join(kept, strconv.Itoa(round)))
		since = []string{"--since-checkpoint", filepath.Join(kept, strconv.Itoa(round))}
		g.start()
	}
	g.stop()
	for round := range kills(t) {
		since = append(since, "--since-checkpoint", filepath.Join(kept, strconv.Itoa(round)))
	}
	if r := g.whole(since...); r.Vouched != r.Records || r.Torn {
		t.Errorf("after an orderly stop: %+v", r)
	}
	p.check(t, g, cuts)
}

func (p *promises) check(t *testing.T, g *gateway, cuts int) {
	for _, a := range p.odd {
		t.Errorf("%s: %d %s", a.what, a.status, a.body)
	}
	recorded := map[string]promise{}
	repaired := 0
	for _, r := range g.records() {
		if r.Action == audit.ActionRecover && r.Details["bytes_cut"] != "" {
			repaired++
		}
		if _, ok := p.given[r.RequestID]; ok {
			recorded[r.RequestID] = promise{r.Outcome, recorded[r.RequestID].records + 1}
		}
	}
	for id, want := range p.given {
		if got := recorded[id]; got != want {
			t.Errorf("request %s was answered, which promises %+v; the log has %+v", id, want, got)
		}
	}
	if repaired < cuts {
		t.Errorf("%d unfinished lines were left, and %d cuts are recorded", cuts, repaired)
	}
	t.Logf("%d answers, %d records, %d lines cut", len(p.given), len(g.records()), repaired)
}

// The disk is full under load: nothing is answered that is not recorded, and
// what is there verifies, during the outage and after it.
func TestAuditOnAFullDisk(t *testing.T) {
	g := stopped(t)
	g.edit("keyhole.yaml", "  dir: audit\n", "  dir: audit\n  checkpoint_every: 1s\n")
	g.start()
	g.create("payments", "ES256", 0)
	p := &promises{given: map[string]promise{}}
	wg := p.load(g)
	odd := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.odd)
	}
	eventually(t, "the gateway is at work", func() bool { return p.count() > 20 })
	g.room(g.auditSize() + 10_000)
	eventually(t, "requests fail", func() bool { return odd() > 20 })
	if status, body := g.page("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, `"audit"`) {
		t.Errorf("readyz: %d %s", status, body)
	}
	before := p.count()
	g.whole()
	g.room(1 << 40)
	eventually(t, "requests are answered again", func() bool { return p.count() > before+20 })
	g.kill()
	wg.Wait()
	g.start()
	g.stop()
	g.whole()
	for _, a := range p.odd {
		a.refused(http.StatusServiceUnavailable, "audit_unavailable")
	}
	p.odd = nil
	p.check(t, g, 0)
	if !slices.ContainsFunc(g.records(), func(r audit.Record) bool {
		return r.Action == audit.ActionRecover && r.Details["error"] != ""
	}) {
		t.Error("the outage is not recorded")
	}
}
