package rest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
)

func (c *caller) rotate(key string) *response {
	c.t.Helper()
	return c.post("/v1/admin/keys/"+key+"/rotate", `{}`).want(202)
}

func TestEventsArriveAsTheyHappen(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	for proto, agent := range map[string]*caller{"HTTP/2.0": s.as(t, "agent"), "HTTP/1.1": s.as(t, "agent").overHTTP1()} {
		f := agent.follow("/v1/events?key=payments")
		if f.res.Proto != proto || f.res.Header.Get("X-Accel-Buffering") != "no" || f.res.Header.Get("Cache-Control") != "no-store" || f.res.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%s: %v", f.res.Proto, f.res.Header)
		}
		admin.rotate("orders") // of no concern
		r := read[api.Rotation](admin.rotate("payments"))
		got := f.until("version.activated")
		last := got[len(got)-1]
		if last.Key != "payments" || last.Version != r.To || last.KeyID != fmt.Sprintf("payments.v%d", r.To) || last.Rotation != r.ID || last.Time.IsZero() || last.When.IsZero() {
			t.Errorf("%+v of rotation %+v", last, r)
		}
		for _, e := range got {
			if e.Key != "payments" {
				t.Errorf("%+v is of no concern", e)
			}
		}
		f.close()
	}
	eventually(t, "the streams end", func() bool {
		return s.observed.count(observation{"/v1/events", "GET", 200}) == 2
	})
}

func (o *observed) count(what observation) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, seen := range o.all {
		if seen == what {
			n++
		}
	}
	return n
}

// What one may not see does not happen, and keys that are made later are
// followed too.
func TestEventsOfWhatOneMaySee(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	all := s.as(t, "agent").follow("/v1/events")
	some := s.as(t, "agent").follow("/v1/events?key=orders,payments&key=payments")
	admin.rotate("hidden")
	admin.post("/v1/admin/keys", `{"name":"later","algorithm":"ES256"}`).want(201)
	admin.rotate("later")
	admin.rotate("payments")
	var seen []string
	for !slices.Contains(seen, "payments") {
		seen = append(seen, all.event().Key)
	}
	if slices.Contains(seen, "hidden") || !slices.Contains(seen, "later") {
		t.Errorf("of all: %v", seen)
	}
	if e := some.event(); e.Key != "payments" {
		t.Errorf("of some: %+v", e)
	}
}

func TestEventsAreResumed(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin, agent := s.as(t, "admin"), s.as(t, "agent")
	live := agent.follow("/v1/events")
	for range 3 {
		admin.rotate("payments")
	}
	var all []api.Event
	for activated := 0; activated < 3; {
		all = append(all, live.event())
		if all[len(all)-1].Type == "version.activated" {
			activated++
		}
	}
	rest := func(f *follower, n int) []api.Event {
		var got []api.Event
		for range n {
			got = append(got, f.event())
		}
		f.close()
		return got
	}
	for i := range all {
		after := strconv.FormatUint(all[i].ID, 10)
		want := all[i+1:]
		for name, f := range map[string]*follower{
			"header": agent.set("Last-Event-ID", after).follow("/v1/events"), "query": agent.follow("/v1/events?after=" + after),
			"header and query": agent.set("Last-Event-ID", after).follow("/v1/events?after=0"), // as EventSource does
		} {
			if got := rest(f, len(want)); !slices.Equal(got, want) {
				t.Errorf("by %s after %s: %+v, want %+v", name, after, got, want)
			}
		}
	}
	first := agent.follow("/v1/events?after=0").event()
	if first.ID >= all[0].ID {
		t.Errorf("from the beginning: %+v, and the first one seen was %+v", first, all[0])
	}
}

// Whoever comes too late is told so, and goes on from there.
func TestEventsThatAreGone(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin, agent := s.as(t, "admin"), s.as(t, "agent")
	admin.rotate("payments")
	_, newest, err := s.store.EventRange(t.Context())
	must(t, err)
	_, err = s.store.ExpireEvents(t.Context(), time.Now().Add(time.Hour))
	must(t, err)
	f := agent.follow("/v1/events?after=1")
	if e := f.event(); e.Type != api.EventReset || e.ID != newest || e.Key != "" {
		t.Errorf("%+v, and the newest was %d", e, newest)
	}
	r := read[api.Rotation](admin.rotate("payments"))
	if e := f.event(); e.ID <= newest || e.Rotation != r.ID {
		t.Errorf("after it: %+v", e)
	}
	// An id of another gateway's stream, or of the future.
	if e := agent.follow("/v1/events?after=9223372036854775807").event(); e.Type != api.EventReset {
		t.Errorf("from the future: %+v", e)
	}
}

