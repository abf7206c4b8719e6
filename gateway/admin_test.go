package gateway_test

import (
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
)

func TestCreateKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	k := of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "payments", Algorithm: "ES256", Tags: map[string]string{"team": "pay"}})).ok(t)
	if k.Name != "payments" || k.ActiveVersion != 1 || k.Versions[0].State != "active" || k.Token != "memory" {
		t.Errorf("%+v", k)
	}
	recs := w.news()
	if len(recs) != 2 {
		t.Fatalf("%+v", recs)
	}
	for i, outcome := range []string{audit.OutcomeIntent, audit.OutcomeOK} {
		if r := recs[i]; r.Outcome != outcome || r.Action != "create-key" || r.Key != "payments" || r.KeyID != "payments.v1" ||
			r.Principal != admin.Caller.ID || r.Initiator != admin.Caller.ID || r.RequestID != admin.ID || r.Source != "192.0.2.7" || r.AuthMethod != "jwt" {
			t.Errorf("recorded as %+v", r)
		}
	}
	for what, tt := range map[string]struct {
		in   api.CreateKeyRequest
		kind error
	}{
		"again":            {api.CreateKeyRequest{Name: "payments", Algorithm: "ES256"}, keys.ErrKeyExists},
		"no name":          {api.CreateKeyRequest{Algorithm: "ES256"}, keys.ErrInvalid},
		"bad name":         {api.CreateKeyRequest{Name: "../etc", Algorithm: "ES256"}, keys.ErrInvalid},
		"reserved name":    {api.CreateKeyRequest{Name: "keyhole-canary", Algorithm: "ES256"}, keys.ErrInvalid},
		"no algorithm":     {api.CreateKeyRequest{Name: "a"}, keys.ErrInvalid},
		"none":             {api.CreateKeyRequest{Name: "a", Algorithm: "none"}, keys.ErrInvalid},
		"weak":             {api.CreateKeyRequest{Name: "a", Algorithm: "RS256", Bits: 1024}, keys.ErrInvalid},
		"unknown token":    {api.CreateKeyRequest{Name: "a", Algorithm: "ES256", Token: "other"}, keys.ErrInvalid},
		"long description": {api.CreateKeyRequest{Name: "a", Algorithm: "ES256", Description: strings.Repeat("x", 501)}, keys.ErrInvalid},
		"no UTF-8":         {api.CreateKeyRequest{Name: "a", Algorithm: "ES256", Description: "\xff"}, keys.ErrInvalid},
		"empty tag":        {api.CreateKeyRequest{Name: "a", Algorithm: "ES256", Tags: map[string]string{"": "x"}}, keys.ErrInvalid},
		"long tag":         {api.CreateKeyRequest{Name: "a", Algorithm: "ES256", Tags: map[string]string{"x": strings.Repeat("x", 101)}}, keys.ErrInvalid},
		"short period":     {api.CreateKeyRequest{Name: "a", Algorithm: "ES256", Policy: &api.Policy{Period: api.Duration(time.Second)}}, keys.ErrInvalid},
	} {
		w.news()
		of(w.CreateKey(ctx, admin, tt.in)).fails(t, tt.kind)
		if r := w.record(); r.Action != "create-key" || r.Outcome != audit.OutcomeError || r.Reason != api.CodeOf(tt.kind) {
			t.Errorf("%s: recorded as %+v", what, r)
		}
	}
	of(w.CreateKey(ctx, alice, api.CreateKeyRequest{Name: "a", Algorithm: "ES256", Tags: map[string]string{"team": "pay"}})).fails(t, keys.ErrForbidden)
	if r := w.record(); r.Outcome != audit.OutcomeDenied || r.Key != "a" {
		t.Errorf("recorded as %+v", r)
	}
	if objects := w.hsm.Backend.(*hsmtest.Memory).Objects(); len(objects) != 1 {
		t.Errorf("the token holds %q", objects)
	}
}

// A key whose generation failed does not exist, and its name stays free.
func TestCreateKeyFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	for _, mode := range []hsmtest.Mode{hsmtest.NotDone, hsmtest.Done} {
		w.hsm.Fail(hsmtest.Generate, 1, mode, keys.ErrHSM)
		of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "payments", Algorithm: "ES256"})).fails(t, keys.ErrHSM)
		of(w.Key(ctx, admin, "payments")).fails(t, keys.ErrKeyNotFound)
		if objects := w.hsm.Backend.(*hsmtest.Memory).Objects(); len(objects) != 0 {
			t.Errorf("the token holds %q", objects)
		}
	}
	w.key("payments", keys.ES256)
}

func TestUpdateKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	before := w.key("payments", keys.ES256)
	w.news()
	text := "new"
	k := of(w.UpdateKey(ctx, admin, "payments", api.UpdateKeyRequest{Description: &text, Policy: &api.Policy{Period: api.Duration(time.Hour)}, Epoch: before.Epoch})).ok(t)
	if k.Description != "new" || k.Epoch != before.Epoch+1 || k.Policy.Period.Std() != time.Hour || k.Tags["team"] != "pay" {
		t.Errorf("%+v", k)
	}
	if recs := w.news(); len(recs) != 2 || recs[0].Outcome != audit.OutcomeIntent || recs[1].Outcome != audit.OutcomeOK || recs[1].Action != "update-key" {
		t.Errorf("recorded as %+v", recs)
	}
	of(w.UpdateKey(ctx, admin, "payments", api.UpdateKeyRequest{Description: &text, Epoch: before.Epoch})).fails(t, keys.ErrConflict)
	long := strings.Repeat("x", 501)
	of(w.UpdateKey(ctx, admin, "payments", api.UpdateKeyRequest{Description: &long})).fails(t, keys.ErrInvalid)
	of(w.UpdateKey(ctx, admin, "payments", api.UpdateKeyRequest{Policy: &api.Policy{Period: 1}})).fails(t, keys.ErrInvalid)
	w.news()

	// Tags decide who may do what: who changes them needs the permission
	// under the new ones too.
	mover := as("mover", "movers")
	for _, tags := range []map[string]string{{"team": "dev"}, {}, nil} {
		of(w.UpdateKey(ctx, mover, "payments", api.UpdateKeyRequest{Tags: &tags})).fails(t, keys.ErrForbidden)
		if r := w.record(); r.Outcome != audit.OutcomeDenied || r.Reason != "forbidden" {
			t.Errorf("recorded as %+v", r)
		}
	}
	tags := map[string]string{"team": "pay", "env": "prod"}
	if k := of(w.UpdateKey(ctx, mover, "payments", api.UpdateKeyRequest{Tags: &tags})).ok(t); k.Tags["env"] != "prod" || k.Description != "new" {
		t.Errorf("%+v", k)
	}
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
	tags = map[string]string{"team": "dev"}
	of(w.UpdateKey(ctx, admin, "payments", api.UpdateKeyRequest{Tags: &tags})).ok(t)
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).fails(t, keys.ErrKeyNotFound)
}

func TestRotate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.news()
	r := of(w.Rotate(ctx, admin, "payments", api.RotateRequest{Reason: "personnel-change", Algorithm: "EdDSA"})).ok(t)
	if r.Key != "payments" || r.From != 1 || r.To != 2 || r.Reason != "personnel-change" || r.Phase != "completed" || r.Error != "" {
		t.Errorf("%+v", r)
	}
	recs := w.news()
	if len(recs) != 2 || recs[0].Outcome != audit.OutcomeIntent || recs[1].Outcome != audit.OutcomeOK {
		t.Fatalf("recorded as %+v", recs)
	}
	if o := recs[1]; o.Action != "rotate" || o.Rotation != r.ID || o.FromVersion != 1 || o.ToVersion != 2 || o.KeyID != "payments.v2" ||
		o.Algorithm != "EdDSA" || o.StartedAt.IsZero() || o.CompletedAt.IsZero() || o.Details["reason"] != "personnel-change" {
		t.Errorf("recorded as %+v", o)
	}
	for what, in := range map[string]api.RotateRequest{
		"reason": {Reason: "because"}, "algorithm": {Algorithm: "none"}, "bits": {Bits: 1024},
	} {
		w.news()
		of(w.Rotate(ctx, admin, "payments", in)).fails(t, keys.ErrInvalid)
		if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "invalid_argument" || r.Action != "rotate" {
			t.Errorf("%s: recorded as %+v", what, r)
		}
	}
	of(w.Rotate(ctx, admin, "payments", api.RotateRequest{Algorithm: "A256GCM"})).fails(t, keys.ErrWrongPurpose)
	w.hsm.Fail(hsmtest.Generate, 1, hsmtest.NotDone, keys.ErrHSM)
	of(w.Rotate(ctx, admin, "payments", api.RotateRequest{})).fails(t, keys.ErrHSM)
	if k := of(w.Key(ctx, alice, "payments")).ok(t); k.ActiveVersion != 2 {
		t.Errorf("after a rotation that failed version %d is active", k.ActiveVersion)
	}
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
}

func TestVersionActs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.rotate("payments")
	w.news()
	// The active one is suspended: its predecessor takes over.
	k := of(w.Suspend(ctx, admin, "payments", 2, api.VersionActRequest{Reason: "looks odd"})).ok(t)
	if k.ActiveVersion != 1 || k.Versions[0].State != "suspended" || k.Versions[0].SuspendedAt.IsZero() {
		t.Errorf("%+v", k)
	}
	recs := w.news()
	if len(recs) != 2 || recs[0].Outcome != audit.OutcomeIntent || recs[1].Outcome != audit.OutcomeOK || recs[1].Action != "suspend" ||
		recs[1].KeyID != "payments.v2" || recs[1].Details["note"] != "looks odd" || *recs[1].Intent != recs[0].Seq {
		t.Errorf("recorded as %+v", recs)
	}
	if s := of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t); s.Version != 1 {
		t.Errorf("version %d signs", s.Version)
	}
	w.news()
	of(w.Suspend(ctx, admin, "payments", 2, api.VersionActRequest{})).fails(t, keys.ErrVersionState)
	if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "version_state" || r.Version != 2 {
		t.Errorf("recorded as %+v", r)
	}
	of(w.Resume(ctx, admin, "payments", 1, api.VersionActRequest{})).fails(t, keys.ErrVersionState)
	of(w.Suspend(ctx, admin, "payments", 7, api.VersionActRequest{})).fails(t, keys.ErrVersionNotFound)
	if k := of(w.Resume(ctx, admin, "payments", 2, api.VersionActRequest{})).ok(t); k.ActiveVersion != 2 {
		t.Errorf("%+v", k)
	}
	for _, reason := range []string{strings.Repeat("x", 201), "\xff"} {
		of(w.Revoke(ctx, admin, "payments", 2, api.VersionActRequest{Reason: reason})).fails(t, keys.ErrInvalid)
	}
	// The active one is revoked: a successor takes its place at once.
	if k := of(w.Revoke(ctx, admin, "payments", 2, api.VersionActRequest{Reason: "stolen"})).ok(t); k.ActiveVersion != 3 || k.Versions[1].State != "compromised" {
		t.Errorf("%+v", k)
	}
	of(w.Resume(ctx, admin, "payments", 2, api.VersionActRequest{})).fails(t, keys.ErrVersionState)
}
