package rest_test

import (
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyhole/audit"
	"keyhole/gateway/api"
)

// What is well-formed and means nothing is refused by name, recorded, and
// leaves the gateway as it was.
func TestMeaninglessRequests(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent, admin := s.as(t, "agent"), s.as(t, "admin")
	admin.post("/v1/admin/keys", `{"name":"ed","algorithm":"EdDSA"}`).want(201)
	admin.post("/v1/admin/keys/payments/rotate", `{}`).want(202)
	admin.post("/v1/admin/keys/payments/versions/1/revoke", `{}`).want(200)
	good := read[api.SignResponse](agent.post("/v1/keys/payments/sign", `{"payload":"YQ=="}`).want(200))
	digest := b64(make([]byte, 32))
	for _, tt := range []struct {
		path, body string
		status     int
		code       string
	}{
		{"payments/sign", `{}`, 422, "invalid_argument"},
		{"payments/sign", `{"payload":"","digest":"` + digest + `"}`, 422, "invalid_argument"},
		{"payments/sign", `{"digest":"YQ=="}`, 422, "invalid_argument"},
		{"payments/sign", `{"digest":""}`, 422, "invalid_argument"},
		{"payments/sign", `{"digest":"` + b64(make([]byte, 48)) + `","hash":"sha-384"}`, 422, "invalid_argument"},
		{"payments/sign", `{"digest":"` + digest + `","hash":"md5"}`, 422, "invalid_argument"},
		{"payments/sign", `{"payload":"","hash":"sha-256"}`, 422, "invalid_argument"},
		{"payments/sign", `{"payload":"","format":"pem"}`, 422, "invalid_argument"},
		{"payments/sign", `{"digest":"` + digest + `","format":"jws"}`, 422, "invalid_argument"},
		{"ed/sign", `{"digest":"` + digest + `"}`, 422, "invalid_argument"},
		{"orders/sign", `{"payload":""}`, 422, "wrong_purpose"},
		{"payments/encrypt", `{"plaintext":""}`, 422, "wrong_purpose"},
		{"payments/datakey", `{}`, 422, "wrong_purpose"},
		{"orders/datakey", `{"bits":512}`, 422, "invalid_argument"},
		{"orders/encrypt", `{}`, 422, "invalid_argument"},
		{"orders/decrypt", `{}`, 422, "invalid_argument"},
		{"orders/decrypt", `{"ciphertext":"kh1:orders.v9:AAAA"}`, 422, "invalid_argument"},
		{"orders/decrypt", `{"ciphertext":"kh1:payments.v1:AAAA"}`, 422, "invalid_argument"},
		{"orders/decrypt", `{"ciphertext":"a","jwe":"b"}`, 422, "invalid_argument"},
		{"orders/decrypt", `{"jwe":"a.b.c.d.e"}`, 422, "invalid_argument"},
		{"payments/verify", `{"payload":"","signature":""}`, 422, "invalid_argument"},
		{"payments/verify", `{"payload":"","signature":"","version":9}`, 404, "version_not_found"},
		{"payments/verify", `{"jws":"` + none("payments.v2") + `"}`, 200, ""},
		{"payments/verify", `{"jws":"` + none("payments.v1") + `"}`, 200, ""},
		{"payments/verify", `{"jws":"` + none("orders.v1") + `"}`, 422, "invalid_argument"},
		{"payments/verify", `{"jws":"` + none("../x") + `"}`, 422, "invalid_argument"},
		{"payments/verify", `{"payload":"YQ==","version":1,"signature":"` + b64(good.Signature) + `"}`, 200, ""},
		{"payments/verify", `{"payload":"YQ==","version":2,"signature":"` + b64(good.Signature[:40]) + `"}`, 200, ""},
		{"payments/verify", `{"payload":"YQ==","version":2,"format":"der","signature":"` + b64(good.Signature) + `"}`, 200, ""},
		{"nosuch/sign", `{"payload":""}`, 404, "key_not_found"},
	} {
		res := agent.post("/v1/keys/"+tt.path, tt.body)
		if tt.status == 200 { // judged, and found not to hold
			if v := read[api.VerifyResponse](res.want(200)); v.Valid || v.Reason == "" {
				t.Errorf("%s %s: %+v", tt.path, tt.body, v)
			}
			continue
		}
		if d := res.refused(tt.status, tt.code); d == "" {
			t.Errorf("%s %s: no detail", tt.path, tt.body)
		}
		if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Outcome == audit.OutcomeOK || recs[0].Principal == "" {
			t.Errorf("%s %s: recorded %+v", tt.path, tt.body, recs)
		}
	}
	for _, n := range []string{"0", "-1", "4097"} {
		agent.post("/v1/random", `{"bytes":`+n+`}`).refused(422, "invalid_argument")
	}
}

