package gateway_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// operation is any method of the core that is about one key, with a request
// that would be right.
type operation struct {
	action string
	call   func(w *world, req gateway.Request, key string) error
}

var signature = []byte(strings.Repeat("s", 64))

func dataOperations(w *world) []operation {
	ctx := w.t.Context()
	return []operation{
		{"sign", func(w *world, r gateway.Request, k string) error {
			return of(w.Sign(ctx, r, k, api.SignRequest{Payload: []byte("x")})).err
		}},
		{"verify", func(w *world, r gateway.Request, k string) error {
			return of(w.Verify(ctx, r, k, api.VerifyRequest{Payload: []byte("x"), Signature: signature, Version: 1})).err
		}},
		{"encrypt", func(w *world, r gateway.Request, k string) error {
			return of(w.Encrypt(ctx, r, k, api.EncryptRequest{Plaintext: []byte("x")})).err
		}},
		{"decrypt", func(w *world, r gateway.Request, k string) error {
			return of(w.Decrypt(ctx, r, k, api.DecryptRequest{Ciphertext: "kh1:" + k + ".v1:" + strings.Repeat("A", 100)})).err
		}},
		{"rewrap", func(w *world, r gateway.Request, k string) error {
			return of(w.Rewrap(ctx, r, k, api.RewrapRequest{Ciphertext: "kh1:" + k + ".v1:" + strings.Repeat("A", 100)})).err
		}},
		{"datakey", func(w *world, r gateway.Request, k string) error {
			return of(w.DataKey(ctx, r, k, api.DataKeyRequest{})).err
		}},
		{"read", func(w *world, r gateway.Request, k string) error { return of(w.Key(ctx, r, k)).err }},
		{"jwks", func(w *world, r gateway.Request, k string) error { return of(w.JWKS(ctx, r, k)).err }},
		{"jwks", func(w *world, r gateway.Request, k string) error { return of(w.Status(ctx, r, k)).err }},
		{"subscribe", func(w *world, r gateway.Request, k string) error { return of(w.Subscribe(ctx, r, k)).err }},
		{"subscribe", func(w *world, r gateway.Request, k string) error { return w.Unsubscribe(ctx, r, k) }},
		{"subscribe", func(w *world, r gateway.Request, k string) error { return of(w.Acknowledge(ctx, r, k, 1)).err }},
		{"read", func(w *world, r gateway.Request, k string) error {
			gone := errors.New("the stream began")
			return w.Events(ctx, r, gateway.EventQuery{Keys: []string{k}}, nil, func() error { return gone })
		}},
		{"sign", func(w *world, r gateway.Request, k string) error {
			return of(w.SignBatch(ctx, r, k, []api.SignRequest{{Payload: []byte("x")}, {}})).err
		}},
		{"verify", func(w *world, r gateway.Request, k string) error {
			return of(w.VerifyBatch(ctx, r, k, []api.VerifyRequest{{}, {}})).err
		}},
		{"encrypt", func(w *world, r gateway.Request, k string) error {
			return of(w.EncryptBatch(ctx, r, k, []api.EncryptRequest{{}, {}})).err
		}},
		{"decrypt", func(w *world, r gateway.Request, k string) error {
			return of(w.DecryptBatch(ctx, r, k, []api.DecryptRequest{{}, {}})).err
		}},
		{"rewrap", func(w *world, r gateway.Request, k string) error {
			return of(w.RewrapBatch(ctx, r, k, []api.RewrapRequest{{}, {}})).err
		}},
	}
}

