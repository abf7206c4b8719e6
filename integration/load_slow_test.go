package integration

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"keyhole/gateway/api"
	"keyhole/integration/internal/proc"
)

// connections opens n of them, which the test closes, and returns them.
func (g *gateway) connections(n int, proto string) []*tls.Conn {
	g.t.Helper()
	all := make([]*tls.Conn, n)
	for i := range all {
		c, err := g.dialAs(g.t.Context(), proto)
		must(g.t, err)
		g.t.Cleanup(func() { _ = c.Close() })
		all[i] = c
	}
	return all
}

// hungUp waits until the gateway closes a connection.
func hungUp(t *testing.T, c net.Conn) {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(patience)))
	_, err := io.Copy(io.Discard, c)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		t.Error("the gateway does not hang up")
	}
}

// serves fails unless others are served.
func (g *gateway) serves() {
	g.t.Helper()
	w, err := g.wire(g.t.Context())
	must(g.t, err)
	defer w.Close()
	must(g.t, w.SetDeadline(time.Now().Add(patience)))
	a, err := w.ask(g.request(g.line(admin+".jwt"), "/v1/keys/payments/sign", helloBody))
	must(g.t, err)
	if a.status != 200 {
		g.t.Errorf("others are answered %d: %s", a.status, a.body)
	}
}

// ends waits until what connections have cost is given back.
func (g *gateway) ends(goroutines float64) {
	g.t.Helper()
	eventually(g.t, "the goroutines end", func() bool {
		n, ok := g.metric("go_goroutines")
		return ok && n <= goroutines+16
	})
}

func (g *gateway) goroutines() float64 {
	n, ok := g.metric("go_goroutines")
	if !ok {
		g.t.Fatal("the metrics have no go_goroutines")
	}
	return n
}

// A thousand callers who are connected and ask nothing are in nobody's way.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	g.serves()
	before, memory := g.goroutines(), g.rss()
	const n = 1000
	var idle []*tls.Conn
	for _, proto := range []string{"http/1.1", "h2"} {
		idle = append(idle, g.connections(n/2, proto)...)
	}
	eventually(t, "they are connected", func() bool { return g.goroutines() >= before+n/2 })
	t.Logf("%d idle connections take %d KiB each", n, (g.rss()-memory)/n>>10)
	most := 256 << 10
	if proc.Race {
		most *= 8
	}
	if per := (g.rss() - memory) / n; per > most {
		t.Errorf("an idle connection takes %d KiB", per>>10)
	}
	g.serves()
	for _, c := range idle {
		_ = c.Close()
	}
	g.ends(before)
}

// Whoever sends slowly, or nothing, or does not read the answer, costs nothing
// but the connection. What does not get as far as a request is cut off soon.
func TestSlowCallers(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	g.serves()
	before := g.goroutines()
	const n = 40
	addr := strings.TrimPrefix(g.api, "https://")
	var silent []net.Conn // who do not even begin the handshake
	for range n {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		silent = append(silent, c)
	}
	headers := g.connections(n, "http/1.1")
	for _, c := range headers {
		_, err := io.WriteString(c, "POST /v1/keys/payments/sign HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		must(t, err)
	}
	bodies := g.connections(n, "http/1.1")
	request := string(g.request(g.line(agent+".jwt"), "/v1/keys/payments/sign", helloBody))
	for _, c := range bodies {
		_, err := io.WriteString(c, request[:len(request)-5])
		must(t, err)
	}
	// Without credentials a body is not waited for.
	strangers := g.connections(n, "http/1.1")
	for _, c := range strangers {
		_, err := io.WriteString(c, "POST /v1/keys/payments/sign HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
		must(t, err)
	}
	for _, c := range strangers {
		must(t, c.SetReadDeadline(time.Now().Add(patience)))
		head := make([]byte, 12)
		_, err := io.ReadFull(c, head)
		if must(t, err); string(head) != "HTTP/1.1 401" && string(head) != "HTTP/1.1 429" {
			t.Errorf("a stranger's body is answered %q", head)
		}
		_ = c.Close()
	}
	// Batches whose answers are not read.
	item := `{"payload":"` + strings.Repeat("A", 4096) + `","format":"jws"}`
	batch := g.request(g.line(agent+".jwt"), "/v1/keys/payments/sign/batch", `{"items":[`+strings.Repeat(item+",", 499)+item+`]}`)
	unread := g.connections(8, "http/1.1")
	for _, c := range unread {
		_, err := c.Write(batch)
		must(t, err)
	}
	g.serves()
	for _, c := range append(silent, asConns(headers)...) {
		hungUp(t, c)
	}
	g.serves()
	// What is finished late is served.
	if _, err := io.WriteString(bodies[0], request[len(request)-5:]); err != nil {
		t.Error(err)
	}
	for _, c := range append(asConns(bodies), asConns(unread)...) {
		_ = c.Close()
	}
	g.ends(before)
	g.post(agent, "/v1/keys/payments/sign", helloBody).want(200)
	g.post(agent, "/v1/keys/payments/sign/batch", `{"items":[`+helloBody+`]}`).want(200)
}

func asConns(all []*tls.Conn) []net.Conn {
	conns := make([]net.Conn, len(all))
	for i, c := range all {
		conns[i] = c
	}
	return conns
}

// One caller's limits are its own, and say when to come again.
func TestLimitsOfOneCaller(t *testing.T) {
	t.Parallel()
	g := stopped(t)
	g.edit("keyhole.yaml", "\nlog:\n", "\nlimits:\n  requests_per_second: 1\n  burst: 20\n\nlog:\n")
	g.start()
	if _, err := g.as("admin").CreateKey(t.Context(), api.CreateKeyRequest{Name: "payments", Algorithm: "ES256"}); err != nil {
		t.Fatal(err)
	}
	tokens := g.agents(2)
	w, err := g.wire(context.Background())
	must(t, err)
	defer w.Close()
	refused := reply{}
	for range 1000 {
		a, err := w.ask(g.request(tokens[0], "/v1/keys/payments/sign", helloBody))
		must(t, err)
		if a.status != 200 {
			refused = a
			break
		}
	}
	if refused.status != 429 || refused.retryAfter < 1 {
		t.Errorf("after too many: %d, Retry-After %d: %s", refused.status, refused.retryAfter, refused.body)
	}
	a, err := w.ask(g.request(tokens[1], "/v1/keys/payments/sign", helloBody))
	must(t, err)
	if a.status != 200 {
		t.Errorf("another caller: %s", fmt.Sprint(a.status, string(a.body)))
	}
}
