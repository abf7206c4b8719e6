package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/authz"
	"keyhole/keys"
	"keyhole/store"
	"keyhole/usage"
)

// page returns what /metrics shows.
func page(t *testing.T, s *Set) string {
	t.Helper()
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d, %v: %s", resp.StatusCode, err, body)
	}
	return string(body)
}

func expect(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, want := range lines {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no line %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestCounting(t *testing.T) {
	t.Parallel()
	s := New("v1", "abc")
	s.Request("/v1/keys/{key}/sign", "POST", 200, 3*time.Millisecond)
	s.Request("/v1/keys/{key}/sign", "POST", 200, time.Second)
	s.Request("", "BREW", 404, time.Millisecond)
	s.HSMCall("Sign", "main", "ok", 200*time.Microsecond)
	s.HSMCall("Sign", "main", "CKR_DEVICE_ERROR", time.Millisecond)
	s.AuditCommit(3, time.Millisecond, nil)
	s.AuditCommit(2, time.Millisecond, errors.New("disk full"))
	s.Reload("tls", nil)
	s.Reload("policies", errors.New("bad"))
	s.CertificateExpiry(time.Unix(1234, 0))
	expect(t, page(t, s),
		`keyhole_build_info{revision="abc",version="v1"} 1`,
		`keyhole_http_requests_total{code="200",method="POST",route="/v1/keys/{key}/sign"} 2`,
		`keyhole_http_requests_total{code="404",method="other",route="none"} 1`,
		`keyhole_http_request_duration_seconds_bucket{route="/v1/keys/{key}/sign",le="0.005"} 1`,
		`keyhole_http_request_duration_seconds_count{route="/v1/keys/{key}/sign"} 2`,
		`keyhole_hsm_calls_total{function="Sign",result="ok",token="main"} 1`,
		`keyhole_hsm_calls_total{function="Sign",result="CKR_DEVICE_ERROR",token="main"} 1`,
		`keyhole_hsm_call_duration_seconds_count{function="Sign",token="main"} 2`,
		`keyhole_audit_commit_seconds_count 2`,
		`keyhole_audit_records_total 3`,
		`keyhole_audit_commit_failures_total 1`,
		`keyhole_reloads_total{result="ok",what="tls"} 1`,
		`keyhole_reload_failed{what="tls"} 0`,
		`keyhole_reload_failed{what="policies"} 1`,
		`keyhole_tls_certificate_expiry_timestamp_seconds 1234`,
	)
	s.Reload("policies", nil)
	expect(t, page(t, s), `keyhole_reload_failed{what="policies"} 0`)
}

// brokenStore counts nothing.
type brokenStore struct {
	usage.Store
	err error
}

func (b *brokenStore) ReserveUsage(context.Context, string, []keys.Usage) error { return b.err }

func TestLifeCycle(t *testing.T) {
	t.Parallel()
	s := New("v1", "abc")
	expect(t, page(t, s), `keyhole_usage_reservations_total{result="ok"} 0`, `keyhole_usage_reservations_total{result="error"} 0`, `keyhole_event_streams 0`)
	s.Webhook("siem", "delivered")
	s.Webhook("siem", "dead")
	for _, err := range []error{nil, nil, keys.ErrStore} {
		if got := s.UsageStore(&brokenStore{err: err}).ReserveUsage(t.Context(), "n", nil); !errors.Is(got, err) {
			t.Errorf("ReserveUsage = %v, want %v", got, err)
		}
	}
	h := s.Streams(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { expect(t, page(t, s), `keyhole_event_streams 1`) }))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/v1/events?key=payments", nil))
	s.Streams(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { expect(t, page(t, s), `keyhole_event_streams 0`) })).
		ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/v1/keys", nil))
	expect(t, page(t, s),
		`keyhole_webhook_deliveries_total{result="delivered",webhook="siem"} 1`, `keyhole_webhook_deliveries_total{result="dead",webhook="siem"} 1`,
		`keyhole_usage_reservations_total{result="ok"} 2`, `keyhole_usage_reservations_total{result="error"} 1`, `keyhole_event_streams 0`)
}

type fakeVerdict struct{ err error }

func (f fakeVerdict) Authenticate(context.Context, authz.Credentials) (authz.Principal, error) {
	return authz.Principal{ID: "jwt:a:b"}, f.err
}

