package rest_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/gateway/rest"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
)

func TestMediaTypes(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	for _, media := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"} {
		agent.set("Content-Type", media).post("/v1/keys/payments/sign", `{"payload":""}`).want(200)
	}
	for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "application/jsonx", "multipart/form-data; boundary=x", "x"} {
		res := agent.set("Content-Type", media).post("/v1/keys/payments/sign", `{"payload":""}`)
		res.refused(415, "unsupported_media_type")
		if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Action != "sign" || recs[0].Key != "payments" || recs[0].Reason != "unsupported_media_type" {
			t.Errorf("recorded %+v", recs)
		}
	}
	agent.set("Content-Encoding", "gzip").post("/v1/keys/payments/sign", `{"payload":""}`).refused(415, "unsupported_media_type")
	agent.set("Content-Type", "application/json").set("Content-Type", "text/plain").post("/v1/keys/payments/sign", `{}`).refused(415, "unsupported_media_type")
}

func TestBodiesThatAreTooLarge(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) { k.cfg.MaxBody, k.cfg.MaxBatchBody = 1000, 4000 })
	agent := s.as(t, "agent")
	body := func(n int) string {
		const around = `{"payload":""}`
		return `{"payload":"` + strings.Repeat("A", n-len(around)) + `"}`
	}
	agent.post("/v1/keys/payments/sign", body(998)).want(200) // 984 characters of base64
	for _, n := range []int{1002, 5000, 1 << 20} {
		res := agent.post("/v1/keys/payments/sign", body(n))
		if d := res.refused(413, "payload_too_large"); !strings.Contains(d, "1000") {
			t.Errorf("the detail %q does not name the limit", d)
		}
		if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Reason != "payload_too_large" || recs[0].Key != "payments" {
			t.Errorf("recorded %+v", recs)
		}
	}
	// Without Content-Length.
	agent.do("POST", "/v1/keys/payments/sign", io.MultiReader(strings.NewReader(body(998)))).want(200)
	agent.do("POST", "/v1/keys/payments/sign", io.MultiReader(strings.NewReader(body(1002)))).refused(413, "payload_too_large")

	batch := func(n int) string { return `{"items":[` + body(n-len(`{"items":[]}`)) + `]}` }
	agent.post("/v1/keys/payments/sign/batch", batch(3998)).want(200)
	agent.post("/v1/keys/payments/sign/batch", batch(4002)).refused(413, "payload_too_large")
}

// raw speaks HTTP/1.1 to the site by hand.
func (s *site) raw(t *testing.T) (net io.ReadWriteCloser, answer func() *http.Response) {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	r := bufio.NewReader(conn)
	return conn, func() *http.Response {
		t.Helper()
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		return res
	}
}

// A body that says that it is too large is refused while not a byte of it
// was sent, and nobody is asked to go on sending.
func TestTooLargeIsRefusedUnread(t *testing.T) {
	t.Parallel()
	s := start(t)
	conn, answer := s.raw(t)
	fmt.Fprintf(conn, "POST /v1/keys/payments/sign HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\nExpect: 100-continue\r\n\r\n",
		s.as(t, "agent").header.Get("Authorization"))
	if res := answer(); res.StatusCode != 413 || !res.Close {
		t.Errorf("%d, close %v", res.StatusCode, res.Close)
	}
}

func TestBodiesThatBreakOff(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) { k.shape = func(server *http.Server) { server.ReadTimeout = 500 * time.Millisecond } })
	for name, headers := range map[string]string{"length": "Content-Length: 100", "chunked": "Transfer-Encoding: chunked"} {
		conn, answer := s.raw(t)
		fmt.Fprintf(conn, "POST /v1/keys/payments/sign HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: application/json\r\n%s\r\n\r\n{", s.as(t, "agent").header.Get("Authorization"), headers)
		res := answer()
		id := res.Header.Get("X-Request-Id")
		if res.StatusCode != 400 {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
		if recs := s.recorded(t, &response{t: t, header: res.Header}); len(recs) != 1 || recs[0].Reason != "malformed_request" {
			t.Errorf("%s, request %s: recorded %+v", name, id, recs)
		}
	}
}