func adminOperations(w *world) []operation {
	ctx := w.t.Context()
	text := "new"
	return []operation{
		{"update-key", func(w *world, r gateway.Request, k string) error {
			return of(w.UpdateKey(ctx, r, k, api.UpdateKeyRequest{Description: &text})).err
		}},
		{"rotate", func(w *world, r gateway.Request, k string) error {
			return of(w.Rotate(ctx, r, k, api.RotateRequest{})).err
		}},
		{"suspend", func(w *world, r gateway.Request, k string) error {
			return of(w.Suspend(ctx, r, k, 1, api.VersionActRequest{})).err
		}},
		{"resume", func(w *world, r gateway.Request, k string) error {
			return of(w.Resume(ctx, r, k, 1, api.VersionActRequest{})).err
		}},
		{"revoke", func(w *world, r gateway.Request, k string) error {
			return of(w.Revoke(ctx, r, k, 1, api.VersionActRequest{})).err
		}},
		{"restore", func(w *world, r gateway.Request, k string) error {
			return of(w.Restore(ctx, r, k, 1, api.VersionActRequest{})).err
		}},
		{"restore", func(w *world, r gateway.Request, k string) error {
			return of(w.RestoreKey(ctx, r, k, api.VersionActRequest{})).err
		}},
		{"destroy", func(w *world, r gateway.Request, k string) error {
			return of(w.Destroy(ctx, r, k, 1, api.DestroyRequest{})).err
		}},
		{"delete-key", func(w *world, r gateway.Request, k string) error {
			return of(w.DeleteKey(ctx, r, k, api.DestroyRequest{})).err
		}},
		{"read-usage", func(w *world, r gateway.Request, k string) error { return of(w.Usage(ctx, r, k)).err }},
		{"list-rotations", func(w *world, r gateway.Request, k string) error {
			return of(w.Rotations(ctx, r, k, "", 0)).err
		}},
	}
}

// A key that one may not see is the same answer as none, and each of both is
// one record. A key that one may see, but not use, is forbidden.
func TestWhatOneMayNotSeeIsNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("payments", keys.ES256)
	w.news()
	for _, op := range append(dataOperations(w), adminOperations(w)...) {
		hidden, none := op.call(w, nobody, "payments"), op.call(w, nobody, "paymentz")
		if !errors.Is(hidden, keys.ErrKeyNotFound) || !errors.Is(none, keys.ErrKeyNotFound) {
			t.Errorf("%s: hidden: %v, none: %v", op.action, hidden, none)
			continue
		}
		if a, b := api.ProblemOf(hidden), api.ProblemOf(none); strings.ReplaceAll(b.Detail, "paymentz", "payments") != a.Detail {
			t.Errorf("%s: the answers differ: %+v, %+v", op.action, a, b)
		}
		recs := w.news()
		if len(recs) != 2 {
			t.Fatalf("%s: %d records", op.action, len(recs))
		}
		for i, r := range recs {
			if r.Action != op.action || r.Principal != nobody.Caller.ID || r.Outcome == audit.OutcomeOK ||
				r.RequestID != nobody.ID || r.Source != "192.0.2.7" || r.AuthMethod != "jwt" {
				t.Errorf("%s: recorded as %+v", op.action, r)
			}
			if want := []string{"forbidden", "key_not_found"}[i]; r.Reason != want || r.Key != []string{"payments", "paymentz"}[i] {
				t.Errorf("%s: the reason recorded is %q, want %q: %+v", op.action, r.Reason, want, r)
			}
		}
		if op.action == "read" {
			continue
		}
		if err := op.call(w, auditor, "payments"); !errors.Is(err, keys.ErrForbidden) {
			t.Errorf("%s of a key one may see: %v, want ErrForbidden", op.action, err)
		}
		if r := w.record(); r.Outcome != audit.OutcomeDenied || r.Reason != "forbidden" || r.Key != "payments" || len(r.Policies) != 0 {
			t.Errorf("%s: recorded as %+v", op.action, r)
		}
	}
	if n := w.hsm.Calls("Sign") + w.hsm.Calls("Wrap") + w.hsm.Calls("Unwrap") + w.hsm.Calls("Verify") + w.hsm.Calls("Random"); n != 0 {
		t.Errorf("the HSM was asked %d times for callers who may not", n)
	}
	if k := of(w.Key(t.Context(), admin, "payments")).ok(t); k.Epoch != 2 || k.Description != "" || len(k.Versions) != 1 {
		t.Errorf("the key was changed: %+v", k)
	}
}

