package gateway_test

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
)

// What is compromised or archived opens only for those who may recover, and
// each time is recorded.
func TestRecovery(t *testing.T) {
	t.Parallel()
	for name, retire := range map[string]func(w *world){
		"compromised": func(w *world) {
			of(w.Revoke(w.t.Context(), admin, "mail", 1, api.VersionActRequest{Reason: "leaked"})).ok(w.t)
			of(w.Revoke(w.t.Context(), admin, "payments", 1, api.VersionActRequest{Reason: "leaked"})).ok(w.t)
		},
		"archived": func(w *world) {
			for _, k := range []string{"mail", "payments"} {
				policy := api.Policy{Overlap: api.Duration(time.Hour)}
				of(w.UpdateKey(w.t.Context(), admin, k, api.UpdateKeyRequest{Policy: &policy})).ok(w.t)
				w.rotate(k)
			}
			w.tick(time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(_ *gateway.Config, c *store.CacheConfig) { c.MaxStaleness = 1000 * time.Hour })
			ctx := t.Context()
			w.key("mail", keys.A256GCM)
			w.key("payments", keys.ES256)
			c := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("secret")})).ok(t).Ciphertext
			s := of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
			retire(w)
			w.news()
			of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: c})).fails(t, keys.ErrVersionState)
			if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "version_state" || r.KeyID != "mail.v1" {
				t.Errorf("recorded as %+v", r)
			}
			of(w.Rewrap(ctx, alice, "mail", api.RewrapRequest{Ciphertext: c})).fails(t, keys.ErrVersionState)
			w.news()
			savior := as("savior", "agents", "saviors")
			got := of(w.Decrypt(ctx, savior, "mail", api.DecryptRequest{Ciphertext: c})).ok(t)
			if string(got.Plaintext) != "secret" || got.State != name {
				t.Errorf("%+v", got)
			}
			if r := w.record(); r.Outcome != audit.OutcomeOK || r.Details["recovered_from"] != name || r.KeyID != "mail.v1" || len(r.Policies) != 2 {
				t.Errorf("recorded as %+v", r)
			}
			if got := of(w.Rewrap(ctx, savior, "mail", api.RewrapRequest{Ciphertext: c})).ok(t); got.Version != 2 || got.FromVersion != 1 {
				t.Errorf("%+v", got)
			}
			if r := w.record(); r.Details["recovered_from"] != name {
				t.Errorf("recorded as %+v", r)
			}
			verify := api.VerifyRequest{Payload: []byte("x"), Signature: s.Signature, Version: 1}
			if name == "archived" {
				of(w.Verify(ctx, alice, "payments", verify)).fails(t, keys.ErrVersionState)
				if v := of(w.Verify(ctx, savior, "payments", verify)).ok(t); !v.Valid || v.State != "archived" {
					t.Errorf("%+v", v)
				}
				return
			}
			for _, who := range []gateway.Request{alice, savior} { // nobody can tell who made it
				if v := of(w.Verify(ctx, who, "payments", verify)).ok(t); v.Valid || v.Reason != "compromised" || v.State != "compromised" {
					t.Errorf("%+v", v)
				}
			}
		})
	}
}

// A key whose rows were altered is out of use, and is the only one.
func TestAlteredKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	of(w.Revoke(ctx, admin, "payments", 1, api.VersionActRequest{})).ok(t)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.dbDir, "keyhole.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if res, err := db.ExecContext(ctx, "UPDATE versions SET revoked_at = NULL WHERE key_name = 'payments' AND revoked_at IS NOT NULL"); err != nil {
		t.Fatal(err)
	} else if n, err := res.RowsAffected(); n != 1 || err != nil {
		t.Fatalf("%d rows, %v", n, err)
	}
	w.cache = store.NewCache(w.store, store.CacheConfig{Now: w.now})
	if err := w.cache.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	w.snapshots.Cache = w.cache
	w.news()
	for _, op := range append(dataOperations(w), adminOperations(w)...) {
		err := op.call(w, admin, "payments")
		if api.CodeOf(err) != "data_tampered" || len(api.ProblemOf(err).Detail) == 0 {
			t.Errorf("%s: %v", op.action, err)
		}
		if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "data_tampered" {
			t.Errorf("%s: recorded as %+v", op.action, r)
		}
		if err := op.call(w, nobody, "payments"); api.CodeOf(err) != "key_not_found" {
			t.Errorf("%s: %v", op.action, err)
		}
		w.news()
	}
	list := of(w.Keys(ctx, admin, "", 0)).ok(t)
	if len(list.Keys) != 1 || list.Keys[0].Name != "mail" || len(list.Damaged) != 1 || list.Damaged[0] != "payments" {
		t.Errorf("%+v", list)
	}
	if list := of(w.Keys(ctx, admin, "a", 0)).ok(t); list.Damaged != nil {
		t.Errorf("%+v", list)
	}
	if list := of(w.Keys(ctx, nobody, "", 0)).ok(t); len(list.Keys) != 0 || list.Damaged != nil {
		t.Errorf("%+v", list)
	}
	if set := of(w.JWKS(ctx, admin, "")).ok(t); len(set.Keys) != 0 {
		t.Errorf("%+v", set)
	}
	of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t)
}
