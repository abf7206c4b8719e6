package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// soakCount is how many bad requests a soak sends: a few, or as many as `make
// soak` says.
func soakCount(t *testing.T) int {
	t.Helper()
	s := os.Getenv("KEYHOLE_SOAK")
	if s == "" {
		return 4000
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1000 {
		t.Fatalf("KEYHOLE_SOAK is %q", s)
	}
	return n
}

// soakTime is how long the mixed soak takes: a moment, or as long as `make
// soak` says.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("KEYHOLE_SOAK_TIME")
	if s == "" {
		return 4 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second {
		t.Fatalf("KEYHOLE_SOAK_TIME is %q", s)
	}
	return d
}

// rss returns the memory of the gateway, in bytes.
func (g *gateway) rss() int {
	g.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.proc.cmd.Process.Pid))
	must(g.t, err)
	for line := range bytes.Lines(status) {
		if kb, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(kb)), "kB")))
			must(g.t, err)
			return n << 10
		}
	}
	g.t.Fatal("no VmRSS")
	return 0
}

// soak is a load under which a gateway must not grow.
type soak struct {
	g     *gateway
	next  func(i int) []byte         // the i-th request
	judge func(i int, a reply) error // of its answer
	conns int
	fresh int // requests that a connection serves before another one takes its place; 0: all
}

// send sends the requests from..to, or what there is of them until ctx ends.
// It returns how many it has sent.
func (s soak) send(ctx context.Context, from, to int) int {
	s.g.t.Helper()
	var turn atomic.Int64
	turn.Store(int64(from))
	var sent atomic.Int64
	var wg sync.WaitGroup
	for range s.conns {
		wg.Go(func() {
			var w *wire
			served := 0
			defer func() {
				if w != nil {
					w.Close()
				}
			}()
			for ctx.Err() == nil {
				i := int(turn.Add(1)) - 1
				if i >= to {
					return
				}
				if w == nil {
					var err error
					if w, err = s.g.wire(context.WithoutCancel(ctx)); err != nil {
						s.g.t.Error(err)
						return
					}
				}
				a, err := w.ask(s.next(i))
				if err == nil {
					err = s.judge(i, a)
				}
				if err != nil {
					s.g.t.Errorf("request %d: %v", i, err)
					return
				}
				sent.Add(1)
				if served++; s.fresh > 0 && served >= s.fresh {
					w.Close()
					w, served = nil, 0
				}
			}
		})
	}
	wg.Wait()
	return int(sent.Load())
}

// watch runs part after part, prints the memory after each, and fails when it
// has grown from the first one to the last by more than most bytes, or when
// goroutines are left.
func (g *gateway) watch(parts, most int, part func(i int) (sent int)) {
	g.t.Helper()
	goroutines, ok := g.metric("go_goroutines")
	if !ok {
		g.t.Fatal("the metrics have no go_goroutines")
	}
	begun, sent, first, last := time.Now(), 0, 0, 0
	for i := range parts {
		sent += part(i)
		last = g.rss()
		if i == 0 {
			first = last // caches are full now
		}
		n, _ := g.metric("go_goroutines")
		g.t.Logf("%6.0fs %9d requests: RSS %.1f MiB, %.0f goroutines", time.Since(begun).Seconds(), sent, float64(last)/(1<<20), n)
	}
	if grown := last - first; grown > most {
		g.t.Errorf("the gateway grew by %d KiB, at most %d are allowed", grown>>10, most>>10)
	}
	g.http.CloseIdleConnections()
	eventually(g.t, "the goroutines end", func() bool {
		n, _ := g.metric("go_goroutines")
		return n <= goroutines+16
	})
}

// allowed is how much a gateway may grow under so many requests: what the
// garbage collector and fragments take, and next to nothing for each. Under
// the race detector memory is not given back so soon.
func allowed(n int) int { return 64<<20 + 8*n }

// unopenable returns a ciphertext whose data key does not open.
func (g *gateway) unopenable(key string) string {
	g.t.Helper()
	sealed, err := g.as(agent).Encrypt(g.t.Context(), key, api.EncryptRequest{Plaintext: []byte("hello")})
	must(g.t, err)
	env, err := keys.ParseEnvelope(sealed.Ciphertext)
	must(g.t, err)
	env.WrappedKey[len(env.WrappedKey)-1] ^= 1
	return env.String()
}

// Ciphertexts that do not open cost nothing that stays.
func TestSoakFailedDecrypts(t *testing.T) {
	t.Parallel()
	n := soakCount(t)
	g := stopped(t)
	g.edit("keyhole.yaml", "\nlog:\n", "\nlimits:\n  failed_decrypts_per_minute: 1000000\n  failed_decrypt_burst: 1000000\n\nlog:\n")
	g.start()
	g.create("mail", "A256GCM", 0)
	g.create("vault", "RSA-OAEP", 2048)
	const items = 40
	batch := func(key string, items int) []byte {
		item := `{"ciphertext":"` + g.unopenable(key) + `"}`
		return g.request(g.line(agent+".jwt"), "/v1/keys/"+key+"/decrypt/batch", `{"items":[`+strings.Repeat(item+",", items-1)+item+`]}`)
	}
	requests := [][]byte{batch("mail", items), batch("vault", 1)}
	s := soak{g: g, conns: 4, next: func(i int) []byte { return requests[i%2] }, judge: func(i int, a reply) error {
		var out api.BatchResponse[api.DecryptResponse]
		if err := unmarshal(a.body, &out); err != nil {
			return err
		}
		for _, item := range out.Items {
			if item.Error == nil || item.Error.Code != "decryption_failed" {
				return fmt.Errorf("%d: %.300s", a.status, a.body)
			}
		}
		if want := []int{items, 1}[i%2]; len(out.Items) != want {
			return fmt.Errorf("%d items of %d", len(out.Items), want)
		}
		return nil
	}}
	const parts = 10
	per := 2 * max(1, n/(items+1)/parts)
	g.watch(parts, allowed(n), func(i int) int { return s.send(t.Context(), i*per, (i+1)*per) * (items + 1) / 2 })
}