func TestHeadersThatAreTooLarge(t *testing.T) {
	t.Parallel()
	s := start(t)
	conn, answer := s.raw(t)
	fmt.Fprintf(conn, "GET /v1/keys HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n", strings.Repeat("a", 64<<10))
	if res := answer(); res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%d", res.StatusCode)
	}
}

// OPTIONS * and CONNECT are authenticated like everything else.
func TestOddRequestLines(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, line := range []string{"OPTIONS *", "CONNECT example.com:443", "GET https://example.com/v1/keys"} {
		for auth, want := range map[string][]int{"": {401}, "Authorization: " + s.as(t, "agent").header.Get("Authorization") + "\r\n": {400, 200}} {
			conn, answer := s.raw(t)
			fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: example.com\r\n%s\r\n", line, auth)
			if res := answer(); res.StatusCode != want[0] && res.StatusCode != want[len(want)-1] {
				t.Errorf("%s: %d, want %v", line, res.StatusCode, want)
			}
		}
	}
}

func TestInFlightLimit(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) { k.cfg.MaxInFlight = 1 })
	agent := s.as(t, "agent")
	entered, release := s.hsm.Block(hsmtest.Sign, 1)
	defer release()
	var wg sync.WaitGroup
	wg.Go(func() { agent.post("/v1/keys/payments/sign", `{"payload":""}`).want(200) })
	<-entered
	res := agent.get("/v1/whoami")
	res.refused(503, "overloaded")
	if res.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q", res.header.Get("Retry-After"))
	}
	release()
	wg.Wait()
	agent.get("/v1/whoami").want(200)
}

// A caller whose bodies do not arrive holds its own places, not everybody's.
func TestSlowBodiesAreInFlight(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) { k.gateway.Limits = authz.NewLimiter(authz.LimiterConfig{InFlight: 1}) })
	agent := s.as(t, "agent")
	const body = `{"payload":""}`
	conn, answer := s.raw(t)
	fmt.Fprintf(conn, "POST /v1/keys/payments/sign HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		agent.header.Get("Authorization"), len(body))
	if res := answer(); res.StatusCode != http.StatusContinue {
		t.Fatalf("%d", res.StatusCode)
	}
	res := agent.post("/v1/keys/payments/sign", body)
	res.refused(429, "rate_limited")
	if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Action != "sign" || recs[0].Key != "payments" || recs[0].Reason != "rate_limited" {
		t.Errorf("recorded %+v", recs)
	}
	agent.get("/none").refused(429, "rate_limited")
	s.as(t, "admin").post("/v1/keys/payments/sign", body).want(200)
	fmt.Fprint(conn, body)
	if res := answer(); res.StatusCode != http.StatusOK {
		t.Errorf("%d", res.StatusCode)
	}
	agent.post("/v1/keys/payments/sign", body).want(200)
}

func TestBatchLimit(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) { k.cfg.MaxBatches = 1 })
	agent := s.as(t, "agent")
	entered, release := s.hsm.Block(hsmtest.Sign, 1)
	defer release()
	var wg sync.WaitGroup
	wg.Go(func() { agent.post("/v1/keys/payments/sign/batch", `{"items":[{"payload":""}]}`).want(200) })
	<-entered
	res := s.as(t, "admin").post("/v1/keys/payments/sign/batch", `{"items":[{"payload":""}]}`)
	res.refused(503, "overloaded")
	if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Reason != "overloaded" {
		t.Errorf("recorded %+v", recs)
	}
	agent.post("/v1/keys/payments/sign", `{"payload":""}`).want(200)
	release()
	wg.Wait()
	agent.post("/v1/keys/payments/sign/batch", `{"items":[{"payload":""}]}`).want(200)
}

