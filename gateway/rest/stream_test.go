package rest_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
)

func TestStreamsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	many := strings.Repeat("&key=payments", 101)
	for _, tt := range []struct {
		path, last string
		status     int
		code       string
	}{
		{"?key=nosuch", "", 404, "key_not_found"},
		{"?key=payments,hidden", "", 404, "key_not_found"},
		{"?key=", "", 422, "invalid_argument"},
		{"?key=payments,", "", 422, "invalid_argument"},
		{"?key=payments,,orders", "", 422, "invalid_argument"},
		{"?key=Payments", "", 422, "invalid_argument"},
		{"?key=a%0Ab", "", 422, "invalid_argument"},
		{"?" + many[1:], "", 422, "invalid_argument"},
		{"?key=" + strings.Repeat("payments,", 2000) + "orders", "", 422, "invalid_argument"},
		{"?after=", "", 422, "invalid_argument"},
		{"?after=-1", "", 422, "invalid_argument"},
		{"?after=%2B1", "", 422, "invalid_argument"},
		{"?after=1e3", "", 422, "invalid_argument"},
		{"?after=0x10", "", 422, "invalid_argument"},
		{"?after=99999999999999999999", "", 422, "invalid_argument"},
		{"?after=1&after=2", "", 400, "malformed_request"},
		{"?since=1", "", 400, "malformed_request"},
		{"", "x", 422, "invalid_argument"},
		{"", "-1", 422, "invalid_argument"},
		{"", "1, 2", 422, "invalid_argument"},
		{"", "١", 422, "invalid_argument"},
		{"", strings.Repeat("9", 5000), 422, "invalid_argument"},
		{"?after=1", "rubbish", 422, "invalid_argument"},
	} {
		c := agent
		if tt.last != "" {
			c = agent.set("Last-Event-ID", tt.last)
		}
		res := c.get("/v1/events" + tt.path)
		res.refused(tt.status, tt.code)
		if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Outcome == audit.OutcomeOK {
			t.Errorf("%.60s %.20s: recorded %+v", tt.path, tt.last, recs)
		}
	}
	agent.set("Last-Event-ID", "1").set("Last-Event-ID", "2").get("/v1/events").refused(400, "malformed_request")
	agent.post("/v1/events", `{}`).refused(405, "method_not_allowed")
	agent.do("GET", "/v1/events", strings.NewReader("{}")).refused(400, "malformed_request")
	s.nobody(t).get("/v1/events").refused(401, "unauthenticated")
	s.as(t, "other").get("/v1/events?key=payments").refused(404, "key_not_found")
	if head := agent.overHTTP1().do("HEAD", "/v1/events?key=payments", nil).want(200); head.header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD: %v", head.header)
	}
	eventually(t, "HEAD is done with", func() bool { return s.observed.count(observation{"/v1/events", "HEAD", 200}) == 1 })
	agent.do("HEAD", "/v1/events?key=nosuch", nil).want(404)
	// Line breaks do not get in by the header: what net/http takes for the end
	// of a line begins another header.
	for _, value := range []string{"1\r\nX-Other: 2", "1\r 2", "1\n 2", "\r\n", "1\x00"} {
		conn, answer := s.raw(t)
		fmt.Fprintf(conn, "GET /v1/events?key=nosuch HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nLast-Event-ID: %s\r\n\r\n", agent.header.Get("Authorization"), value)
		if res := answer(); res.StatusCode/100 != 4 {
			t.Errorf("Last-Event-ID %q: %d", value, res.StatusCode)
		}
	}
}

// A stream is alive however long nothing happens: none of the limits that
// are made for answers that end applies to it.
func TestStreamsOutliveTimeouts(t *testing.T) {
	t.Parallel()
	const short = time.Second
	s := start(t)
	k := s.kit
	k.cfg.Timeout, k.cfg.StreamWrite, k.cfg.Heartbeat = short, short, 20*time.Millisecond
	k.shape = func(server *http.Server) {
		server.ReadTimeout, server.WriteTimeout, server.IdleTimeout = short, short, short
	}
	s = k.serve(t)
	followers := map[string]*follower{"HTTP/2.0": s.as(t, "agent").follow("/v1/events"), "HTTP/1.1": s.as(t, "agent").overHTTP1().follow("/v1/events")}
	for begun := time.Now(); time.Since(begun) < 5*short/2; {
		for proto, f := range followers {
			if text := f.comment(); f.res.Proto != proto || text != "" {
				t.Errorf("%s, want %s: the comment %q", f.res.Proto, proto, text)
			}
		}
	}
	k.rotate(t, "payments")
	for proto, f := range followers {
		if e := f.event(); e.Key != "payments" {
			t.Errorf("%s: %+v", proto, e)
		}
	}
}

