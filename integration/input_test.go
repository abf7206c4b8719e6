package integration

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// Input that cannot be meant gets an error of its own and changes nothing:
// afterwards the gateway serves as before, in the same process, and the key
// is as it was.
func TestBadInput(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	g.create("vault", "A256GCM", 0)
	g.create("retired", "ES256", 0)
	_, err := g.as(admin).Suspend(t.Context(), keys.VersionID{Key: "retired", Number: 1}, api.VersionActRequest{})
	must(t, err)
	before := string(g.read(agent, "/v1/keys/payments").want(http.StatusOK).body)
	digest := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, tt := range []struct {
		path, body string
		status     int
		code       string
	}{
		{"payments/sign", `{"payload":`, 400, "malformed_request"},
		{"payments/sign", `[]`, 400, "malformed_request"},
		{"payments/sign", `null`, 400, "malformed_request"},
		{"payments/sign", "\x00\xff", 400, "malformed_request"},
		{"payments/sign", `{"payload":"aGVsbG8=","paylaod":""}`, 400, "malformed_request"},
		{"payments/sign", `{"payload":"aGVsbG8=","payload":"aGVsbG8="}`, 400, "malformed_request"},
		{"payments/sign", `{"payload":"aGVsbG8="} {}`, 400, "malformed_request"},
		{"payments/sign", `{"payload":"aGVsbG8"}`, 400, "malformed_request"},
		{"payments/sign", `{"payload":"aGVs\nbG8="}`, 400, "malformed_request"},
		{"payments/sign", `{"payload":17}`, 400, "malformed_request"},
		{"payments/sign", `{"digest":"AAAA"}`, 422, "invalid_argument"},
		{"payments/sign", `{"digest":""}`, 422, "invalid_argument"},
		{"payments/sign", `{"digest":"` + digest + `","hash":"sha-1"}`, 422, "invalid_argument"},
		{"payments/sign", `{"digest":"` + digest + `","hash":"sha-512"}`, 422, "invalid_argument"},
		{"payments/sign", `{"payload":"","format":"xml"}`, 422, "invalid_argument"},
		{"payments/encrypt", `{"plaintext":""}`, 422, "wrong_purpose"},
		{"vault/sign", `{"payload":""}`, 422, "wrong_purpose"},
		{"retired/sign", `{"payload":""}`, 409, "no_active_version"},
		{"payments/verify", `{"payload":"","signature":"","version":7}`, 404, "version_not_found"},
		{"nosuchkey/sign", `{"payload":""}`, 404, "key_not_found"},
		{"NoSuchKey/sign", `{"payload":""}`, 404, "not_found"},
		{"..%2f..%2fadmin/sign", `{"payload":""}`, 400, "malformed_request"},
		{"payments/sign/batch", `{"items":[]}`, 422, "invalid_argument"},
	} {
		if p := g.post(agent, "/v1/keys/"+tt.path, tt.body).refused(tt.status, tt.code); p.Detail == "" {
			t.Errorf("%s %q: no detail", tt.path, tt.body)
		}
	}
	g.call(g.http, g.line("agent.jwt"), http.MethodPost, "/v1/keys/payments/sign", `{"payload":""}`, "Content-Type", "text/plain").refused(415, "unsupported_media_type")

	// A JWS without a signature, and one whose "signature" anybody can make.
	enc := base64.RawURLEncoding.EncodeToString
	payload := enc([]byte(text))
	none := enc([]byte(`{"alg":"none","kid":"payments.v1"}`)) + "." + payload + "."
	input := enc([]byte(`{"alg":"HS256","kid":"payments.v1"}`)) + "." + payload
	mac := hmac.New(sha256.New, []byte(g.keyhole(agent, "key", "public", "payments")))
	mac.Write([]byte(input))
	for what, jws := range map[string]string{"alg none": none, "HS256 by the public key": input + "." + enc(mac.Sum(nil))} {
		var v api.VerifyResponse
		g.post(agent, "/v1/keys/payments/verify", fmt.Sprintf(`{"jws":%q}`, jws)).want(http.StatusOK).into(&v)
		if v.Valid || v.Reason != api.ReasonAlgorithm {
			t.Errorf("%s: %+v", what, v)
		}
		if s := g.cli(agent, "verify", "payments", "--jws", jws); s.code != 3 {
			t.Errorf("%s: the command line's status is %d, want 3: %s%s", what, s.code, s.out, s.errOut)
		}
	}

	if after := string(g.read(agent, "/v1/keys/payments").want(http.StatusOK).body); after != before {
		t.Errorf("the key was\n%s\nand is\n%s", before, after)
	}
	g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`).want(http.StatusOK)
	g.alive()
	g.stop()
}

// The limit of a body is 1 MiB, to the byte.
func TestLargestPayload(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	body := func(n int) string { // of n bytes
		const frame = `{"payload":""}`
		fill := n - len(frame)
		return `{"payload":"` + strings.Repeat("A", fill-fill%4) + `"` + strings.Repeat(" ", fill%4) + `}`
	}
	g.post(agent, "/v1/keys/payments/sign", body(1<<20)).want(http.StatusOK)
	g.post(agent, "/v1/keys/payments/sign", body(1<<20+1)).refused(http.StatusRequestEntityTooLarge, "payload_too_large")
	file := write(t, filepath.Join(t.TempDir(), "large"), string(bytes.Repeat([]byte{7}, 1<<20)))
	s := g.cli(agent, "sign", "payments", file)
	if s.code != 2 || s.out != "" || !strings.Contains(s.errOut, "payload_too_large") && !strings.Contains(s.errOut, "--hash") {
		t.Errorf("the command line: status %d, want 2: %s%s", s.code, s.out, s.errOut)
	}
	// What is too large is hashed here and signed there.
	sig := filepath.Join(t.TempDir(), "sig")
	g.keyhole(agent, "sign", "payments", file, "--hash", "sha-256", "--format", "der", "-O", sig)
	pem := write(t, filepath.Join(t.TempDir(), "pem"), g.keyhole(agent, "key", "public", "payments"))
	if ok, out := tool(t, "openssl", "dgst", "-sha256", "-verify", pem, "-signature", sig, file); !ok {
		t.Error(out)
	}
	g.stop()
}
