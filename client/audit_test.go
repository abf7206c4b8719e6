package client_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"keyhole/audit/checkpoint"
	"keyhole/audit/merkle"
	"keyhole/audit/verify"
	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/gateway/gatewaytest"
	"keyhole/keys"
)

// A receipt leads to a proof that the operation is in the log.
func TestReceiptIsProved(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := startReal(t, gatewaytest.Options{})
	create(t, c, "payments", keys.ES256)
	var r client.Receipt
	if _, err := c.Sign(client.WithReceipt(ctx, &r), "payments", api.SignRequest{Payload: []byte("x")}); err != nil || r.Count != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := c.AuditProof(ctx, r.Seq); !errors.Is(err, keys.ErrNotFound) {
		t.Errorf("a proof without a checkpoint: %v", err)
	}
	fresh, err := c.AuditCheckpoint(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	if last, err := c.AuditCheckpoint(ctx, false); err != nil || string(last) != string(fresh) {
		t.Errorf("the last checkpoint is %q, %v", last, err)
	}
	pem, err := c.AuditKeys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	known, err := checkpoint.ParseKeys(pem)
	if err != nil {
		t.Fatal(err)
	}
	file, err := c.AuditProof(ctx, r.Seq)
	if err != nil {
		t.Fatal(err)
	}
	p, err := verify.ParseProof(file)
	if err != nil {
		t.Fatal(err)
	}
	rec, _, err := p.Check(known)
	if leaf := merkle.LeafHash(p.Line); err != nil || rec.Action != "sign" || string(leaf[:]) != string(r.Leaf) {
		t.Errorf("%+v, %v", rec, err)
	}

	// Batches, refusals and acts have receipts too.
	var batch, refused, act client.Receipt
	if _, err := c.SignBatch(client.WithReceipt(ctx, &batch), "payments", make([]api.SignRequest, 4)); err != nil || batch.Count != 4 {
		t.Errorf("%+v, %v", batch, err)
	}
	if _, err := c.Sign(client.WithReceipt(ctx, &refused), "none", api.SignRequest{}); !errors.Is(err, keys.ErrKeyNotFound) || refused.Seq <= batch.Seq {
		t.Errorf("%+v, %v", refused, err)
	}
	if _, err := c.Rotate(client.WithReceipt(ctx, &act), "payments", api.RotateRequest{}); err != nil || act.Seq <= refused.Seq {
		t.Errorf("%+v, %v", act, err)
	}
	// A call that is not recorded empties what was there.
	if _, err := c.WhoAmI(client.WithReceipt(ctx, &act)); err != nil || act.Count != 0 {
		t.Errorf("%+v, %v", act, err)
	}
}

// Who does not ask is not sent any, and who asks is sent that of the answer
// that came, not of one that was lost.
func TestReceiptOfALostAnswer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var asked counter
	prefers := map[string]bool{}
	c := startReal(t, gatewaytest.Options{Wrap: func(next http.Handler) http.Handler {
		inner := losing(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.mu.Lock()
			prefers[r.URL.Path] = r.Header.Get("Prefer") == "receipt"
			asked.mu.Unlock()
			inner.ServeHTTP(w, r)
		})
	}})
	create(t, c, "payments", keys.ES256)
	var r client.Receipt
	if _, err := c.Sign(client.WithReceipt(ctx, &r), "payments", api.SignRequest{Payload: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	var found []uint64
	for rec, err := range c.AuditRecords(ctx, api.AuditQuery{Action: "sign", Limit: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, rec.Seq)
	}
	if len(found) != 2 || found[0] != r.Seq {
		t.Errorf("the receipt is %+v, the signatures %v", r, found)
	}
	asked.mu.Lock()
	defer asked.mu.Unlock()
	if !prefers["/v1/keys/payments/sign"] || prefers["/v1/admin/keys"] {
		t.Errorf("asked for: %v", prefers)
	}
}

// The log is read page by page, newest first, by every filter.
func TestAuditRecords(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := startReal(t, gatewaytest.Options{})
	k := create(t, c, "payments", keys.ES256)
	for i := range 5 {
		if _, err := c.Sign(ctx, "payments", api.SignRequest{Payload: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	all := func(q api.AuditQuery) (recs []api.AuditRecord) {
		t.Helper()
		for r, err := range c.AuditRecords(ctx, q) {
			if err != nil {
				t.Fatal(err)
			}
			recs = append(recs, r)
		}
		return recs
	}
	signs := all(api.AuditQuery{Key: "payments", KeyID: "payments.v1", Principal: gatewaytest.Principal("alice"), Action: "sign", Outcome: "ok", Limit: 2})
	if len(signs) != 5 {
		t.Fatalf("%+v", signs)
	}
	for i, r := range signs[1:] {
		if r.Seq >= signs[i].Seq || r.Time.After(signs[i].Time.Time) {
			t.Errorf("record %d is behind record %d", r.Seq, signs[i].Seq)
		}
	}
	some := all(api.AuditQuery{Action: "sign", Since: signs[3].Time, Until: signs[1].Time})
	if len(some) != 2 || some[0].Seq != signs[2].Seq || some[1].Seq != signs[3].Seq {
		t.Errorf("between the times: %+v", some)
	}
	if one := all(api.AuditQuery{RequestID: signs[2].RequestID}); len(one) != 1 || one[0].Seq != signs[2].Seq {
		t.Errorf("by its request: %+v", one)
	}
	if none := all(api.AuditQuery{Key: "payments", Until: k.CreatedAt, Action: "sign"}); len(none) != 0 {
		t.Errorf("before the key: %+v", none)
	}
	for r, err := range c.AuditRecords(ctx, api.AuditQuery{Limit: 1001}) {
		if !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

func FuzzParseReceipt(f *testing.F) {
	const leaf = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for _, text := range []string{"seq=0; leaf=" + leaf, "seq=12; count=3; leaf=" + leaf, "seq=1;x=y;leaf=" + leaf, "seq=1", "leaf=" + leaf, "seq=-1; leaf=" + leaf, "seq=1; count=0; leaf=" + leaf, "seq=1; leaf=AA==", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, ok := client.ParseReceipt(text)
		if ok != (r.Count > 0) || ok && len(r.Leaf) != 32 {
			t.Errorf("%q is read as %+v, %v", text, r, ok)
		}
	})
}