// Tokens that are worth nothing cost nothing that stays, each of them new.
func TestSoakBadTokens(t *testing.T) {
	t.Parallel()
	n := soakCount(t)
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	is := g.devIssuer()
	good := token(t, jwt.SigningMethodES256, is.key, is.kid, claims(nil))
	signed := good[:strings.LastIndexByte(good, '.')+1]
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	next := func(i int) []byte {
		signature := make([]byte, 64)
		rand.Read(signature)
		sig := base64.RawURLEncoding.EncodeToString(signature)
		bad := signed + sig // a wrong signature
		switch i % 4 {
		case 1:
			bad = part(`{"alg":"ES256","kid":"`+sig[:20]+`"}`) + "." + part(`{"sub":"`+sig+`"}`) + "." + sig // a kid that there is not
		case 2:
			bad = part(`{"alg":"none"}`) + "." + part(`{"sub":"`+sig+`"}`) + "."
		case 3:
			bad = sig
		}
		return g.request(bad, "/v1/keys/payments/sign", helloBody)
	}
	s := soak{g: g, conns: 8, next: next, judge: func(_ int, a reply) error {
		if a.status != 401 && (a.status != 429 || a.retryAfter < 1) {
			return fmt.Errorf("%d, Retry-After %d: %s", a.status, a.retryAfter, a.body)
		}
		return nil
	}}
	const parts = 10
	g.watch(parts, allowed(n), func(i int) int { return s.send(t.Context(), i*n/parts, (i+1)*n/parts) })
	g.as(agent) // good ones are served all the same
	g.post(agent, "/v1/keys/payments/sign", helloBody).want(200)
}

// All that agents do, with what goes wrong, while keys are rotated.
func TestSoakMixed(t *testing.T) {
	t.Parallel()
	d := soakTime(t)
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	g.create("mail", "A256GCM", 0)
	ctx := t.Context()
	a, staff := g.as(agent), g.as(admin)
	sealed, err := a.Encrypt(ctx, "mail", api.EncryptRequest{Plaintext: []byte("hello")})
	must(t, err)
	signed, err := a.Sign(ctx, "payments", api.SignRequest{Payload: []byte("hello")})
	must(t, err)
	bearer := g.line(agent + ".jwt")
	get := func(path string) []byte {
		return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: keyhole\r\nAuthorization: Bearer %s\r\n\r\n", path, bearer)
	}
	post := func(path, body string) []byte { return g.request(bearer, path, body) }
	ciphertext := `{"ciphertext":"` + sealed.Ciphertext + `"}`
	mix := []struct {
		request []byte
		want    []int
	}{
		{post("/v1/keys/payments/sign", helloBody), []int{200}},
		{post("/v1/keys/payments/sign", `{"payload":"aGVsbG8=","format":"jws"}`), []int{200}},
		{post("/v1/keys/payments/sign/batch", `{"items":[`+strings.Repeat(helloBody+",", 19)+helloBody+`]}`), []int{200, 429, 503}},
		{post("/v1/keys/payments/verify", fmt.Sprintf(`{"payload":"aGVsbG8=","version":1,"signature":%q}`, base64.StdEncoding.EncodeToString(signed.Signature))), []int{200}},
		{post("/v1/keys/mail/encrypt", `{"plaintext":"`+strings.Repeat("aGVsbG8h", 128)+`"}`), []int{200}},
		{post("/v1/keys/mail/decrypt", ciphertext), []int{200, 429}},
		{post("/v1/keys/mail/decrypt", `{"ciphertext":"`+g.unopenable("mail")+`"}`), []int{422, 429}},
		{post("/v1/keys/mail/rewrap", ciphertext), []int{200, 429}},
		{post("/v1/keys/mail/datakey", `{}`), []int{200}},
		{post("/v1/random", `{"bytes":32}`), []int{200}},
		{post("/v1/keys/payments/sign", `{"payload":"aGVsbG8`), []int{400}},
		{post("/v1/keys/nobodys/sign", helloBody), []int{404}},
		{g.request("worthless", "/v1/keys/payments/sign", helloBody), []int{401, 429}},
		{get("/v1/keys"), []int{200}},
		{get("/v1/jwks.json"), []int{200}},
		{get("/v1/nothing"), []int{404}},
	}
	s := soak{g: g, conns: 8, fresh: 500, next: func(i int) []byte { return mix[i%len(mix)].request }, judge: func(i int, a reply) error {
		for _, want := range mix[i%len(mix)].want {
			if a.status == want {
				return nil
			}
		}
		return fmt.Errorf("%d: %.300s", a.status, a.body)
	}}
	const parts = 20
	from := 0
	g.watch(parts, 64<<20, func(i int) int {
		part, cancel := context.WithTimeout(ctx, d/parts)
		defer cancel()
		rotated := make(chan struct{})
		go func() {
			defer close(rotated)
			_, err := staff.Rotate(ctx, []string{"payments", "mail"}[i%2], api.RotateRequest{})
			if err != nil {
				t.Errorf("rotating: %v", err)
			}
		}()
		sent := s.send(part, from, 1<<62)
		<-rotated
		from += sent
		return sent
	})
}
