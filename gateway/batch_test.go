package gateway_test

import (
	"context"
	"fmt"
	"testing"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/store"
)

// One item's failure fails no other, and each item is one record.
func TestBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	w.key("other", keys.A256GCM)
	foreign := of(w.Encrypt(ctx, alice, "other", api.EncryptRequest{Plaintext: []byte("x")})).ok(t).Ciphertext
	w.news()

	signed := of(w.SignBatch(ctx, alice, "payments", []api.SignRequest{
		{Payload: []byte("a")}, {}, {Payload: []byte("b"), Format: api.FormatJWS}, {Digest: []byte("short")}, {Payload: []byte("ccc")},
	})).ok(t)
	checkItems(t, signed, "", "invalid_argument", "", "invalid_argument", "")
	recs := w.checkRecords("sign", 5, "ok", "invalid_argument", "ok", "invalid_argument", "ok")
	if recs[4].Size != 3 || recs[4].KeyID != "payments.v1" {
		t.Errorf("recorded as %+v", recs[4])
	}

	verified := of(w.VerifyBatch(ctx, alice, "payments", []api.VerifyRequest{
		{Payload: []byte("a"), Signature: signed[0].Result.Signature, Version: 1},
		{Payload: []byte("b"), Signature: signed[0].Result.Signature, Version: 1},
		{Payload: []byte("b"), Signature: signed[0].Result.Signature, Version: 7},
		{JWS: signed[2].Result.JWS},
	})).ok(t)
	checkItems(t, verified, "", "", "version_not_found", "")
	if !verified[0].Result.Valid || verified[1].Result.Valid || !verified[3].Result.Valid {
		t.Errorf("%+v", verified)
	}
	w.checkRecords("verify", 4, "ok", "bad-signature", "version_not_found", "ok")

	sealed := of(w.EncryptBatch(ctx, alice, "mail", []api.EncryptRequest{{Plaintext: []byte("a")}, {}, {Plaintext: []byte("b"), AAD: []byte("x")}})).ok(t)
	checkItems(t, sealed, "", "invalid_argument", "")
	w.checkRecords("encrypt", 3, "ok", "invalid_argument", "ok")

	opened := of(w.DecryptBatch(ctx, alice, "mail", []api.DecryptRequest{
		{Ciphertext: sealed[0].Result.Ciphertext}, {Ciphertext: sealed[2].Result.Ciphertext}, {Ciphertext: foreign},
		{Ciphertext: sealed[2].Result.Ciphertext, AAD: []byte("x")},
	})).ok(t)
	checkItems(t, opened, "", "decryption_failed", "invalid_argument", "")
	if string(opened[0].Result.Plaintext) != "a" || string(opened[3].Result.Plaintext) != "b" {
		t.Errorf("%+v", opened)
	}
	w.checkRecords("decrypt", 4, "ok", "decryption_failed", "invalid_argument", "ok")

	w.rotate("mail")
	w.news()
	rewrapped := of(w.RewrapBatch(ctx, alice, "mail", []api.RewrapRequest{{Ciphertext: sealed[0].Result.Ciphertext}, {Ciphertext: foreign}})).ok(t)
	checkItems(t, rewrapped, "", "invalid_argument")
	if r := rewrapped[0].Result; r.FromVersion != 1 || r.Version != 2 {
		t.Errorf("%+v", r)
	}
	w.checkRecords("rewrap", 2, "ok", "invalid_argument")

	wrong := of(w.SignBatch(ctx, alice, "mail", []api.SignRequest{{Payload: []byte("a")}})).ok(t)
	checkItems(t, wrong, "wrong_purpose")
}

func checkItems[T any](t *testing.T, items []api.BatchItem[T], codes ...string) {
	t.Helper()
	if len(items) != len(codes) {
		t.Fatalf("%d items, want %d", len(items), len(codes))
	}
	for i, it := range items {
		code := ""
		if it.Error != nil {
			code = it.Error.Code
			if it.Error.Status != api.Codes()[code] || it.Error.Detail == "" {
				t.Errorf("item %d: %+v", i, it.Error)
			}
		}
		if code != codes[i] || (it.Result != nil) != (code == "") {
			t.Errorf("item %d: %+v, %q, want %q", i, it.Result, code, codes[i])
		}
	}
}

// checkRecords checks the records of a batch: each says ok, or why not.
func (w *world) checkRecords(action string, n int, reasons ...string) []audit.Record {
	w.t.Helper()
	recs := w.news()
	if len(recs) != n {
		w.t.Fatalf("%d records, want %d: %+v", len(recs), n, recs)
	}
	for i, r := range recs {
		want := reasons[i]
		if want == "ok" {
			want = ""
		}
		if r.Action != action || r.Reason != want || r.RequestID != alice.ID || r.Principal != alice.Caller.ID {
			w.t.Errorf("item %d is recorded as %+v, want the reason %q", i, r, reasons[i])
		}
	}
	return recs
}

func TestBatchSizes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.news()
	for _, n := range []int{0, api.MaxBatch + 1} {
		of(w.SignBatch(ctx, alice, "payments", make([]api.SignRequest, n))).fails(t, keys.ErrInvalid)
		if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "invalid_argument" {
			t.Errorf("%d items: recorded as %+v", n, r)
		}
	}
	in := make([]api.SignRequest, api.MaxBatch)
	for i := range in {
		in[i].Payload = fmt.Append(nil, i)
	}
	out := of(w.SignBatch(ctx, alice, "payments", in)).ok(t)
	for _, i := range []int{0, 1, 500, api.MaxBatch - 1} { // in the order asked
		v := of(w.Verify(ctx, alice, "payments", api.VerifyRequest{Payload: in[i].Payload, Signature: out[i].Result.Signature, Version: 1})).ok(t)
		if !v.Valid {
			t.Errorf("item %d does not verify", i)
		}
	}
	if n := len(w.news()); n != api.MaxBatch+4 {
		t.Errorf("%d records", n)
	}
}

// A batch takes no more than its share of the HSM.
func TestBatchRunsAFewAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) { c.Parallel = 2 })
	w.key("payments", keys.ES256)
	in := make([]api.SignRequest, 6)
	for i := range in {
		in[i].Payload = []byte("x")
	}
	entered1, release1 := w.hsm.Block(hsmtest.Sign, 1)
	entered2, release2 := w.hsm.Block(hsmtest.Sign, 2)
	entered3, release3 := w.hsm.Block(hsmtest.Sign, 3)
	done := make(chan result[[]api.BatchItem[api.SignResponse]])
	go func() { done <- of(w.SignBatch(context.Background(), alice, "payments", in)) }()
	<-entered1
	<-entered2
	select {
	case <-entered3:
		t.Error("a third operation of the batch began")
	default:
	}
	release1()
	<-entered3
	release2()
	release3()
	if out := (<-done).ok(t); len(out) != len(in) {
		t.Errorf("%d items", len(out))
	}
}
