package rest_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"keyhole/gateway/api"
)

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func TestDataPlane(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	hello := b64([]byte("hello"))

	signed := read[api.SignResponse](agent.post("/v1/keys/payments/sign", `{"payload":"`+hello+`"}`).want(200))
	if signed.KeyID != "payments.v1" || len(signed.Signature) != 64 {
		t.Errorf("signed: %+v", signed)
	}
	verify := func(sig []byte) api.VerifyResponse {
		return read[api.VerifyResponse](agent.post("/v1/keys/payments/verify",
			fmt.Sprintf(`{"payload":%q,"signature":%q,"version":1}`, hello, b64(sig))).want(200))
	}
	if v := verify(signed.Signature); !v.Valid || v.State != "active" {
		t.Errorf("verified: %+v", v)
	}
	signed.Signature[10] ^= 1
	if v := verify(signed.Signature); v.Valid || v.Reason != api.ReasonBadSignature {
		t.Errorf("a changed signature: %+v", v)
	}
	digest := sha256.Sum256([]byte("hello"))
	agent.post("/v1/keys/payments/sign", `{"digest":"`+b64(digest[:])+`","hash":"sha-256","format":"der"}`).want(200)
	jws := read[api.SignResponse](agent.post("/v1/keys/payments/sign", `{"payload":"","format":"jws"}`).want(200))
	if v := read[api.VerifyResponse](agent.post("/v1/keys/payments/verify", `{"jws":"`+jws.JWS+`"}`).want(200)); !v.Valid {
		t.Errorf("a JWS: %+v", v)
	}

	sealed := read[api.EncryptResponse](agent.post("/v1/keys/orders/encrypt", `{"plaintext":"`+hello+`","aad":"YQ=="}`).want(200))
	opened := read[api.DecryptResponse](agent.post("/v1/keys/orders/decrypt", `{"ciphertext":"`+sealed.Ciphertext+`","aad":"YQ=="}`).want(200))
	if string(opened.Plaintext) != "hello" {
		t.Errorf("opened: %+v", opened)
	}
	agent.post("/v1/keys/orders/decrypt", `{"ciphertext":"`+sealed.Ciphertext+`","aad":"Yg=="}`).refused(422, "decryption_failed")
	agent.post("/v1/keys/orders/decrypt", `{"ciphertext":"`+sealed.Ciphertext[:len(sealed.Ciphertext)-4]+`AAAA","aad":"YQ=="}`).refused(422, "decryption_failed")
	agent.post("/v1/keys/payments/decrypt", `{"ciphertext":"`+sealed.Ciphertext+`","aad":"YQ=="}`).refused(422, "invalid_argument")

	s.as(t, "admin").post("/v1/admin/keys/orders/rotate", `{}`).want(202)
	again := read[api.RewrapResponse](agent.post("/v1/keys/orders/rewrap", `{"ciphertext":"`+sealed.Ciphertext+`","aad":"YQ=="}`).want(200))
	if again.FromVersion != 1 || again.Version != 2 || !strings.HasPrefix(again.Ciphertext, "kh1:orders.v2:") {
		t.Errorf("rewrapped: %+v", again)
	}
	if old := read[api.DecryptResponse](agent.post("/v1/keys/orders/decrypt", `{"ciphertext":"`+sealed.Ciphertext+`","aad":"YQ=="}`).want(200)); old.State != "deactivated" {
		t.Errorf("the old one: %+v", old)
	}

	key := read[api.DataKeyResponse](agent.post("/v1/keys/orders/datakey", `{"bits":128}`).want(200))
	if len(key.Plaintext) != 16 {
		t.Errorf("data key: %+v", key)
	}
	if key := read[api.DataKeyResponse](agent.post("/v1/keys/orders/datakey", `{"plaintext":false}`).want(200)); key.Plaintext != nil {
		t.Errorf("a data key that stays sealed: %+v", key)
	}
	if r := read[api.RandomResponse](agent.post("/v1/random", `{"bytes":33}`).want(200)); len(r.Random) != 33 {
		t.Errorf("random: %+v", r)
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	res := agent.post("/v1/keys/payments/sign/batch", `{"items":[{"payload":"YQ=="},{"digest":"YQ=="},{"payload":"Yg=="}]}`).want(200)
	signed := read[api.BatchResponse[api.SignResponse]](res)
	if len(signed.Items) != 3 || signed.Items[0].Result == nil || signed.Items[1].Error == nil || signed.Items[1].Error.Code != "invalid_argument" {
		t.Fatalf("signed: %s", res.body)
	}
	if recs := s.recorded(t, res); len(recs) != 3 {
		t.Errorf("%d records for 3 items", len(recs))
	}
	res = agent.post("/v1/keys/payments/verify/batch", fmt.Sprintf(`{"items":[{"payload":"YQ==","signature":%q,"version":1}]}`, b64(signed.Items[0].Result.Signature))).want(200)
	if v := read[api.BatchResponse[api.VerifyResponse]](res); !v.Items[0].Result.Valid {
		t.Errorf("verified: %s", res.body)
	}
	sealed := read[api.BatchResponse[api.EncryptResponse]](agent.post("/v1/keys/orders/encrypt/batch", `{"items":[{"plaintext":"YQ=="},{"plaintext":""}]}`).want(200))
	body := fmt.Sprintf(`{"items":[{"ciphertext":%q},{"ciphertext":%q},{"ciphertext":"x"}]}`, sealed.Items[0].Result.Ciphertext, sealed.Items[1].Result.Ciphertext)
	opened := read[api.BatchResponse[api.DecryptResponse]](agent.post("/v1/keys/orders/decrypt/batch", body).want(200))
	if string(opened.Items[0].Result.Plaintext) != "a" || len(opened.Items[1].Result.Plaintext) != 0 || opened.Items[2].Error == nil {
		t.Errorf("opened: %+v", opened)
	}
	if again := read[api.BatchResponse[api.RewrapResponse]](agent.post("/v1/keys/orders/rewrap/batch", body).want(200)); again.Items[0].Result == nil {
		t.Errorf("rewrapped: %+v", again)
	}

	most := strings.TrimSuffix(strings.Repeat(`{},`, api.MaxBatch), ",")
	agent.post("/v1/keys/payments/sign/batch", `{"items":[`+most+`]}`).want(200)
	// One too many is not even read: there could be millions in a body.
	if d := agent.post("/v1/keys/payments/sign/batch", `{"items":[`+most+`,{}]}`).refused(422, "invalid_argument"); !strings.Contains(d, "more than 1000") {
		t.Errorf("the detail is %q", d)
	}
	agent.post("/v1/keys/payments/sign/batch", `{"items":[]}`).refused(422, "invalid_argument")
	agent.post("/v1/keys/payments/sign/batch", `{}`).refused(422, "invalid_argument")
	if d := agent.post("/v1/keys/payments/sign/batch", `{"items":[{},{"payload":"YQ"}]}`).refused(400, "malformed_request"); !strings.Contains(d, `"items[1].payload"`) {
		t.Errorf("the detail is %q", d)
	}
	agent.post("/v1/keys/payments/sign/batch", `{"items":[{},{"payloads":""}]}`).refused(400, "malformed_request")
	agent.post("/v1/keys/payments/sign/batch", `{"items":{}}`).refused(400, "malformed_request")
	agent.post("/v1/keys/hidden/sign/batch", `{"items":[{}]}`).refused(404, "key_not_found")
}