// none is a JWS without a signature.
func none(kid string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"none","kid":"`+kid+`"}`)) + "." + enc([]byte("x")) + "."
}

// A MAC by the public key is no signature (the oldest trick against JWS).
func TestHMACByThePublicKey(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	public := read[api.Key](agent.get("/v1/keys/payments").want(200)).Versions[0].PublicKey
	enc := base64.RawURLEncoding.EncodeToString
	input := enc([]byte(`{"alg":"HS256","kid":"payments.v1"}`)) + "." + enc([]byte("x"))
	mac := hmac.New(sha256.New, []byte(public))
	mac.Write([]byte(input))
	res := agent.post("/v1/keys/payments/verify", fmt.Sprintf(`{"jws":%q}`, input+"."+enc(mac.Sum(nil))))
	if v := read[api.VerifyResponse](res.want(200)); v.Valid || v.Reason != api.ReasonAlgorithm {
		t.Errorf("%+v", v)
	}
}

// A JWE made by another JOSE library from the published JWKS opens.
func TestJWEFromOutside(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	s.as(t, "admin").post("/v1/admin/keys", `{"name":"inbox","algorithm":"RSA-OAEP-256","bits":2048}`).want(201)
	var set jose.JSONWebKeySet
	must(t, json.Unmarshal(agent.get("/v1/keys/inbox/jwks.json").want(200).body, &set))
	e, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: &set.Keys[0]}, nil)
	must(t, err)
	object, err := e.Encrypt([]byte("from outside"))
	must(t, err)
	compact, err := object.CompactSerialize()
	must(t, err)
	if out := read[api.DecryptResponse](agent.post("/v1/keys/inbox/decrypt", fmt.Sprintf(`{"jwe":%q}`, compact)).want(200)); string(out.Plaintext) != "from outside" {
		t.Errorf("%+v", out)
	}
	parts := strings.Split(compact, ".")
	parts[1] = base64.RawURLEncoding.EncodeToString(make([]byte, 256))
	agent.post("/v1/keys/inbox/decrypt", fmt.Sprintf(`{"jwe":%q}`, strings.Join(parts, "."))).refused(422, "decryption_failed")

	// And a signature is verified by the standard library from the PEM.
	s.as(t, "admin").post("/v1/admin/keys", `{"name":"seal","algorithm":"PS256","bits":2048}`).want(201)
	signed := read[api.SignResponse](agent.post("/v1/keys/seal/sign", `{"payload":"YQ=="}`).want(200))
	block, _ := pem.Decode([]byte(read[api.Key](agent.get("/v1/keys/seal").want(200)).Versions[0].PublicKey))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	must(t, err)
	sum := sha256.Sum256([]byte("a"))
	must(t, rsa.VerifyPSS(pub.(*rsa.PublicKey), crypto.SHA256, sum[:], signed.Signature, nil))
}

// Malformed bodies are refused before anything is done, and recorded under
// the operation and key that they were for.
func TestMalformedBodiesAreRecorded(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	for _, body := range []string{``, `null`, `{`, `{"x":1}`, `{"payload":"YQ"}`, `{"payload":"","payload":""}`, `{"payload":null}`, `{} {}`, "{\"hash\":\"\xff\"}"} {
		res := agent.post("/v1/keys/payments/sign", body)
		res.refused(400, "malformed_request")
		recs := s.recorded(t, res)
		if len(recs) != 1 || recs[0].Action != "sign" || recs[0].Key != "payments" || recs[0].Reason != "malformed_request" || recs[0].Principal != "jwt:corp:agent" {
			t.Errorf("%s: recorded %+v", body, recs)
		}
	}
	if n := s.hsm.Calls("Sign"); n != 0 {
		t.Errorf("%d signatures were made", n)
	}
}
