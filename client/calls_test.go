package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Each method sends exactly the request that the contract asks for.
func TestCalls(t *testing.T) {
	t.Parallel()
	v3 := keys.VersionID{Key: "payments", Number: 3}
	items := `{"items":[{"result":{}},{"error":{"code":"decryption_failed","status":422,"detail":"no"}}]}`
	note := api.VersionActRequest{Reason: "why"}
	sends(t, []sent{
		{`POST /v1/keys/payments/sign {"payload":"aGk="}`, `{"version":3}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Sign(ctx, "payments", api.SignRequest{Payload: []byte("hi")})
		}},
		{`POST /v1/keys/payments/verify {"payload":"aGk=","signature":"cw==","version":3}`, `{"valid":false,"reason":"bad-signature"}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Verify(ctx, "payments", api.VerifyRequest{Payload: []byte("hi"), Signature: []byte("s"), Version: 3})
		}},
		{`POST /v1/keys/payments/encrypt {"plaintext":"","aad":"YQ=="}`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Encrypt(ctx, "payments", api.EncryptRequest{Plaintext: []byte{}, AAD: []byte("a")})
		}},
		{`POST /v1/keys/payments/decrypt {"ciphertext":"kh1:x"}`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Decrypt(ctx, "payments", api.DecryptRequest{Ciphertext: "kh1:x"})
		}},
		{`POST /v1/keys/payments/rewrap {"ciphertext":"kh1:x"}`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Rewrap(ctx, "payments", api.RewrapRequest{Ciphertext: "kh1:x"})
		}},
		{`POST /v1/keys/payments/datakey {"bits":128}`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.DataKey(ctx, "payments", api.DataKeyRequest{Bits: 128})
		}},
		{`POST /v1/random {"bytes":2}`, `{"random":"AAE="}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Random(ctx, 2) }},
		{`POST /v1/keys/payments/sign/batch {"items":[{"payload":"aGk="},{}]}`, items, func(ctx context.Context, c *client.Client) (any, error) {
			return c.SignBatch(ctx, "payments", []api.SignRequest{{Payload: []byte("hi")}, {}})
		}},
		{`POST /v1/keys/payments/verify/batch {"items":[{},{}]}`, items, func(ctx context.Context, c *client.Client) (any, error) {
			return c.VerifyBatch(ctx, "payments", make([]api.VerifyRequest, 2))
		}},
		{`POST /v1/keys/payments/encrypt/batch {"items":[{},{}]}`, items, func(ctx context.Context, c *client.Client) (any, error) {
			return c.EncryptBatch(ctx, "payments", make([]api.EncryptRequest, 2))
		}},
		{`POST /v1/keys/payments/decrypt/batch {"items":[{},{}]}`, items, func(ctx context.Context, c *client.Client) (any, error) {
			return c.DecryptBatch(ctx, "payments", make([]api.DecryptRequest, 2))
		}},
		{`POST /v1/keys/payments/rewrap/batch {"items":[{"ciphertext":""},{"ciphertext":""}]}`, items, func(ctx context.Context, c *client.Client) (any, error) {
			return c.RewrapBatch(ctx, "payments", make([]api.RewrapRequest, 2))
		}},
		{`GET /v1/whoami `, `{"principal":"jwt:dev:a"}`, func(ctx context.Context, c *client.Client) (any, error) { return c.WhoAmI(ctx) }},
		{`GET /v1/keys/payments `, `{"name":"payments"}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Key(ctx, "payments") }},
		{`GET /v1/keys?after=a&limit=7 `, `{"keys":[]}`, func(ctx context.Context, c *client.Client) (any, error) { return c.KeysPage(ctx, "a", 7) }},
		{`GET /v1/jwks.json `, `{"keys":[]}`, func(ctx context.Context, c *client.Client) (any, error) { return c.JWKS(ctx, "") }},
		{`GET /v1/keys/payments/jwks.json `, `{"keys":[]}`, func(ctx context.Context, c *client.Client) (any, error) { return c.JWKS(ctx, "payments") }},
		{`POST /v1/admin/keys {"name":"payments","algorithm":"ES256"} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.CreateKey(ctx, api.CreateKeyRequest{Name: "payments", Algorithm: "ES256"})
		}},
		{`PATCH /v1/admin/keys/payments {"epoch":7} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.UpdateKey(ctx, "payments", api.UpdateKeyRequest{Epoch: 7})
		}},
		{`POST /v1/admin/keys/payments/rotate {"reason":"manual"} +`, `{"id":"01"}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Rotate(ctx, "payments", api.RotateRequest{Reason: "manual"})
		}},
		{`POST /v1/admin/keys/payments/versions/3/suspend {"reason":"why"} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Suspend(ctx, v3, note) }},
		{`POST /v1/admin/keys/payments/versions/3/resume {} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Resume(ctx, v3, api.VersionActRequest{})
		}},
		{`POST /v1/admin/keys/payments/versions/3/revoke {"reason":"why"} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Revoke(ctx, v3, note) }},
		{`GET /v1/admin/rotations/01JABC `, `{"id":"01JABC"}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Rotation(ctx, "01JABC") }},
		{`GET /v1/admin/rotations?before=01&key=payments&limit=2 `, `{"rotations":[]}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.RotationsPage(ctx, "payments", "01", 2)
		}},
	})
}

