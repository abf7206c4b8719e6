package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyhole/client"
	"keyhole/cmd/keyholed/internal/dev"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// hook is an endpoint for webhooks, which is up or down as a test says.
type hook struct {
	t    *testing.T
	url  string
	ca   string // its certificate's file
	down atomic.Bool
	got  chan received
}

type received struct {
	event     api.Event
	delivery  string
	signature string
	body      []byte
}

const hookSecret = "s3cret-path"

func newHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{t: t, got: make(chan received, 100)}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the sender left
		}
		g := received{delivery: r.Header.Get("Keyhole-Delivery"), signature: r.Header.Get("Keyhole-Signature"), body: body}
		if err := json.Unmarshal(body, &g.event); err != nil {
			t.Errorf("%q: %v", body, err)
		}
		h.got <- g
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.StartTLS()
	t.Cleanup(s.Close)
	h.url, h.ca = s.URL+"/"+hookSecret, filepath.Join(t.TempDir(), "hook.crt")
	put(t, h.ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return h
}

// next returns the next event that was received.
func (h *hook) next(p *process) received {
	h.t.Helper()
	var g received
	eventually(h.t, "an event is delivered", func() bool {
		select {
		case g = <-h.got:
			return true
		default:
			return false
		}
	})
	return g
}

// jwks returns what the gateway publishes.
func (p *process) jwks(c *client.Client, key string) *jose.JSONWebKeySet {
	p.t.Helper()
	set, err := c.JWKS(p.t.Context(), key)
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := json.Marshal(set)
	if err != nil {
		p.t.Fatal(err)
	}
	var out jose.JSONWebKeySet
	if err := json.Unmarshal(text, &out); err != nil {
		p.t.Fatal(err)
	}
	return &out
}

