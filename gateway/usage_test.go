package gateway_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/store"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	bob := as("bob", "agents")
	payload := []byte("0123456789")

	s := of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: payload})).ok(t)
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: payload, Format: api.FormatJWS})).ok(t)
	of(w.SignBatch(ctx, bob, "payments", []api.SignRequest{{Payload: payload}, {Payload: payload}, {}})).ok(t)
	of(w.Verify(ctx, bob, "payments", api.VerifyRequest{Payload: payload, Signature: s.Signature, Version: 1})).ok(t)
	if bad := of(w.Verify(ctx, bob, "payments", api.VerifyRequest{Payload: []byte("another"), Signature: s.Signature, Version: 1})).ok(t); bad.Valid {
		t.Error("a signature over another payload is valid") // and no use: garbage would keep a version for ever
	}
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: payload, Format: "nonsense"})).fails(t, keys.ErrInvalid)
	of(w.Sign(ctx, nobody, "payments", api.SignRequest{Payload: payload})).fails(t, keys.ErrKeyNotFound)
	c := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: payload})).ok(t).Ciphertext
	of(w.DataKey(ctx, alice, "mail", api.DataKeyRequest{})).ok(t)
	w.rotate("mail")
	of(w.Decrypt(ctx, bob, "mail", api.DecryptRequest{Ciphertext: c})).ok(t)
	of(w.Rewrap(ctx, bob, "mail", api.RewrapRequest{Ciphertext: c})).ok(t)
	of(w.Decrypt(ctx, bob, "mail", api.DecryptRequest{Ciphertext: c, AAD: []byte("wrong")})).fails(t, keys.ErrDecrypt)

	w.news()
	got := of(w.Usage(ctx, admin, "payments")).ok(t)
	if r := w.record(); r.Action != "read-usage" || r.Outcome != audit.OutcomeOK || r.Key != "payments" {
		t.Errorf("recorded as %+v", r)
	}
	type figures struct{ applied, processed, bytes uint64 }
	of1 := func(u api.Usage) figures {
		if u.Operations != u.Applied+u.Processed || u.Operations > 0 && u.LastUsedAt.IsZero() {
			t.Errorf("%+v", u)
		}
		return figures{u.Applied, u.Processed, u.Bytes}
	}
	v := got.Versions[0]
	if v.KeyID != "payments.v1" || v.State != "active" || of1(v.Usage) != (figures{4, 1, 50}) || v.SafeToDestroy.Safe || len(v.SafeToDestroy.Reasons) == 0 {
		t.Errorf("%+v", v)
	}
	agents := map[string]figures{}
	for _, a := range v.Agents {
		agents[a.Principal] = of1(a.Usage)
	}
	if len(agents) != 2 || agents["jwt:corp:alice"] != (figures{2, 0, 20}) || agents["jwt:corp:bob"] != (figures{2, 1, 30}) {
		t.Errorf("%+v", agents)
	}

	mail := of(w.Usage(ctx, admin, "mail")).ok(t)
	if len(mail.Versions) != 2 || mail.Versions[0].Version != 2 || of1(mail.Versions[0].Usage) != (figures{1, 0, 10}) {
		t.Errorf("%+v", mail.Versions[0])
	}
	if old := mail.Versions[1]; of1(old.Usage) != (figures{2, 2, 62}) || old.SafeToDestroy.Safe {
		t.Errorf("%+v", old)
	}
	w.offset.Add(int64(48 * time.Hour))
	if err := w.cache.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if old := of(w.Usage(ctx, admin, "mail")).ok(t).Versions[1]; !old.SafeToDestroy.Safe || old.SafeToDestroy.Reasons == nil {
		t.Errorf("%+v", old.SafeToDestroy)
	}
}

// full is a usage counter that cannot count any more.
type full struct {
	gateway.Usage
	err error
}

func (f full) Count(context.Context, string, uint32, string, keys.Use, int) error { return f.err }
func (f full) CountWrap(context.Context, string, uint32, string, int) error       { return f.err }

// What cannot be counted is not done, and its result not given.
func TestUncounted(t *testing.T) {
	t.Parallel()
	counter := &full{err: keys.Errorf(keys.ErrStore, "no")}
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) { c.Usage = counter })
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	counter.err = nil
	s := of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
	c := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t).Ciphertext
	counter.err = keys.Errorf(keys.ErrStore, "no")
	before := w.hsm.Calls(hsmtest.Sign) + w.hsm.Calls(hsmtest.Wrap)
	for _, err := range []error{
		of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).err,
		of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x"), Format: api.FormatJWS})).err,
		of(w.Verify(ctx, alice, "payments", api.VerifyRequest{Payload: []byte("x"), Signature: s.Signature, Version: 1})).err,
		of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).err,
		of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: c})).err,
		of(w.DataKey(ctx, alice, "mail", api.DataKeyRequest{})).err,
		of(w.Rewrap(ctx, alice, "mail", api.RewrapRequest{Ciphertext: c})).err,
	} {
		if api.CodeOf(err) != "store_unavailable" {
			t.Errorf("%v", err)
		}
	}
	if n := w.hsm.Calls(hsmtest.Sign) + w.hsm.Calls(hsmtest.Wrap); n != before {
		t.Errorf("%d uncounted operations", n-before)
	}
}

// A version that has wrapped as often as it may wraps no more.
func TestMaxWraps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("mail", keys.A256GCM)
	w.key("rsa", keys.RSAOAEP256)
	used := []keys.Usage{
		{Key: "mail", Version: 1, Principal: "jwt:corp:bob", Applied: keys.MaxWraps, LastUse: w.now()},
		{Key: "rsa", Version: 1, Principal: "jwt:corp:bob", Applied: keys.MaxWraps, LastUse: w.now()},
	}
	if err := w.store.ReserveUsage(ctx, "another node", used); err != nil {
		t.Fatal(err)
	}
	w.offset.Add(int64(time.Hour)) // no node does so many in less
	if err := w.cache.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).fails(t, keys.ErrVersionState)
	of(w.DataKey(ctx, alice, "mail", api.DataKeyRequest{})).fails(t, keys.ErrVersionState)
	of(w.Encrypt(ctx, alice, "rsa", api.EncryptRequest{Plaintext: []byte("x")})).ok(t) // RSA-OAEP has no IVs
	w.rotate("mail")
	of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t)
	if n := len(slices.DeleteFunc(w.news(), func(r audit.Record) bool { return r.Reason != "version_state" })); n != 2 {
		t.Errorf("%d refusals are recorded", n)
	}
}