// A transport that forgets to authenticate, or a policy that permits
// everybody, opens nothing to callers without a name.
func TestCallersWithoutAName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("payments", keys.ES256, "open")
	ctx := t.Context()
	anonymous := w.Anonymous("req-anon", netip.MustParseAddr("192.0.2.9"))
	forgotten := gateway.Request{ID: "req-zero"}
	admitted, release, err := w.Admit(ctx, anonymous, "jwks", "payments") // to read public keys, and nothing else
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, _, err := w.Admit(ctx, anonymous, "sign", "payments"); !errors.Is(err, keys.ErrUnauthenticated) {
		t.Errorf("admitted to sign: %v", err)
	}
	for _, req := range []gateway.Request{anonymous, forgotten, admitted} {
		w.news()
		for _, op := range append(dataOperations(w), adminOperations(w)...) {
			if op.action == "jwks" {
				continue
			}
			if err := op.call(w, req, "payments"); !errors.Is(err, keys.ErrUnauthenticated) {
				t.Errorf("%s by %q: %v, want ErrUnauthenticated", op.action, req.Caller.ID, err)
			}
			if r := w.record(); r.Outcome != audit.OutcomeDenied || r.Reason != "unauthenticated" || r.Action != op.action {
				t.Errorf("%s: recorded as %+v", op.action, r)
			}
		}
		of(w.Random(ctx, req, api.RandomRequest{Bytes: 8})).fails(t, keys.ErrUnauthenticated)
		of(w.CreateKey(ctx, req, api.CreateKeyRequest{Name: "a", Algorithm: "ES256"})).fails(t, keys.ErrUnauthenticated)
		of(w.Keys(ctx, req, "", 0)).fails(t, keys.ErrUnauthenticated)
		of(w.Rotation(ctx, req, "01")).fails(t, keys.ErrUnauthenticated)
	}
	of(w.JWKS(ctx, forgotten, "payments")).fails(t, keys.ErrUnauthenticated)
	if v := of(w.Verify(ctx, nobody, "payments", api.VerifyRequest{Payload: []byte("x"), Signature: signature, Version: 1})).ok(t); v.Valid {
		t.Error("valid")
	}
}

func TestPolicySeesStateAndSize(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	old := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t)
	w.rotate("mail")
	late, small := as("late", "late", "auditors"), as("small", "small", "auditors")

	of(w.Decrypt(ctx, late, "mail", api.DecryptRequest{Ciphertext: old.Ciphertext})).ok(t)
	now := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t)
	of(w.Decrypt(ctx, late, "mail", api.DecryptRequest{Ciphertext: now.Ciphertext})).fails(t, keys.ErrForbidden)

	of(w.Sign(ctx, small, "payments", api.SignRequest{Payload: []byte("12345678")})).ok(t)
	of(w.Sign(ctx, small, "payments", api.SignRequest{Payload: []byte("123456789")})).fails(t, keys.ErrForbidden)

	// A batch is judged item by item, also where the policy asks for a state
	// that the active version is not in.
	items := of(w.DecryptBatch(ctx, late, "mail", []api.DecryptRequest{{Ciphertext: old.Ciphertext}, {Ciphertext: now.Ciphertext}})).ok(t)
	if items[0].Result == nil || items[1].Error == nil || items[1].Error.Code != "forbidden" {
		t.Errorf("batch: %+v", items)
	}
	signed := of(w.SignBatch(ctx, small, "payments", []api.SignRequest{{Payload: []byte("1")}, {Payload: []byte("123456789")}})).ok(t)
	if signed[0].Result == nil || signed[1].Error == nil || signed[1].Error.Code != "forbidden" {
		t.Errorf("batch: %+v", signed)
	}
}