// While keys are rotated from all sides, a reader that is cut off again and
// again gets what one gets that is not.
func TestResumeHasNoGapAndNoDuplicate(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin, agent := s.as(t, "admin"), s.as(t, "agent")
	const rounds = 8
	whole := agent.follow("/v1/events")
	cut := agent.follow("/v1/events")
	var wg sync.WaitGroup
	for _, key := range []string{"payments", "orders", "hidden"} {
		wg.Go(func() {
			for range rounds {
				admin.rotate(key)
			}
		})
	}
	done := func(all []api.Event) bool {
		n := 0
		for _, e := range all {
			if e.Type == "version.activated" {
				n++
			}
		}
		return n == 2*rounds
	}
	var want, got []api.Event
	wg.Go(func() {
		for !done(want) {
			want = append(want, whole.event())
		}
	})
	for i := 1; !done(got); i++ {
		for range i % 4 {
			if got = append(got, cut.event()); done(got) {
				break
			}
		}
		cut.close()
		if len(got) > 0 {
			cut = agent.set("Last-Event-ID", strconv.FormatUint(got[len(got)-1].ID, 10)).follow("/v1/events")
		} else {
			cut = agent.follow("/v1/events?after=" + strconv.FormatUint(0, 10))
		}
	}
	wg.Wait()
	n := min(len(want), len(got)) // one may have seen what came behind the last activation
	if !slices.Equal(want[:n], got[:n]) {
		t.Errorf("cut off: %+v\nnot cut off: %+v", got, want)
	}
	for i := 1; i < len(got); i++ {
		if got[i].ID <= got[i-1].ID {
			t.Errorf("%+v comes behind %+v", got[i], got[i-1])
		}
	}
}

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
	res.refused(503, "overloaded")
	if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Reason != "overloaded" {
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

// A reader that takes nothing is left alone, not waited for.
func TestStuckReadersAreDropped(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T, s *site, token string) net.Conn{"HTTP/1.1": stuckHTTP1, "a window": stuckHTTP2, "TCP under HTTP/2": stuckTCP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, func(k *kit) {
				k.cfg.Heartbeat, k.cfg.StreamWrite = time.Millisecond, 100*time.Millisecond
				k.shape = func(server *http.Server) {
					server.HTTP2.WriteByteTimeout = time.Second
					server.ConnState = func(c net.Conn, state http.ConnState) {
						if state == http.StateNew {
							_ = c.(*tls.Conn).NetConn().(*net.TCPConn).SetWriteBuffer(1)
						}
					}
				}
			})
			agent := s.as(t, "agent")
			conn := open(t, s, agent.header.Get("Authorization"))
			defer func() { _ = conn.Close() }()
			eventually(t, "the stream ends", func() bool { return s.observed.count(observation{"/v1/events", "GET", 200}) == 1 })
			if !s.opens(agent) {
				t.Error("others are harmed")
			}
		})
	}
}

// stuckHTTP1 asks for a stream and reads nothing.
func stuckHTTP1(t *testing.T, s *site, token string) net.Conn {
	conn := dial(t, s, "http/1.1")
	_, err := fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n\r\n", token)
	must(t, err)
	return conn
}

// stuckHTTP2 reads frames and opens no window, as a peer does that keeps its
// connection busy with something else.
func stuckHTTP2(t *testing.T, s *site, token string) net.Conn {
	conn := dial(t, s, "h2")
	_, err := conn.Write(http2Request(token, 200))
	must(t, err)
	go func() { _, _ = io.Copy(io.Discard, conn) }() // ends with the connection
	return conn
}

// http2Request is what a client sends who asks for events and has a window
// of some bytes.
func http2Request(token string, window uint32) []byte {
	var out bytes.Buffer
	out.WriteString("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	frame := func(kind, flags byte, stream uint32, payload []byte) {
		var head [9]byte
		binary.BigEndian.PutUint32(head[:4], uint32(len(payload))<<8|uint32(kind))
		head[4] = flags
		binary.BigEndian.PutUint32(head[5:], stream)
		out.Write(head[:])
		out.Write(payload)
	}
	frame(4, 0, 0, binary.BigEndian.AppendUint32([]byte{0, 4}, window)) // SETTINGS_INITIAL_WINDOW_SIZE
	var block []byte
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/v1/events"}, {":authority", "x"}, {"authorization", token}} {
		block = append(block, 0) // literal, not indexed, not Huffman (RFC 7541, 6.2.2)
		for _, text := range h {
			block = append(hpackLength(block, len(text)), text...)
		}
	}
	frame(1, 5, 1, block) // HEADERS: the end of them and of the stream
	return out.Bytes()
}

// stuckTCP asks for a stream with a wide window and reads nothing.
func stuckTCP(t *testing.T, s *site, token string) net.Conn {
	conn := dial(t, s, "h2")
	_, err := conn.Write(http2Request(token, 1<<20))
	must(t, err)
	return conn
}

// hpackLength appends the length of a string (RFC 7541, 5.1), 7-bit prefix.
func hpackLength(b []byte, n int) []byte {
	if n < 127 {
		return append(b, byte(n))
	}
	b, n = append(b, 127), n-127
	for ; n >= 128; n /= 128 {
		b = append(b, byte(n%128|128))
	}
	return append(b, byte(n))
}

func dial(t *testing.T, s *site, proto string) net.Conn {
	t.Helper()
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "https://"))
	must(t, err)
	must(t, raw.(*net.TCPConn).SetReadBuffer(1))
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto}})
	must(t, conn.HandshakeContext(t.Context()))
	return conn
}

// A principal that is blocked loses its stream.
func TestStreamsEndWithTheirPrincipal(t *testing.T) {
	t.Parallel()
	s := start(t)
	f := s.as(t, "agent").follow("/v1/events")
	s.as(t, "admin").post("/v1/admin/agents/"+keys.AgentID("jwt:corp:agent")+"/block", `{"principal":"jwt:corp:agent","reason":"a test"}`).want(200)
	f.end()
}
