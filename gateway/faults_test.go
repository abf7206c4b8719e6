package gateway_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/store"
)

// Nothing is answered that was not recorded.
func TestWithoutAuditNothingIsAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	c := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t)
	token := w.issuer.Token(t, w.issuer.Claims("alice", w.now()))
	before := of(w.Key(ctx, alice, "payments")).ok(t)
	if err := w.log.Close(); err != nil {
		t.Fatal(err)
	}

	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).fails(t, keys.ErrAudit)
	of(w.Verify(ctx, alice, "payments", api.VerifyRequest{Payload: []byte("x"), Signature: signature, Version: 1})).fails(t, keys.ErrAudit)
	of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).fails(t, keys.ErrAudit)
	of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: c.Ciphertext})).fails(t, keys.ErrAudit)
	of(w.Rewrap(ctx, alice, "mail", api.RewrapRequest{Ciphertext: c.Ciphertext})).fails(t, keys.ErrAudit)
	of(w.DataKey(ctx, alice, "mail", api.DataKeyRequest{})).fails(t, keys.ErrAudit)
	of(w.Random(ctx, alice, api.RandomRequest{Bytes: 8})).fails(t, keys.ErrAudit)
	of(w.Key(ctx, alice, "payments")).fails(t, keys.ErrAudit)
	of(w.Keys(ctx, alice, "", 0)).fails(t, keys.ErrAudit)
	of(w.Rotations(ctx, alice, "", "", 0)).fails(t, keys.ErrAudit)
	of(w.SignBatch(ctx, alice, "payments", []api.SignRequest{{Payload: []byte("x")}})).fails(t, keys.ErrAudit)
	of(w.DecryptBatch(ctx, alice, "mail", []api.DecryptRequest{{Ciphertext: c.Ciphertext}})).fails(t, keys.ErrAudit)
	// Not even a refusal, which a prober could learn from.
	for _, op := range append(dataOperations(w), adminOperations(w)...) {
		for _, key := range []string{"payments", "none"} {
			if err := op.call(w, nobody, key); !errors.Is(err, keys.ErrAudit) || errors.Is(err, keys.ErrKeyNotFound) {
				t.Errorf("%s of %q by nobody: %v, want ErrAudit", op.action, key, err)
			}
		}
	}
	for _, op := range adminOperations(w) {
		if err := op.call(w, admin, "payments"); !errors.Is(err, keys.ErrAudit) {
			t.Errorf("%s: %v, want ErrAudit", op.action, err)
		}
	}
	of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "new", Algorithm: "ES256"})).fails(t, keys.ErrAudit)
	if _, err := w.Authenticate(ctx, "r", alice.Source, authz.Credentials{Token: token + "x"}); !errors.Is(err, keys.ErrAudit) {
		t.Errorf("a bad token: %v, want ErrAudit", err)
	}
	if err := w.Refuse(ctx, alice, "sign", "payments", keys.ErrTooLarge); !errors.Is(err, keys.ErrAudit) {
		t.Errorf("Refuse: %v, want ErrAudit", err)
	}
	// And no key was changed.
	all, _, err := w.store.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all {
		if k.Name == "new" || k.Name == "payments" && (k.ActiveAt(w.now()).Number != before.ActiveVersion || k.Description != "") {
			t.Errorf("%+v", k)
		}
	}
	if objects := w.hsm.Backend.(*hsmtest.Memory).Objects(); len(objects) != 2 {
		t.Errorf("the token holds %q", objects)
	}
}

// A record does not depend on whether the caller still waits.
func TestCallerWhoLeavesIsRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("payments", keys.ES256)
	w.news()
	ctx, cancel := context.WithCancel(t.Context())
	entered, release := w.hsm.Block(hsmtest.Sign, 1)
	defer release()
	done := make(chan result[api.SignResponse])
	go func() { done <- of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})) }()
	<-entered
	cancel()
	got := <-done
	if p := api.ProblemOf(got.err); p.Code != "timeout" {
		t.Errorf("%+v", p)
	}
	if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "timeout" || r.KeyID != "payments.v1" {
		t.Errorf("recorded as %+v", r)
	}
}

func TestHSMErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	c := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t)
	secret := errors.New("CKR_SECRET 0x42 at /opt/hsm")
	hsmErr := errors.Join(keys.ErrHSM, secret)
	for method, call := range map[hsmtest.Method]func() error{
		hsmtest.Sign: func() error { return of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).err },
		hsmtest.Verify: func() error {
			return of(w.Verify(ctx, alice, "payments", api.VerifyRequest{Payload: []byte("x"), Signature: signature, Version: 1})).err
		},
		hsmtest.Wrap: func() error { return of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).err },
		hsmtest.Unwrap: func() error {
			return of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: c.Ciphertext})).err
		},
		hsmtest.Random: func() error { return of(w.Random(ctx, alice, api.RandomRequest{Bytes: 4})).err },
	} {
		for _, mode := range []hsmtest.Mode{hsmtest.NotDone, hsmtest.Done} {
			w.news()
			w.hsm.Fail(method, 1, mode, hsmErr)
			err := call()
			if p := api.ProblemOf(err); p.Code != "hsm_unavailable" || p.Detail != "" {
				t.Errorf("%s: %+v", method, p)
			}
			if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "hsm_unavailable" {
				t.Errorf("%s: recorded as %+v", method, r)
			}
			if err := call(); err != nil {
				t.Errorf("%s, afterwards: %v", method, err)
			}
		}
	}
	w.news()
	w.hsm.Fail(hsmtest.Sign, 2, hsmtest.NotDone, hsmErr)
	in := make([]api.SignRequest, 3)
	for i := range in {
		in[i].Payload = []byte("x")
	}
	failed := 0
	for _, item := range of(w.SignBatch(ctx, alice, "payments", in)).ok(t) {
		if item.Error != nil {
			failed++
			if item.Error.Code != "hsm_unavailable" || item.Error.Detail != "" {
				t.Errorf("%+v", item.Error)
			}
		}
	}
	if failed != 1 {
		t.Errorf("%d items failed", failed)
	}
}

// panics is a Crypto with a bug.
type panics struct{ gateway.Crypto }

func (panics) Sign(context.Context, keys.Ref, []byte) ([]byte, error) { panic("a bug") }

func (panics) Random(context.Context, string, int) ([]byte, error) { panic(errors.New("another bug")) }

// A bug in one operation is recorded and harms no other, in a batch neither.
func TestPanics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) { c.Crypto = panics{c.Crypto} })
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.news()
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).fails(t, keys.ErrInternal)
	if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "internal" || r.KeyID != "payments.v1" {
		t.Errorf("recorded as %+v", r)
	}
	of(w.Random(ctx, alice, api.RandomRequest{Bytes: 4})).fails(t, keys.ErrInternal)
	w.news()
	items := of(w.SignBatch(ctx, alice, "payments", []api.SignRequest{{Payload: []byte("x")}, {}, {Payload: []byte("x")}})).ok(t)
	if len(items) != 3 || items[0].Error.Code != "internal" || items[1].Error.Code != "invalid_argument" || items[2].Error.Code != "internal" {
		t.Errorf("%+v", items)
	}
	w.checkRecords("sign", 3, "internal", "invalid_argument", "internal")
}

func TestStaleSnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.offset.Add(int64(31 * time.Second))
	for _, op := range append(dataOperations(w), adminOperations(w)...) {
		for _, key := range []string{"payments", "none"} {
			w.news()
			if err := op.call(w, admin, key); !errors.Is(err, keys.ErrStale) {
				t.Errorf("%s: %v, want ErrStale", op.action, err)
			}
			if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "state_stale" {
				t.Errorf("%s: recorded as %+v", op.action, r)
			}
		}
	}
	of(w.Keys(ctx, admin, "", 0)).fails(t, keys.ErrStale)
	of(w.JWKS(ctx, admin, "")).fails(t, keys.ErrStale)
	rotations, err := w.store.Rotations(ctx, store.RotationFilter{})
	if err != nil {
		t.Fatal(err)
	}
	of(w.Rotation(ctx, admin, rotations[0].ID)).fails(t, keys.ErrStale)
	if err := w.cache.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) {
		c.Limits = authz.NewLimiter(authz.LimiterConfig{InFlight: 1, FailedOperations: 0.01, FailedOperationBurst: 5, Now: c.Now})
	})
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	sealed := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t).Ciphertext

	entered, release := w.hsm.Block(hsmtest.Sign, 1)
	done := make(chan error)
	go func() {
		done <- of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).err
	}()
	<-entered
	w.news()
	for _, op := range append(dataOperations(w), adminOperations(w)...) {
		if err := op.call(w, alice, "payments"); !errors.Is(err, keys.ErrRateLimited) {
			t.Errorf("%s, a second one under way: %v, want ErrRateLimited", op.action, err)
		}
		if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "rate_limited" {
			t.Errorf("%s: recorded as %+v", op.action, r)
		}
	}
	of(w.Sign(ctx, admin, "payments", api.SignRequest{Payload: []byte("x")})).ok(t) // another caller
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)

	bad := api.DecryptRequest{Ciphertext: sealed, AAD: []byte("wrong")}
	of(w.DecryptBatch(ctx, alice, "mail", []api.DecryptRequest{bad, bad, bad})).ok(t)
	of(w.Rewrap(ctx, alice, "mail", api.RewrapRequest{Ciphertext: sealed, AAD: []byte("wrong")})).fails(t, keys.ErrDecrypt)
	of(w.Decrypt(ctx, alice, "mail", bad)).fails(t, keys.ErrDecrypt)
	of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: sealed})).fails(t, keys.ErrRateLimited)
	of(w.Rewrap(ctx, alice, "mail", api.RewrapRequest{Ciphertext: sealed})).fails(t, keys.ErrRateLimited)
	items := of(w.DecryptBatch(ctx, alice, "mail", []api.DecryptRequest{bad, {Ciphertext: sealed}})).ok(t)
	for i, item := range items { // a batch is no way around
		if item.Error == nil || item.Error.Code != "rate_limited" {
			t.Errorf("item %d: %+v", i, item)
		}
	}
	// Whoever feeds an agent bad ciphertexts does not stop all of its work.
	of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t)
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
	var limited *authz.RateLimited
	if err := of(w.Decrypt(ctx, alice, "mail", bad)).err; !errors.As(err, &limited) || limited.RetryAfter <= 0 {
		t.Errorf("%v does not say when to come back", err)
	}
	w.offset.Add(int64(200 * time.Second))
	if err := w.cache.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: sealed})).ok(t)
}

// Addresses are cheap: a flood of them does not make the gateway forget what
// it knows of callers who have names.
func TestAnonymousFloodForgetsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) {
		c.Limits = authz.NewLimiter(authz.LimiterConfig{FailedOperations: 0.01, FailedOperationBurst: 1, Entries: 64, Now: c.Now})
	})
	ctx := t.Context()
	w.key("mail", keys.A256GCM)
	sealed := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t).Ciphertext
	of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: sealed, AAD: []byte("wrong")})).fails(t, keys.ErrDecrypt)
	of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: sealed})).fails(t, keys.ErrRateLimited)
	for i := range 1000 {
		from := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, byte(i >> 8), byte(i)})
		of(w.JWKS(ctx, w.Anonymous("r", from), "none")).fails(t, keys.ErrUnauthenticated)
	}
	of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: sealed})).fails(t, keys.ErrRateLimited)
}

// One anonymous caller cannot keep out the others.
func TestAnonymousLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) {
		c.Limits = authz.NewLimiter(authz.LimiterConfig{Rate: 0.001, Burst: 2, Now: c.Now})
	})
	ctx := t.Context()
	of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "site", Algorithm: "ES256", Tags: map[string]string{"public": "yes"}})).ok(t)
	from := func(a string) gateway.Request { return w.Anonymous("r", addr(a)) }
	w.news()
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"} {
		for range 2 {
			if set := of(w.JWKS(ctx, from(a), "site")).ok(t); len(set.Keys) != 1 {
				t.Errorf("%+v", set)
			}
		}
		of(w.JWKS(ctx, from(a), "site")).fails(t, keys.ErrRateLimited)
	}
	of(w.JWKS(ctx, from("2001:db8::2"), "site")).fails(t, keys.ErrRateLimited) // of the same /64
	of(w.JWKS(ctx, from("::ffff:192.0.2.1"), "site")).fails(t, keys.ErrRateLimited)
	if recs := w.news(); len(recs) != 0 {
		t.Errorf("a flood of anonymous requests writes %d records", len(recs))
	}
}