// What a caller wrote is bounded in records and answers.
func TestCallersTextIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	ctx := t.Context()
	long := strings.Repeat("x", 100_000)
	w.news()
	var errs []error
	for _, op := range append(dataOperations(w), adminOperations(w)...) {
		errs = append(errs, op.call(w, alice, long))
	}
	errs = append(errs,
		of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x"), Format: long})).err,
		of(w.Sign(ctx, alice, "payments", api.SignRequest{Digest: signature[:32], Hash: long})).err,
		of(w.Verify(ctx, alice, "payments", api.VerifyRequest{JWS: long})).err,
		of(w.Verify(ctx, alice, "payments", api.VerifyRequest{Signature: signature, Version: 1, Format: long})).err,
		of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: "kh1:" + long + ":" + long})).err,
		of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: long})).err,
		of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{JWE: long})).err,
		of(w.Rotation(ctx, alice, long)).err,
		of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: long, Algorithm: "ES256"})).err,
		of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "a", Algorithm: long})).err,
		of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "a", Algorithm: "ES256", Description: long})).err,
		of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "a", Algorithm: "ES256", Token: long})).err,
		of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "a", Algorithm: "ES256", Tags: map[string]string{long: "x"}})).err,
		of(w.Rotate(ctx, admin, "payments", api.RotateRequest{Reason: long})).err,
		of(w.Rotate(ctx, admin, "payments", api.RotateRequest{Algorithm: long})).err,
		of(w.Suspend(ctx, admin, "payments", 1, api.VersionActRequest{Reason: long})).err,
		w.Refuse(ctx, alice, "sign", long, keys.Errorf(keys.ErrTooLarge, "too large")),
	)
	for i, err := range errs {
		if p := api.ProblemOf(err); err == nil || p.Status >= 500 || len(p.Detail) > 500 {
			t.Errorf("error %d: %.600s", i, err)
		}
	}
	for _, r := range w.news() {
		if len(r.Key) > 80 || len(r.Reason) > 100 || len(r.KeyID) > 80 || r.Outcome == audit.OutcomeOK {
			t.Errorf("recorded as %+v", r)
		}
	}
	w.offset.Add(int64(time.Minute)) // stale: the name cannot be looked up
	of(w.Sign(ctx, alice, long, api.SignRequest{Payload: []byte("x")})).fails(t, keys.ErrStale)
	if r := w.record(); len(r.Key) > 80 {
		t.Errorf("the record holds a name of %d bytes", len(r.Key))
	}
}

func TestReservedButNeverGenerated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	reserve := func(k *keys.Key) {
		v := *k.Versions[0]
		k.Versions = append(k.Versions, &keys.Version{Number: 2, ObjectID: keys.NewObjectID(), Algorithm: v.Algorithm, Bits: v.Bits, ReservedAt: w.now()})
	}
	w.change("payments", reserve)
	w.change("mail", reserve)
	of(w.Verify(ctx, alice, "payments", api.VerifyRequest{Payload: []byte("x"), Signature: signature, Version: 2})).fails(t, keys.ErrVersionNotFound)
	of(w.Verify(ctx, alice, "payments", api.VerifyRequest{Payload: []byte("x"), Signature: signature, Version: 3})).fails(t, keys.ErrVersionNotFound)
	sealed := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t).Ciphertext
	sealed = strings.Replace(sealed, "mail.v1", "mail.v2", 1)
	of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: sealed})).fails(t, keys.ErrVersionNotFound)
	for name, act := range map[string]func() error{
		"suspend": func() error { return of(w.Suspend(ctx, admin, "payments", 2, api.VersionActRequest{})).err },
		"resume":  func() error { return of(w.Resume(ctx, admin, "payments", 2, api.VersionActRequest{})).err },
		"revoke":  func() error { return of(w.Revoke(ctx, admin, "payments", 2, api.VersionActRequest{})).err },
	} {
		if err := act(); !errors.Is(err, keys.ErrVersionNotFound) {
			t.Errorf("%s: %v, want ErrVersionNotFound", name, err)
		}
	}
	if k := of(w.Key(ctx, alice, "payments")).ok(t); len(k.Versions) != 1 {
		t.Errorf("%d versions are shown", len(k.Versions))
	}

	// A key of which nothing was generated yet is not there at all.
	v := &keys.Version{Number: 1, ObjectID: keys.NewObjectID(), Algorithm: keys.ES256, Bits: 256, ReservedAt: w.now()}
	w.commit(&keys.Key{
		Name: "born", Purpose: keys.PurposeSign, Algorithm: keys.ES256, Bits: 256, Token: "memory", Epoch: 1, CreatedAt: w.now(),
		Tags: map[string]string{"team": "pay"}, Versions: []*keys.Version{v},
	})
	for _, op := range append(dataOperations(w), adminOperations(w)...) {
		if err := op.call(w, admin, "born"); !errors.Is(err, keys.ErrKeyNotFound) {
			t.Errorf("%s: %v, want ErrKeyNotFound", op.action, err)
		}
	}
	if list := of(w.Keys(ctx, admin, "", 0)).ok(t); len(list.Keys) != 2 {
		t.Errorf("%d keys are listed", len(list.Keys))
	}
}