func TestAuthenticationFailures(t *testing.T) {
	t.Parallel()
	s := New("v1", "abc")
	for _, err := range []error{
		nil, &authz.Failure{Reason: "expired"}, &authz.Failure{Reason: "expired"}, context.DeadlineExceeded,
	} {
		p, got := s.Authenticator(fakeVerdict{err}).Authenticate(t.Context(), authz.Credentials{})
		if p.ID != "jwt:a:b" || !errors.Is(got, err) {
			t.Errorf("Authenticate = %v, %v; want what the inner one said", p, got)
		}
	}
	expect(t, page(t, s), `keyhole_auth_failures_total{reason="expired"} 2`, `keyhole_auth_failures_total{reason="unavailable"} 1`)
}

func TestState(t *testing.T) {
	t.Parallel()
	now := time.Now()
	stale := false
	k := &keys.Key{Name: "payments", Versions: []*keys.Version{
		{Number: 1, CreatedAt: now, ActivateAt: now.Add(-2 * time.Hour)},
		{Number: 2, CreatedAt: now, ActivateAt: now.Add(-time.Hour)},
		{Number: 3, CreatedAt: now, ActivateAt: now.Add(time.Hour)},
	}}
	s := New("v1", "abc")
	s.Watch(State{
		Tokens:      func() []TokenStats { return []TokenStats{{"main", true, 2, 8, 1, 5, 6}, {Name: "backup", Limit: 4}} },
		SnapshotAge: func() time.Duration { return 1500 * time.Millisecond },
		Keys: func() ([]*keys.Key, error) {
			if stale {
				return nil, keys.ErrStale
			}
			return []*keys.Key{k}, nil
		},
		Damaged: func() []string { return []string{"spoilt"} },
		Due:     func() int { return 3 },
		Rotations: func() ([]*keys.Rotation, error) {
			if stale {
				return nil, keys.ErrStore
			}
			return []*keys.Rotation{
				{Phase: keys.PhaseAnnounced, StartedAt: now.Add(-time.Hour)}, {Phase: keys.PhaseAnnounced, StartedAt: now.Add(-2 * time.Hour)},
			}, nil
		},
		Webhooks: func() []WebhookStats { return []WebhookStats{{"siem", 90 * time.Second, 2}} },
		Now:      func() time.Time { return now },
	})
	expect(t, page(t, s),
		`keyhole_keys_damaged 1`, `keyhole_keys_due 3`, `keyhole_webhook_lag_seconds{webhook="siem"} 90`, `keyhole_webhook_dead_events{webhook="siem"} 2`,
		`keyhole_rotations{phase="announced"} 2`, `keyhole_rotations{phase="reserved"} 0`, `keyhole_rotation_age_seconds{phase="announced"} 7200`,
		`keyhole_rotation_age_seconds{phase="activated"} 0`,
		`keyhole_hsm_ready{token="main"} 1`, `keyhole_hsm_ready{token="backup"} 0`, `keyhole_hsm_sessions_in_use{token="main"} 2`,
		`keyhole_hsm_sessions_max{token="main"} 8`, `keyhole_hsm_sessions_stuck{token="main"} 1`, `keyhole_hsm_queue{lane="normal",token="main"} 5`, `keyhole_hsm_queue{lane="bulk",token="main"} 6`,
		`keyhole_keys 1`, `keyhole_key_versions{state="active"} 1`, `keyhole_key_versions{state="deactivated"} 1`,
		`keyhole_key_versions{state="pre-activation"} 1`, `keyhole_key_versions{state="destroyed"} 0`, `keyhole_snapshot_age_seconds 1.5`,
	)
	stale = true
	if text := page(t, s); strings.Contains(text, "keyhole_key_versions{") || strings.Contains(text, "keyhole_rotations{") || !strings.Contains(text, "keyhole_snapshot_age_seconds 1.5") {
		t.Errorf("a stale snapshot is counted:\n%s", text)
	}
}