// sent is a call and the request that it must send: METHOD path?query body,
// and a plus sign where it has an Idempotency-Key.
type sent struct {
	want   string
	answer string // "": 204
	act    func(ctx context.Context, c *client.Client) (any, error)
}

func sends(t *testing.T, all []sent) {
	t.Helper()
	for _, tt := range all {
		var got string
		s, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got = r.Method + " " + r.URL.RequestURI() + " " + string(body)
			if key := r.Header.Get("Idempotency-Key"); len(key) >= 26 {
				got += " +"
			}
			if a := r.Header.Get("Authorization"); a != "Bearer t0ken" {
				got = "wrong credentials " + a
			}
			if ct := r.Header.Get("Content-Type"); (ct == "application/json") != (len(body) > 0) {
				got = "wrong content type " + ct
			}
			if tt.answer == "" {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			_, _ = io.WriteString(w, tt.answer)
		})
		c := connect(t, s, ca)
		if _, err := tt.act(t.Context(), c); err != nil {
			t.Errorf("%s: %v", tt.want, err)
		}
		if got != tt.want {
			t.Errorf("sent %s, want %s", got, tt.want)
		}
		s.Close()
		c.Close()
	}
}

// A name that could change the path is refused before anything is sent.
func TestBadNamesAreNotSent(t *testing.T) {
	t.Parallel()
	var calls counter
	s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) { calls.next(); reply(w, 200, struct{}{}) })
	c := connect(t, s, ca)
	ctx := t.Context()
	for _, name := range []string{"", "..", "../admin", "a/b", "a?x", "A", "a%2fb", strings.Repeat("a", 49)} {
		_, e1 := c.Sign(ctx, name, api.SignRequest{})
		_, e2 := c.Key(ctx, name)
		_, e3 := c.Rotate(ctx, name, api.RotateRequest{})
		_, e4 := c.Revoke(ctx, keys.VersionID{Key: name, Number: 1}, api.VersionActRequest{})
		_, e5 := c.UpdateKey(ctx, name, api.UpdateKeyRequest{})
		_, e6 := c.Rotation(ctx, "../"+name)
		_, e7 := c.Signer(ctx, name)
		_, e8 := c.Subscribe(ctx, name)
		_, e9 := c.Acknowledge(ctx, keys.VersionID{Key: name, Number: 1})
		_, e10 := c.DeleteKey(ctx, name, api.DestroyRequest{})
		_, e11 := c.Usage(ctx, name)
		_, e12 := c.Approve(ctx, "../"+name, api.DecisionRequest{})
		_, e13 := c.AbortRotation(ctx, "../"+name, api.RotationActRequest{})
		_, e14 := c.Trigger(ctx, "../"+name, api.TriggerRequest{})
		_, e15 := c.RetryWebhook(ctx, "../"+name)
		_, e16 := c.Watch(client.WatchConfig{Keys: []string{name}})
		e17 := c.Unsubscribe(ctx, name)
		var e18 error
		for _, e18 = range c.Events(ctx, client.EventOptions{Keys: []string{"payments", name}}) {
		}
		for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8, e9, e10, e11, e12, e13, e14, e15, e16, e17, e18} {
			if !errors.Is(err, keys.ErrInvalid) {
				t.Errorf("%q, call %d: %v, want ErrInvalid", name, i+1, err)
			}
		}
	}
	if n := calls.count(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	var calls counter
	mode := "whole"
	s, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls.next()
		after := r.URL.Query().Get("after")
		switch {
		case after == "":
			reply(w, 200, api.KeyList{Keys: []api.Key{{Name: "a"}, {Name: "b"}}, Next: "b"})
		case mode == "circle":
			reply(w, 200, api.KeyList{Keys: []api.Key{{Name: "b"}}, Next: "b"})
		case mode == "error":
			refuse(w, api.ProblemOf(keys.ErrForbidden))
		default:
			reply(w, 200, api.KeyList{Keys: []api.Key{{Name: "c"}}})
		}
	})
	c := connect(t, s, ca)
	collect := func() (names []string, err error) {
		for k, e := range c.Keys(t.Context()) {
			if e != nil {
				return names, e
			}
			names = append(names, k.Name)
		}
		return names, nil
	}
	if names, err := collect(); err != nil || !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("keys %v, %v", names, err)
	}
	before := calls.count()
	for range c.Keys(t.Context()) {
		break
	}
	if n := calls.count() - before; n != 1 {
		t.Errorf("one key cost %d pages", n)
	}
	mode = "error"
	if names, err := collect(); !errors.Is(err, keys.ErrForbidden) || len(names) != 2 {
		t.Errorf("keys %v, %v, want ErrForbidden after the first page", names, err)
	}
	mode = "circle"
	if _, err := collect(); !errors.Is(err, keys.ErrInternal) {
		t.Errorf("a circle of pages: %v", err)
	}
}