// Events reach a webhook, over a rotation of the key that signs them and over
// a gateway that is killed; a trigger from the configuration rotates.
func TestWebhooksAndTriggers(t *testing.T) {
	t.Parallel()
	dir, h := prepared(t), newHook(t)
	configure(t, dir, "log:", fmt.Sprintf("triggers:\n  - {name: deployed, keys: [payments], reason: deployment}\n"+
		"webhooks:\n  - name: siem\n    url: %s\n    ca_file: %s\n    keys: [payments]\n    events: [version.activated]\n    signing_key: hooks\nlog:", h.url, h.ca))
	p := serve(t, dir)
	if p.api == "" {
		t.Fatalf("it does not serve:\n%s", p.log)
	}
	admin := p.caller(dir, "admin.jwt")
	createKey(t, admin, "hooks", "ES256")
	createKey(t, admin, "payments", "ES256") // version 1 is activated
	first := h.next(p)

	if _, err := admin.Rotate(t.Context(), "hooks", api.RotateRequest{}); err != nil {
		t.Fatal(err)
	}
	res, err := admin.Trigger(t.Context(), "deployed", api.TriggerRequest{Note: "release 7"})
	if err != nil || len(res.Results) != 1 || res.Results[0].Rotation == nil || res.Reason != "deployment" {
		t.Fatalf("the trigger: %+v, %v", res, err)
	}
	second := h.next(p)

	// While the endpoint is down, and over the gateway's death, nothing is lost.
	h.down.Store(true)
	for range 2 {
		if _, err := admin.Trigger(t.Context(), "deployed", api.TriggerRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it fails", func() bool {
		all, err := admin.Webhooks(t.Context())
		return err == nil && len(all.Webhooks) == 1 && all.Webhooks[0].Failures > 0 && all.Webhooks[0].Pending > 0
	})
	_, metrics := p.get("/metrics")
	for _, want := range []string{
		`keyhole_webhook_deliveries_total{result="delivered",webhook="siem"} 2`, `keyhole_webhook_dead_events{webhook="siem"} 0`,
		`keyhole_webhook_lag_seconds{webhook="siem"} `, `keyhole_webhook_deliveries_total{result="failed",webhook="siem"} `,
	} {
		if !strings.Contains(metrics, "\n"+want) {
			t.Errorf("the metrics do not have %s", want)
		}
	}
	if status, body := p.get("/readyz"); status != http.StatusOK {
		t.Errorf("a webhook that fails makes the gateway not ready: %d %s", status, body)
	}
	p.signal(syscall.SIGKILL)
	p.wait()
	h.down.Store(false)
	log := p.log.String()
	p = serve(t, dir)
	if p.api == "" {
		t.Fatalf("it does not serve:\n%s", p.log)
	}
	admin = p.caller(dir, "admin.jwt")
	if _, err := admin.RetryWebhook(t.Context(), "siem"); err != nil {
		t.Fatal(err)
	}
	all := []received{first, second, h.next(p), h.next(p)}
	set, ids := p.jwks(admin, "hooks"), map[string]bool{}
	for i, g := range all {
		want := api.Event{Type: "version.activated", Key: "payments", Version: uint32(i + 1), KeyID: keys.VersionID{Key: "payments", Number: uint32(i + 1)}.String()}
		if g.event.Type != want.Type || g.event.KeyID != want.KeyID || g.event.Version != want.Version || ids[g.delivery] {
			t.Errorf("event %d is %+v (%s)", i, g.event, g.delivery)
		}
		ids[g.delivery] = true
		jws, err := jose.ParseDetached(g.signature, g.body, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		kid := jws.Signatures[0].Protected.KeyID
		if want := fmt.Sprintf("hooks.v%d", min(i+1, 2)); kid != want || len(set.Key(kid)) != 1 {
			t.Fatalf("event %d is signed by %s, want %s of %v", i, kid, want, set.Keys)
		}
		if err := jws.DetachedVerify(g.body, set.Key(kid)[0].Key); err != nil {
			t.Errorf("event %d by %s: %v", i, kid, err)
		}
		v, err := admin.Verify(t.Context(), "hooks", api.VerifyRequest{JWS: g.signature, Payload: g.body})
		if err != nil || !v.Valid {
			t.Errorf("the gateway itself says %+v, %v", v, err)
		}
	}
	p.stop()
	if n := audited(t, dir, `"action":"sign"`, `"principal":"system"`, `"webhook":"siem"`, `"outcome":"ok"`); n < len(all) {
		t.Errorf("%d signatures of the system are recorded", n)
	}
	if strings.Contains(log+p.log.String(), hookSecret) {
		t.Error("the log shows the URL of the webhook")
	}
}

// What a database editor does to one key takes that key out of use, loudly,
// and no other.
func TestDamagedKey(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	p := serve(t, dir)
	admin := p.caller(dir, "admin.jwt")
	createKey(t, admin, "good", "ES256")
	createKey(t, admin, "spoilt", "ES256")
	if _, err := admin.Revoke(t.Context(), keys.VersionID{Key: "spoilt", Number: 1}, api.VersionActRequest{}); err != nil {
		t.Fatal(err)
	}
	p.stop()
	db, err := sql.Open("sqlite", filepath.Join(dir, "keyhole.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "UPDATE versions SET revoked_at = NULL WHERE key_name = 'spoilt'"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	p = serve(t, dir)
	if p.api == "" {
		t.Fatalf("it does not serve:\n%s", p.log)
	}
	agent := p.caller(dir, "agent.jwt")
	if err := canSign(t.Context(), agent, "good"); err != nil {
		t.Errorf("another key: %v", err)
	}
	if err := canSign(t.Context(), agent, "spoilt"); err == nil {
		t.Error("a revoked version came back by an edit of the database")
	}
	if status, body := p.get("/readyz"); status != http.StatusOK || !strings.Contains(body, "spoilt") || strings.Contains(body, "good") {
		t.Errorf("readyz: %d %s", status, body)
	}
	if _, metrics := p.get("/metrics"); !strings.Contains(metrics, "\nkeyhole_keys_damaged 1\n") {
		t.Error("the metrics do not tell")
	}
	if !strings.Contains(p.log.String(), "spoilt") {
		t.Error("the log does not tell")
	}
	p.stop()
}

// A database is not opened with a token that it was not made with.
func TestDatabaseOfAnotherToken(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	p := serve(t, dir)
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	p.stop()
	if err := os.RemoveAll(filepath.Join(dir, "tokens")); err != nil {
		t.Fatal(err)
	}
	d, err := dev.Prepare(dev.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	p = serve(t, dir)
	if p.api != "" {
		t.Fatal("it serves")
	}
	if status := p.wait(); status != exit.Store || !strings.Contains(p.log.String(), "hint: see that tokens[]") {
		t.Errorf("status %d, want %d:\n%s", status, exit.Store, p.log)
	}
}

// A gateway that stops ends event streams at once, and gives back what usage
// it had reserved.
func TestStopWithStreams(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	configure(t, dir, "log:", "shutdown_grace: 5m\nlog:") // nobody waits for as long
	p := serve(t, dir)
	admin, agent := p.caller(dir, "admin.jwt"), p.caller(dir, "agent.jwt")
	createKey(t, admin, "payments", "ES256")
	seen := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e, err := range agent.Events(ctx, client.EventOptions{Keys: []string{"payments"}}) {
			if err != nil {
				return
			}
			seen <- e.Type
		}
	}()
	eventually(t, "the stream is open", func() bool {
		_, metrics := p.get("/metrics")
		return strings.Contains(metrics, "\nkeyhole_event_streams 1\n")
	})
	for range 3 {
		if err := canSign(t.Context(), agent, "payments"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := admin.Rotate(t.Context(), "payments", api.RotateRequest{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream tells of the rotation", func() bool {
		select {
		case typ := <-seen:
			return typ == "version.activated"
		default:
			return false
		}
	})
	p.stop()
	cancel()
	<-ended
	if strings.Contains(p.log.String(), "cut off") {
		t.Errorf("the stream held the gateway up")
	}

	p = serve(t, dir)
	u, err := p.caller(dir, "admin.jwt").Usage(t.Context(), "payments")
	if err != nil || len(u.Versions) != 2 {
		t.Fatalf("usage: %+v, %v", u, err)
	}
	if v := u.Versions[1]; v.Version != 1 || v.Operations != 3 || len(v.Agents) != 1 || v.Agents[0].Principal != "jwt:dev:agent" {
		t.Errorf("version 1 was used %+v, want 3 operations by the agent", v)
	}
	p.stop()
}

// In a development directory two people are at hand, and what production
// forbids is allowed, with a warning.
func TestDevTwoPeople(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	p := devGateway(t, dir)
	admin, approver := p.caller(dir, "admin.jwt"), p.caller(dir, "approver.jwt")
	second := api.Duration(1e9)
	_, err := admin.CreateKey(t.Context(), api.CreateKeyRequest{Name: "payments", Algorithm: "ES256", Policy: &api.Policy{Period: second, DestroyDelay: second}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it rotates by itself", func() bool {
		k, err := admin.Key(t.Context(), "payments")
		return err == nil && k.ActiveVersion > 1
	})
	if _, err := admin.UpdateKey(t.Context(), "payments", api.UpdateKeyRequest{Policy: &api.Policy{DestroyDelay: second}}); err != nil {
		t.Fatal(err)
	}
	res, err := admin.DeleteKey(t.Context(), "payments", api.DestroyRequest{Reason: "no longer needed", Force: true})
	if err != nil || res.Approval == nil || !res.Approval.Mine {
		t.Fatalf("%+v, %v; want an approval to wait for", res, err)
	}
	for _, same := range []*client.Client{admin, p.holder(dir, "admin")} {
		if _, err := same.Approve(t.Context(), res.Approval.ID, api.DecisionRequest{}); err == nil {
			t.Error("one person can approve what it asked for")
		}
	}
	if a, err := approver.Approve(t.Context(), res.Approval.ID, api.DecisionRequest{Reason: "agreed"}); err != nil || a.State != "done" {
		t.Fatalf("%+v, %v", a, err)
	}
	eventually(t, "the key is gone", func() bool {
		_, err := admin.Key(t.Context(), "payments")
		return err != nil
	})
	if !strings.Contains(p.log.String(), "DEVELOPMENT") {
		t.Error("no warning at the start")
	}
	if !strings.Contains(p.out.String(), "approver.jwt") {
		t.Error("the second administrator is not named")
	}
	p.stop()
}
