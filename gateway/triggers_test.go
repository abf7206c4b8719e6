package gateway_test

import (
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/store"
)

func withTriggers(c *gateway.Config, _ *store.CacheConfig) {
	c.Triggers = map[string]gateway.Trigger{
		"leak":   {Keys: []string{"payments", "mail", "gone"}, Reason: keys.ReasonCompromise},
		"deploy": {Keys: []string{"payments"}, Reason: keys.ReasonDeployment},
	}
}

// A trigger needs a narrow credential, and no right on any key.
func TestTrigger(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withTriggers)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	of(w.Rotate(ctx, admin, "mail", api.RotateRequest{ActivateAt: api.At(w.now().Add(time.Hour))})).ok(t)
	siem := as("siem", "siem")
	for _, op := range append(dataOperations(w), adminOperations(w)...) {
		if err := op.call(w, siem, "payments"); err == nil {
			t.Errorf("it may %s", op.action)
		}
	}
	w.news()
	for _, name := range []string{"deploy", "none", strings.Repeat("x", 5000)} { // alike, whether configured or not
		of(w.Trigger(ctx, siem, name, api.TriggerRequest{})).fails(t, keys.ErrForbidden)
		if r := w.record(); r.Action != "trigger" || r.Outcome != audit.OutcomeDenied || len(r.Details["trigger"]) > 80 {
			t.Errorf("recorded as %+v", r)
		}
	}
	of(w.Trigger(ctx, alice, "leak", api.TriggerRequest{})).fails(t, keys.ErrForbidden)
	of(w.Trigger(ctx, admin, "none", api.TriggerRequest{})).fails(t, keys.ErrNotFound)
	of(w.Trigger(ctx, siem, "leak", api.TriggerRequest{Note: strings.Repeat("x", 201)})).fails(t, keys.ErrInvalid)
	w.news()

	out := of(w.Trigger(ctx, siem, "leak", api.TriggerRequest{Note: "alert 7"})).ok(t)
	if out.Trigger != "leak" || out.Reason != "compromise" || len(out.Results) != 3 {
		t.Fatalf("%+v", out)
	}
	r := out.Results[0]
	if r.Key != "payments" || r.Error != nil || r.Rotation.Phase != "completed" || r.Rotation.To != 2 || r.Rotation.StartedBy != siem.Caller.ID ||
		r.Rotation.Reason != "compromise" || r.Rotation.Note != "alert 7" || r.Rotation.Acks != nil {
		t.Errorf("%+v", r)
	}
	for i, code := range map[int]string{1: "rotation_running", 2: "key_not_found"} {
		if r := out.Results[i]; r.Rotation != nil || r.Error == nil || r.Error.Code != code || r.Error.Status == 0 {
			t.Errorf("%+v", r)
		}
	}
	recs := w.news()
	first, last := recs[0], recs[len(recs)-1]
	if first.Action != "trigger" || first.Outcome != audit.OutcomeIntent || last.Action != "trigger" || last.Outcome != audit.OutcomeOK ||
		last.Details["key:payments"] != r.Rotation.ID || last.Details["key:mail"] != "rotation_running" || last.Details["note"] != "alert 7" {
		t.Errorf("recorded as %+v", recs)
	}
	for _, r := range recs {
		if r.Principal != siem.Caller.ID || !strings.HasPrefix(r.RequestID, siem.ID) {
			t.Errorf("recorded as %+v", r)
		}
	}
}

// A retried trigger rotates each key once, also after a crash in the middle.
func TestTriggerOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withTriggers)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	request := func(id string) gateway.Request {
		r := as("siem", "siem")
		r.ID, r.Once = id, &gateway.Once{Key: "alert-7", Fingerprint: "f", Status: 202}
		return r
	}
	first := request("req-1")
	w.hsm.Fail(hsmtest.Generate, 2, hsmtest.NotDone, keys.ErrHSM) // one of both keys
	out := of(w.Trigger(ctx, first, "leak", api.TriggerRequest{})).ok(t)
	again := request("req-2")
	if same := of(w.Trigger(ctx, again, "leak", api.TriggerRequest{})).ok(t); !again.Once.Replayed || len(same.Results) != 3 || same.Results[0].Key != out.Results[0].Key {
		t.Errorf("%+v", same)
	}
	// The process died before it kept the answer.
	if err := w.store.ForgetAttempt(ctx, first.Caller.ID, "alert-7"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.BeginAttempt(ctx, store.Attempt{
		Principal: first.Caller.ID, Key: "alert-7", Fingerprint: "f", RequestID: "req-1", StartedAt: w.now(),
	}); err != nil {
		t.Fatal(err)
	}
	resumed := of(w.Trigger(ctx, request("req-3"), "leak", api.TriggerRequest{})).ok(t)
	for i, r := range resumed.Results[:2] {
		k := of(w.Key(ctx, admin, r.Key)).ok(t)
		if r.Rotation == nil || r.Rotation.Phase != "completed" || k.ActiveVersion != r.Rotation.To {
			t.Errorf("%+v", r)
		}
		if was := out.Results[i].Rotation; was != nil && was.ID != r.Rotation.ID {
			t.Errorf("%s was rotated twice: %s and %s", r.Key, was.ID, r.Rotation.ID)
		}
	}
}