// What a reader may take for what is sent does not bound the quiet in between.
func TestStreamsOutliveQuiet(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.kit.cfg.StreamWrite, s.kit.cfg.Heartbeat = 200*time.Millisecond, time.Second
	s = s.kit.serve(t)
	for proto, c := range map[string]*caller{"HTTP/2.0": s.as(t, "agent"), "HTTP/1.1": s.as(t, "agent").overHTTP1()} {
		f := c.follow("/v1/events")
		for range 2 {
			if text := f.comment(); f.res.Proto != proto || text != "" {
				t.Errorf("%s, want %s: the comment %q", f.res.Proto, proto, text)
			}
		}
		f.close()
	}
}

// rotate rotates a key past the API.
func (k *kit) rotate(t testing.TB, key string) {
	t.Helper()
	_, err := k.engine.Rotate(t.Context(), rotation.Actor{Principal: "mtls:operator"}, key, rotation.RotateSpec{Reason: keys.ReasonManual})
	must(t, err)
}

func TestStreamsEndWhenTheServerDrains(t *testing.T) {
	t.Parallel()
	draining := make(chan struct{})
	s := start(t, func(k *kit) { k.cfg.Draining, k.gateway.Draining = draining, draining })
	f, g := s.as(t, "agent").follow("/v1/events"), s.as(t, "agent").overHTTP1().follow("/v1/events")
	close(draining)
	for _, f := range []*follower{f, g} {
		if last := f.end(); !strings.Contains(last, "shutting down") {
			t.Errorf("the last word is %q", last)
		}
	}
	s.as(t, "agent").get("/v1/events").refused(503, "overloaded")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, s.server.Config.Shutdown(ctx))
}

func TestStreamsEndWithTheirCredentials(t *testing.T) {
	t.Parallel()
	s := start(t)
	claims := s.issuer.Claims("agent", time.Now())
	claims["groups"] = []string{"agents"}
	claims["exp"] = time.Now().Add(2 * time.Second).Unix()
	agent := s.nobody(t).set("Authorization", "Bearer "+s.issuer.Token(t, claims))
	f := agent.follow("/v1/events")
	if last := f.end(); !strings.Contains(last, "expired") {
		t.Errorf("the last word is %q", last)
	}
}

// Streams have places of their own: they take none from requests, and one
// caller cannot have all.
func TestStreamLimits(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) {
		k.cfg.MaxStreams = 4
		k.gateway.Limits = authz.NewLimiter(authz.LimiterConfig{InFlight: 1, FailedLoginBurst: 100})
	})
	k := s.kit
	k.cfg.MaxInFlight = 1
	s = k.serve(t)
	agent, admin := s.as(t, "agent"), s.as(t, "admin")
	first, second := agent.follow("/v1/events"), agent.follow("/v1/events")
	res := agent.get("/v1/events")
	res.refused(429, "rate_limited")
	if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Reason != "rate_limited" {
		t.Errorf("recorded %+v", recs)
	}
	third, fourth := admin.follow("/v1/events"), admin.follow("/v1/events")
	s.with(t, "signer").get("/v1/events").refused(503, "overloaded")
	agent.post("/v1/keys/payments/sign", `{"payload":""}`).want(200)
	admin.rotate("payments")
	for _, f := range []*follower{first, second, third, fourth} {
		f.event()
	}
	first.close()
	eventually(t, "the place is free again", func() bool { return s.opens(agent) })

	// All of them gone, there is one place for requests again and not more.
	for _, f := range []*follower{second, third, fourth} {
		f.close()
	}
	ended := func() bool {
		return s.observed.count(observation{"/v1/events", "GET", 200}) >= 5
	}
	eventually(t, "the streams end", ended)
	entered, release := s.hsm.Block(hsmtest.Sign, 1)
	defer release()
	var wg sync.WaitGroup
	wg.Go(func() { agent.post("/v1/keys/payments/sign", `{"payload":""}`).want(200) })
	<-entered
	admin.get("/v1/whoami").refused(503, "overloaded")
	release()
	wg.Wait()
}

// A stream that does not come about in time is refused like any request.
func TestStreamsBeginInTime(t *testing.T) {
	t.Parallel()
	s := start(t)
	k := s.kit
	k.cfg.Timeout = 100 * time.Millisecond
	k.store.hang(true)
	s = k.serve(t)
	s.as(t, "agent").get("/v1/events").refused(503, "timeout")
	k.store.hang(false)
	eventually(t, "it works again", func() bool { return s.opens(s.as(t, "agent")) })
}

// opens reports whether a stream can be opened.
func (s *site) opens(c *caller) bool {
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, s.url+"/v1/events", nil)
	must(c.t, err)
	req.Header = c.header.Clone()
	res, err := c.client.Do(req)
	must(c.t, err)
	must(c.t, res.Body.Close())
	return res.StatusCode == 200
}

// A principal that is blocked loses its stream.
func TestStreamsEndWithTheirPrincipal(t *testing.T) {
	t.Parallel()
	s := start(t)
	f := s.as(t, "agent").follow("/v1/events")
	s.as(t, "admin").post("/v1/admin/agents/"+keys.AgentID("jwt:corp:agent")+"/block", `{"principal":"jwt:corp:agent","reason":"a test"}`).want(200)
	f.end()
}