// One caller's batches leave room for those of others.
func TestBatchShare(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) { k.cfg.MaxBatches = 2 })
	agent := s.as(t, "agent")
	const body = `{"items":[{"payload":""}]}`
	conn, answer := s.raw(t)
	fmt.Fprintf(conn, "POST /v1/keys/payments/sign/batch HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		agent.header.Get("Authorization"), len(body))
	if res := answer(); res.StatusCode != http.StatusContinue {
		t.Fatalf("%d", res.StatusCode)
	}
	res := agent.post("/v1/keys/payments/sign/batch", body)
	res.refused(429, "rate_limited")
	if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Reason != "rate_limited" {
		t.Errorf("recorded %+v", recs)
	}
	s.as(t, "admin").post("/v1/keys/payments/sign/batch", body).want(200)
	agent.post("/v1/keys/payments/sign", `{"payload":""}`).want(200)
	fmt.Fprint(conn, body)
	if res := answer(); res.StatusCode != http.StatusOK {
		t.Errorf("%d", res.StatusCode)
	}
	agent.post("/v1/keys/payments/sign/batch", body).want(200)
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	s := start(t)
	slow := s.kit
	slow.cfg.Timeout = 50 * time.Millisecond
	fast := slow.serve(t)
	_, release := s.hsm.Block(hsmtest.Sign, 1)
	defer release()
	res := fast.as(t, "agent").post("/v1/keys/payments/sign", `{"payload":""}`)
	res.refused(503, "timeout")
	if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Outcome != audit.OutcomeError || recs[0].Reason != "timeout" {
		t.Errorf("recorded %+v", recs)
	}
}

// Errors of the inside are answered by their code; their text stays inside.
func TestInternalErrors(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	for _, tt := range []struct {
		err    error
		status int
		code   string
	}{
		{fmt.Errorf("pin 1234: %w", keys.ErrHSM), 503, "hsm_unavailable"},
		{errors.New("pin 1234"), 500, "internal"},
		{fmt.Errorf("pin 1234: %w", context.DeadlineExceeded), 503, "timeout"},
	} {
		s.hsm.Fail(hsmtest.Sign, 1, hsmtest.NotDone, tt.err)
		res := agent.post("/v1/keys/payments/sign", `{"payload":""}`)
		if detail := res.refused(tt.status, tt.code); strings.Contains(string(res.body), "1234") {
			t.Errorf("the answer says %q", detail)
		}
		if (res.header.Get("Retry-After") != "") != (tt.status == 503) {
			t.Errorf("%d: Retry-After %q", tt.status, res.header.Get("Retry-After"))
		}
		if !strings.Contains(s.log.String(), res.header.Get("X-Request-Id")) {
			t.Errorf("the log does not have request %s", res.header.Get("X-Request-Id"))
		}
	}
}

// panicking is a policy with a fault in it.
type panicking struct{ gateway.Decider }

func (p panicking) Decide(r authz.Request) authz.Decision {
	if r.Action == authz.ActionRandom {
		panic("what a surprise")
	}
	return p.Decider.Decide(r)
}

// failing is an authenticator with a fault in it.
type failing struct{ gateway.Authenticator }

func (failing) Authenticate(context.Context, authz.Credentials) (authz.Principal, error) {
	panic("what a surprise")
}

func TestPanics(t *testing.T) {
	t.Parallel()
	s := start(t)
	check := func(res *response, action, principal, where string, seen observation) {
		t.Helper()
		res.refused(500, "internal")
		recs := s.recorded(t, res)
		if len(recs) != 1 || recs[0].Action != action || recs[0].Outcome != audit.OutcomeError || recs[0].Reason != "internal" || recs[0].Principal != principal {
			t.Errorf("recorded %+v", recs)
		}
		found := false
		for line := range strings.Lines(s.log.String()) {
			found = found || strings.Contains(line, "what a surprise") && strings.Contains(line, where) && strings.Contains(line, res.header.Get("X-Request-Id"))
		}
		if !found {
			t.Error("the log has no stack")
		}
		if got := s.observed.last(); got != seen {
			t.Errorf("observed %+v, want %+v", got, seen)
		}
	}
	k := s.kit
	policy, who := k.gateway.Policy, k.gateway.Authenticator
	k.gateway.Policy = panicking{policy}
	agent := k.serve(t).as(t, "agent")
	check(agent.post("/v1/random", `{"bytes":1}`), "random", "jwt:corp:agent", "panicking.Decide", observation{"/v1/random", "POST", 500})
	agent.post("/v1/keys/payments/sign", `{"payload":""}`).want(200)

	k.gateway.Policy, k.gateway.Authenticator, k.cfg.MaxInFlight = policy, failing{who}, 1
	broken := k.serve(t)
	for range 3 { // the place in flight is given back
		check(broken.as(t, "agent").post("/v1/random", `{"bytes":1}`), "random", "", "failing.Authenticate", observation{"/v1/random", "POST", 500})
	}
	check(broken.as(t, "agent").get("/none"), "unmatched", "", "failing.Authenticate", observation{"unmatched", "GET", 500})
}

