package gateway_test

import (
	"strings"
	"testing"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// readings are all ways to read the audit log.
func readings(w *world) map[string]func(gateway.Request) error {
	ctx := w.t.Context()
	return map[string]func(gateway.Request) error{
		"search":     func(r gateway.Request) error { return of(w.AuditRecords(ctx, r, api.AuditQuery{Action: "sign"})).err },
		"checkpoint": func(r gateway.Request) error { return of(w.AuditCheckpoint(ctx, r, true)).err },
		"proof":      func(r gateway.Request) error { return of(w.AuditProof(ctx, r, 0)).err },
	}
}

// Reading the log needs its own permission, and is recorded, with what was
// asked for.
func TestReadingTheAuditLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inspector := as("ivy", "inspectors")
	w.key("payments", keys.ES256)
	of(w.Sign(t.Context(), alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
	w.news()
	for _, act := range []string{"checkpoint", "search", "proof"} {
		read := readings(w)[act]
		if err := read(inspector); err != nil {
			t.Errorf("%s: %v", act, err)
		}
		if r := w.record(); r.Action != "read-audit" || r.Outcome != audit.OutcomeOK || r.Details["act"] != act || r.Policies[0] != "inspectors" {
			t.Errorf("%s: recorded as %+v", act, r)
		}
		for what, req := range map[string]gateway.Request{"an agent": alice, "who may read keys": auditor, "somebody": nobody} {
			if err := read(req); api.CodeOf(err) != "forbidden" {
				t.Errorf("%s: %s: %v", act, what, err)
			}
			if r := w.record(); r.Action != "read-audit" || r.Outcome != audit.OutcomeDenied || r.Principal != req.Caller.ID {
				t.Errorf("%s: %s: recorded as %+v", act, what, r)
			}
		}
	}
	list := of(w.AuditRecords(t.Context(), inspector, api.AuditQuery{Key: "payments", Limit: 1})).ok(t)
	if len(list.Records) != 1 || list.Records[0].Action != "sign" || list.Records[0].Principal != alice.Caller.ID || list.Next != list.Records[0].Seq {
		t.Errorf("%+v", list)
	}
	if r := w.record(); r.Details["key"] != "payments" || r.Key != "" {
		t.Errorf("recorded as %+v", r)
	}
	of(w.AuditRecords(t.Context(), inspector, api.AuditQuery{Principal: strings.Repeat("x", 5000), Limit: 1001})).fails(t, keys.ErrInvalid)
	if r := w.record(); len(r.Details["principal"]) > 200 || r.Outcome != audit.OutcomeError {
		t.Errorf("recorded as %+v", r)
	}
	w.block(inspector.Caller.ID)
	w.news()
	for act, read := range readings(w) {
		if err := read(inspector); api.CodeOf(err) != "forbidden" {
			t.Errorf("%s by who is blocked: %v", act, err)
		}
		if r := w.record(); r.Reason != "blocked" {
			t.Errorf("%s by who is blocked: recorded as %+v", act, r)
		}
	}
}

// What cannot be recorded is not shown.
func TestReadingThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	of(w.AuditCheckpoint(t.Context(), admin, true)).ok(t)
	if err := w.log.Close(); err != nil {
		t.Fatal(err)
	}
	for act, read := range readings(w) {
		if err := read(admin); api.CodeOf(err) != "audit_unavailable" {
			t.Errorf("%s: %v", act, err)
		}
	}
}

// A receipt is of the last record of its request, or of the first of a batch.
func TestReceipt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("payments", keys.ES256)
	w.news()
	ctx, taken := gateway.WithReceipt(t.Context())
	if r, ok := taken(); ok {
		t.Errorf("a receipt in advance: %+v", r)
	}
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
	rec := w.record()
	if r, ok := taken(); !ok || r.Seq != rec.Seq || r.Count != 1 {
		t.Errorf("the receipt of a signature is %+v, its record %d", r, rec.Seq)
	}
	of(w.Rotate(ctx, admin, "payments", api.RotateRequest{})).ok(t)
	recs := w.news()
	if r, _ := taken(); r.Seq != recs[len(recs)-1].Seq || recs[len(recs)-1].Outcome != audit.OutcomeOK {
		t.Errorf("the receipt of a rotation is %+v, its records %+v", r, recs)
	}
	of(w.SignBatch(ctx, alice, "payments", make([]api.SignRequest, 3))).ok(t)
	recs = w.news()
	if r, _ := taken(); r.Seq != recs[0].Seq || r.Count != 3 {
		t.Errorf("the receipt of a batch is %+v, its records begin with %d", r, recs[0].Seq)
	}
	if err := w.log.Close(); err != nil {
		t.Fatal(err)
	}
	before, _ := taken()
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).fails(t, keys.ErrAudit)
	if r, _ := taken(); r != before {
		t.Errorf("a receipt of what was not recorded: %+v", r)
	}
}
