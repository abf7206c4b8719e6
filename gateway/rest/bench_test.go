package rest_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/gateway/rest"
)

// BenchmarkHandler is one request through the handler without a network,
// with a token that is remembered, the policy, and a durable audit record.
func BenchmarkHandler(b *testing.B) {
	k := newKit(b)
	site := k.serve(b)
	site.as(b, "admin").post("/v1/admin/keys", `{"name":"payments","algorithm":"ES256"}`).want(201)
	site.as(b, "admin").post("/v1/admin/keys", `{"name":"mac","algorithm":"HS256"}`).want(201)
	cfg := rest.Config{Service: gateway.New(k.gateway), Log: k.cfg.Log}
	h := rest.New(cfg)
	token := []string{site.as(b, "agent").header.Get("Authorization")}
	for name, path := range map[string]string{"sign-es256": "/v1/keys/payments/sign", "sign-hs256": "/v1/keys/mac/sign", "not-found": "/v1/keys/payments/sing"} {
		b.Run(name, func(b *testing.B) {
			body := `{"payload":"` + b64(bytes.Repeat([]byte("x"), 256)) + `"}`
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					serveOnce(h, path, body, token)
				}
			})
		})
	}
}

// BenchmarkOverhead is what the transport alone costs: the same request,
// where everything behind it is as good as free.
func BenchmarkOverhead(b *testing.B) {
	k := newKit(b)
	site := k.serve(b)
	site.as(b, "admin").post("/v1/admin/keys", `{"name":"mac","algorithm":"HS256"}`).want(201)
	k.gateway.Authenticator = known{}
	k.gateway.Limits = nil
	h := rest.New(rest.Config{Service: gateway.New(k.gateway), Log: k.cfg.Log})
	token := []string{"Bearer x"}
	b.ReportAllocs()
	for b.Loop() {
		serveOnce(h, "/v1/whoami?", "", token)
	}
}

func serveOnce(h http.Handler, path, body string, token []string) *recorder {
	p, _, _ := strings.Cut(path, "?")
	r := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: p}, RemoteAddr: "127.0.0.1:1", Proto: "HTTP/1.1", ContentLength: int64(len(body)),
		Header: http.Header{"Content-Type": {"application/json"}, "Authorization": token}, Body: io.NopCloser(strings.NewReader(body)),
	}
	if body == "" {
		r.Method = http.MethodGet
	}
	w := &recorder{header: make(http.Header, 8)}
	h.ServeHTTP(w, r)
	return w
}

// known takes every caller for the same one.
type known struct{}

func (known) Authenticate(context.Context, authz.Credentials) (authz.Principal, error) {
	return authz.Principal{ID: "bench", Method: authz.MethodJWT}, nil
}

// TestAllocations holds the way of a request through the gateway to a budget,
// which unlike time does not depend on the machine. It is 52 and, with what the race
// detector drops from pools, about 64.
func TestAllocations(t *testing.T) {
	k := newKit(t)
	site := k.serve(t)
	site.as(t, "admin").post("/v1/admin/keys", `{"name":"mac","algorithm":"HS256"}`).want(201)
	h := rest.New(rest.Config{Service: gateway.New(k.gateway), Log: k.cfg.Log})
	token := []string{site.as(t, "agent").header.Get("Authorization")}
	body := `{"payload":"` + b64(bytes.Repeat([]byte("x"), 256)) + `"}`
	sign := func(path, body string) func() {
		return func() {
			if w := serveOnce(h, path, body, token); w.status != http.StatusOK {
				t.Fatalf("%s: answered %d", path, w.status)
			}
		}
	}
	if n := testing.AllocsPerRun(200, sign("/v1/keys/mac/sign", body)); n > 75 {
		t.Errorf("%v allocations for a signature", n)
	}
	batch := `{"items":[` + strings.Repeat(body+",", 99) + body + `]}`
	if n := testing.AllocsPerRun(20, sign("/v1/keys/mac/sign/batch", batch)) / 100; n > 15 {
		t.Errorf("%v allocations for a signature of a batch", n)
	}
}