func TestBatchAnswersAreChecked(t *testing.T) {
	t.Parallel()
	var answer string
	var calls counter
	s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		calls.next()
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer)
	})
	c := connect(t, s, ca)
	for _, answer = range []string{`{"items":[]}`, `{"items":[{"result":{}},{"result":{}}]}`, `{"items":[{}]}`, `{"items":[{"result":{},"error":{}}]}`, `{`} {
		if _, err := c.SignBatch(t.Context(), "payments", make([]api.SignRequest, 1)); !errors.Is(err, keys.ErrInternal) {
			t.Errorf("%s: %v, want ErrInternal", answer, err)
		}
	}
	answer = `{"items":[{"error":{"code":"decryption_failed","status":422,"detail":"no"}}]}`
	items, err := c.DecryptBatch(t.Context(), "payments", make([]api.DecryptRequest, 1))
	if err != nil || !errors.Is(items[0].Error.Err(), keys.ErrDecrypt) || items[0].Error.Err().Error() != "no" {
		t.Errorf("an item's error: %+v, %v", items, err)
	}
	before := calls.count()
	for _, n := range []int{0, api.MaxBatch + 1} {
		if _, err := c.SignBatch(t.Context(), "payments", make([]api.SignRequest, n)); !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("a batch of %d: %v, want ErrInvalid", n, err)
		}
	}
	if calls.count() != before {
		t.Error("a batch of a wrong size was sent")
	}
	answer = `{"random":"AA=="}`
	if _, err := c.Random(t.Context(), 32); !errors.Is(err, keys.ErrInternal) {
		t.Errorf("too few random bytes: %v", err)
	}
}

func TestJWKSIsConditional(t *testing.T) {
	t.Parallel()
	version := 1
	var full, spared counter
	s, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
		etag := fmt.Sprintf(`"%s-%d"`, r.URL.Path, version)
		if r.Header.Get("If-None-Match") == etag {
			spared.next()
			w.WriteHeader(http.StatusNotModified)
			return
		}
		full.next()
		w.Header().Set("ETag", etag)
		reply(w, 200, api.JWKS{Keys: []api.JWK{{KeyID: fmt.Sprintf("payments.v%d", version)}}})
	})
	c := connect(t, s, ca)
	get := func(key, want string) {
		t.Helper()
		set, err := c.JWKS(t.Context(), key)
		if err != nil || len(set.Keys) != 1 || set.Keys[0].KeyID != want {
			t.Errorf("%+v, %v, want %s", set, err, want)
			return
		}
		set.Keys[0].KeyID = "changed by the caller"
	}
	get("", "payments.v1")
	get("", "payments.v1")
	get("payments", "payments.v1")
	get("payments", "payments.v1")
	version = 2
	get("", "payments.v2")
	get("", "payments.v2")
	if full.count() != 3 || spared.count() != 3 {
		t.Errorf("%d full and %d spared answers, want 3 and 3", full.count(), spared.count())
	}
}