// Without an audit log nothing is answered.
func TestNoAuditNoAnswer(t *testing.T) {
	t.Parallel()
	s := start(t)
	must(t, s.gateway.Audit.(*audit.Log).Close())
	for _, res := range []*response{
		s.as(t, "agent").post("/v1/keys/payments/sign", `{"payload":""}`), s.as(t, "agent").get("/none"), s.nobody(t).get("/v1/keys"),
		s.as(t, "agent").post("/v1/keys/payments/sign", `{`), s.as(t, "agent").get("/v1/keys/payments"),
	} {
		res.refused(503, "audit_unavailable")
	}
}

func TestAccessLogAndMetrics(t *testing.T) {
	t.Parallel()
	s := start(t)
	res := s.as(t, "agent").post("/v1/keys/payments/sign", `{"payload":"c2VjcmV0"}`).want(200)
	if got := s.observed.last(); got != (observation{"/v1/keys/{key}/sign", "POST", 200}) {
		t.Errorf("observed %+v", got)
	}
	line := ""
	for l := range strings.Lines(s.access.String()) {
		if strings.Contains(l, res.header.Get("X-Request-Id")) {
			line = l
		}
	}
	for _, want := range []string{`"principal":"jwt:corp:agent"`, `"route":"/v1/keys/{key}/sign"`, `"key":"payments"`, `"status":200`, `"source":"127.0.0.1"`} {
		if !strings.Contains(line, want) {
			t.Errorf("%s is not in %s", want, line)
		}
	}
	if strings.Contains(line, "c2VjcmV0") || strings.Contains(line, "Bearer") {
		t.Errorf("%s shows too much", line)
	}
	if a, b := res.header.Get("X-Request-Id"), s.as(t, "agent").set("X-Request-Id", "mine").get("/v1/whoami").header.Get("X-Request-Id"); a == b || b == "mine" {
		t.Errorf("request ids %q and %q", a, b)
	}
}

func TestOps(t *testing.T) {
	t.Parallel()
	checks := []rest.Check{{Name: "hsm:main", OK: true}, {Name: "store", OK: true}}
	h := rest.NewOps(rest.OpsConfig{
		Ready:   func(context.Context) []rest.Check { return checks },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "keyhole_up 1\n") }),
	})
	get := func(method, path string) (int, string) {
		w := &recorder{header: http.Header{}}
		r, err := http.NewRequestWithContext(t.Context(), method, path, nil)
		must(t, err)
		h.ServeHTTP(w, r)
		return w.status, w.body.String()
	}
	want := func(path string, status int, body string) {
		t.Helper()
		if code, got := get("GET", path); code != status || got != body {
			t.Errorf("%s: %d %s, want %d %s", path, code, got, status, body)
		}
	}
	want("/healthz", 200, `{"status":"ok"}`)
	want("/readyz", 200, `{"ready":true,"checks":[{"name":"hsm:main","ok":true},{"name":"store","ok":true}]}`)
	want("/metrics", 200, "keyhole_up 1\n")
	checks = append(checks, rest.Check{Name: "audit", Detail: "disk full"})
	want("/readyz", 503, `{"ready":false,"checks":[{"name":"hsm:main","ok":true},{"name":"store","ok":true},{"name":"audit","ok":false,"detail":"disk full"}]}`)
	want("/healthz", 200, `{"status":"ok"}`)
	checks = nil
	if code, _ := get("GET", "/readyz"); code != 503 {
		t.Errorf("ready without a check: %d", code)
	}
	if code, _ := get("POST", "/healthz"); code != 405 {
		t.Errorf("POST: %d", code)
	}
	if code, _ := get("GET", "/v1/keys"); code != 404 {
		t.Errorf("the API is here: %d", code)
	}
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(s int)   { r.status = s }
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = 200
	}
	return r.body.Write(b)
}