func TestStore(t *testing.T) {
	t.Parallel()
	s := New("v1", "abc")
	silent := false
	s.WatchStore(StoreState{
		Self: "3",
		Health: func() store.Health {
			if silent {
				return store.Health{Mode: store.ModeWitness, Revision: 9, Marked: 2}
			}
			return store.Health{Mode: store.ModeStore, Revision: 9}
		},
		Nodes: func(context.Context) ([]keys.Node, uint64, error) {
			if silent {
				return nil, 0, keys.ErrStore
			}
			return []keys.Node{
				{Instance: "1", Name: "a", Revision: 2, Live: true}, // killed a moment ago
				{Instance: "2", Name: "a", Revision: 7, Live: true},
				{Instance: "3", Name: "b", Revision: 8, Live: true}, // this one, as of its last heartbeat
				{Instance: "4", Name: "c", Revision: 1},
			}, 10, nil
		},
	})
	text := page(t, s)
	expect(t, text, `keyhole_store_mode{mode="store"} 1`, `keyhole_store_mode{mode="witness"} 0`, `keyhole_store_mode{mode="stale"} 0`, `keyhole_versions_marked 0`,
		`keyhole_nodes_live 3`, `keyhole_node_behind_revisions{node="a"} 3`, `keyhole_node_behind_revisions{node="b"} 1`)
	if strings.Contains(text, `node="c"`) {
		t.Error("a gateway that is gone is shown")
	}
	silent = true
	text = page(t, s)
	expect(t, text, `keyhole_store_mode{mode="store"} 0`, `keyhole_store_mode{mode="witness"} 1`, `keyhole_versions_marked 2`)
	if strings.Contains(text, "\nkeyhole_nodes_live ") {
		t.Error("gateways are counted that nobody can see")
	}
}

// Names and help follow the rules of Prometheus, and docs/operations.md has
// them all.
func TestNames(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	s := New("v1", "abc")
	s.Request("r", "GET", 200, 0)
	s.HSMCall("f", "t", "ok", 0)
	s.failures.get("r")
	s.Reload("tls", nil)
	s.Watch(State{
		Tokens: func() []TokenStats { return []TokenStats{{Name: "t"}} }, SnapshotAge: func() time.Duration { return 0 },
		Keys: func() ([]*keys.Key, error) { return nil, nil }, Damaged: func() []string { return nil }, Due: func() int { return 0 },
		Rotations: func() ([]*keys.Rotation, error) { return nil, nil }, Webhooks: func() []WebhookStats { return []WebhookStats{{Name: "w"}} },
	})
	s.WatchStore(StoreState{
		Health: func() store.Health { return store.Health{} },
		Nodes: func(context.Context) ([]keys.Node, uint64, error) {
			return []keys.Node{{Name: "n", Live: true}}, 1, nil
		},
	})
	s.Webhook("w", "delivered")
	all, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	endings := map[string]string{"COUNTER": "_total", "HISTOGRAM": "_seconds"}
	for _, f := range all {
		name, kind := f.GetName(), f.GetType().String()
		if !strings.HasPrefix(name, "keyhole_") {
			continue
		}
		ours++
		if !strings.HasSuffix(name, endings[kind]) || kind == "GAUGE" && strings.HasSuffix(name, "_total") || f.GetHelp() == "" {
			t.Errorf("%s is a %s with the help %q", name, kind, f.GetHelp())
		}
		if !strings.Contains(string(text), name) {
			t.Errorf("docs/operations.md does not name %s", name)
		}
	}
	if ours < 25 {
		t.Errorf("only %d metrics", ours)
	}
}

// However many label sets somebody brings about, there is an end to them, and
// none is lost.
func TestChildrenAreBounded(t *testing.T) {
	t.Parallel()
	s := New("v1", "abc")
	const many = 2 * maxChildren
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := g; i < many; i += 4 {
				s.failures.get(fmt.Sprintf("reason-%d", i)).Inc()
			}
		})
	}
	wg.Wait()
	lines, total := 0, 0.0
	for line := range strings.Lines(page(t, s)) {
		if _, value, ok := strings.Cut(line, "} "); ok && strings.HasPrefix(line, "keyhole_auth_failures_total{") {
			var v float64
			if _, err := fmt.Sscan(value, &v); err != nil {
				t.Fatal(err)
			}
			lines++
			total += v
		}
	}
	if lines > maxChildren+1 || total != many {
		t.Errorf("%d series with %v failures, want at most %d with %d", lines, total, maxChildren+1, many)
	}
}

func TestObservingDoesNotAllocate(t *testing.T) {
	s := New("v1", "abc")
	s.Request("r", "POST", 200, time.Millisecond)
	s.HSMCall("Sign", "main", "ok", time.Millisecond)
	if n := testing.AllocsPerRun(100, func() {
		s.Request("r", "POST", 200, time.Millisecond)
		s.HSMCall("Sign", "main", "ok", time.Millisecond)
		s.AuditCommit(1, time.Millisecond, nil)
	}); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}
