package gateway_test

import (
	"context"
	"testing"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/store"
)

// hooks are two webhooks, of which one has dead events.
type hooks struct{ retried []string }

func (h *hooks) List(context.Context) ([]api.Webhook, error) {
	return []api.Webhook{
		{Name: "siem", Host: "siem.example", Dead: []api.DeadEvent{{Event: api.Event{ID: 1, Key: "payments"}}, {Event: api.Event{ID: 2, Key: "hidden"}}}},
		{Name: "chat", Host: "chat.example"},
	}, nil
}

func (h *hooks) Retry(ctx context.Context, name string) (api.Webhook, error) {
	all, err := h.List(ctx)
	for _, w := range all {
		if w.Name == name {
			h.retried = append(h.retried, name)
			return w, err
		}
	}
	return api.Webhook{}, keys.ErrNotFound
}

func TestWebhooks(t *testing.T) {
	t.Parallel()
	h := &hooks{}
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) { c.Webhooks = h })
	ctx := t.Context()
	w.key("payments", keys.ES256)
	of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "hidden", Algorithm: "ES256"})).ok(t)
	w.news()
	if list := of(w.Webhooks(ctx, admin)).ok(t); len(list.Webhooks) != 2 || len(list.Webhooks[0].Dead) != 2 || list.Webhooks[1].Dead == nil {
		t.Errorf("%+v", list)
	}
	if r := w.record(); r.Action != "list-webhooks" || r.Outcome != audit.OutcomeOK {
		t.Errorf("recorded as %+v", r)
	}
	plumber := as("plumber", "plumbers", "agents") // who may not see every key
	if list := of(w.Webhooks(ctx, plumber)).ok(t); len(list.Webhooks[0].Dead) != 1 || list.Webhooks[0].Dead[0].Event.Key != "payments" {
		t.Errorf("%+v", list)
	}
	w.news()
	if got := of(w.RetryWebhook(ctx, plumber, "siem")).ok(t); got.Name != "siem" || len(got.Dead) != 1 || len(h.retried) != 1 {
		t.Errorf("%+v, %q", got, h.retried)
	}
	if recs := w.news(); len(recs) != 2 || recs[0].Outcome != audit.OutcomeIntent || recs[1].Outcome != audit.OutcomeOK || recs[1].Details["webhook"] != "siem" {
		t.Errorf("recorded as %+v", recs)
	}
	of(w.RetryWebhook(ctx, admin, "none")).fails(t, keys.ErrNotFound)
	w.news()
	of(w.Webhooks(ctx, alice)).fails(t, keys.ErrForbidden)
	of(w.RetryWebhook(ctx, alice, "siem")).fails(t, keys.ErrForbidden)
	for i, r := range w.news() {
		if r.Outcome != audit.OutcomeDenied || r.Action != []string{"list-webhooks", "retry-webhook"}[i] {
			t.Errorf("recorded as %+v", r)
		}
	}
	if len(h.retried) != 1 {
		t.Errorf("%q", h.retried)
	}

	without := newWorld(t)
	if list := of(without.Webhooks(ctx, admin)).ok(t); list.Webhooks == nil || len(list.Webhooks) != 0 {
		t.Errorf("%+v", list)
	}
	of(without.RetryWebhook(ctx, admin, "siem")).fails(t, keys.ErrNotFound)
}

func TestReconcile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	k, err := w.store.Key(ctx, "payments")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.hsm.Backend.(*hsmtest.Memory).Destroy(ctx, k.Ref(k.Versions[0])); err != nil { // behind the gateway's back
		t.Fatal(err)
	}
	w.news()
	for _, dry := range []bool{true, false} {
		report := of(w.Reconcile(ctx, admin, api.ReconcileRequest{DryRun: dry})).ok(t)
		if report.DryRun != dry || report.Versions != 1 || len(report.Findings) != 1 || report.Findings[0].Kind != "missing" || report.Findings[0].Key != "payments" || report.Findings[0].Text == "" {
			t.Errorf("%+v", report)
		}
		recs := w.news()
		if first, last := recs[0], recs[len(recs)-1]; first.Action != "reconcile" || first.Outcome != audit.OutcomeIntent || last.Outcome != audit.OutcomeOK || last.Details["findings"] != "1" {
			t.Errorf("recorded as %+v", recs)
		}
	}
	of(w.Reconcile(ctx, alice, api.ReconcileRequest{})).fails(t, keys.ErrForbidden)
	if r := w.record(); r.Action != "reconcile" || r.Outcome != audit.OutcomeDenied {
		t.Errorf("recorded as %+v", r)
	}
}

// The status stands beside the JWKS, for those who may read that.
func TestStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("site", keys.ES256, "public")
	w.rotate("site")
	w.rotate("site")
	of(w.Revoke(ctx, admin, "site", 1, api.VersionActRequest{Reason: "a secret note"})).ok(t)
	w.key("mail", keys.A256GCM, "public")
	w.key("payments", keys.ES256)
	w.news()
	for who, req := range map[string]gateway.Request{"anybody": w.Anonymous("r", addr("192.0.2.3")), "alice": alice} {
		set := of(w.Status(ctx, req, "site")).ok(t)
		if len(set.Keys) != 3 || set.Keys[0].KeyID != "site.v3" || set.Keys[0].State != "active" || set.Keys[1].State != "deactivated" ||
			set.Keys[2].State != "compromised" || set.Keys[2].RevokedAt.IsZero() || !set.Keys[0].RevokedAt.IsZero() {
			t.Errorf("%s: %+v", who, set)
		}
	}
	if set := of(w.Status(ctx, alice, "mail")).ok(t); set.Keys == nil || len(set.Keys) != 0 {
		t.Errorf("%+v", set)
	}
	if set := of(w.Status(ctx, alice, "")).ok(t); len(set.Keys) != 4 {
		t.Errorf("%+v", set)
	}
	if recs := w.news(); len(recs) != 0 {
		t.Errorf("recorded as %+v", recs)
	}
	of(w.Status(ctx, w.Anonymous("r", addr("192.0.2.3")), "payments")).fails(t, keys.ErrUnauthenticated)
	of(w.Status(ctx, auditor, "")).fails(t, keys.ErrForbidden)
	of(w.Status(ctx, nobody, "payments")).fails(t, keys.ErrKeyNotFound)
}
