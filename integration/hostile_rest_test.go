package integration

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// raw sends bytes over a connection of their own, and returns the answers
// until the gateway closes it or has answered for a last request, which is
// added behind them and must be refused with 401.
func (g *gateway) raw(t *testing.T, request string) (statuses []int, bodies string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(g.line("ca.crt")))
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}}}).DialContext(t.Context(), "tcp", strings.TrimPrefix(g.api, "https://"))
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	const last = "GET /v1/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	_, err = io.WriteString(conn, request+last)
	must(t, err)
	r := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return statuses, bodies
		}
		b, _ := io.ReadAll(resp.Body) // what broke off is what it is
		statuses, bodies = append(statuses, resp.StatusCode), bodies+string(b)
	}
}

// Requests that two readers could cut differently are refused, or cut in the
// one way of RFC 9112; never is a part of a body taken for a request. What
// would be smuggled is an act of an administrator, with their own token: it
// would leave a key behind.
func TestRequestSmuggling(t *testing.T) {
	g := newGateway(t)
	auth := "Authorization: Bearer " + g.line("admin.jwt") + "\r\nContent-Type: application/json\r\nHost: x\r\n"
	evil := `{"name":"smuggled","algorithm":"ES256"}`
	inner := fmt.Sprintf("POST /v1/admin/keys HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s", auth, len(evil), evil)
	chunked := "0\r\n\r\n" + inner
	post := "POST /v1/random HTTP/1.1\r\n" + auth
	for what, request := range map[string]string{
		"CL.TE":                  post + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%s", len(chunked), "b\r\n"+`{"bytes":1}`+"\r\n"+chunked),
		"two lengths":            post + fmt.Sprintf("Content-Length: 11\r\nContent-Length: %d\r\n\r\n", 11+len(inner)) + `{"bytes":1}` + inner,
		"a list of lengths":      post + fmt.Sprintf("Content-Length: 11, %d\r\n\r\n", 11+len(inner)) + `{"bytes":1}` + inner,
		"a length with a sign":   post + "Content-Length: +11\r\n\r\n" + `{"bytes":1}` + inner,
		"a negative length":      post + "Content-Length: -1\r\n\r\n" + `{"bytes":1}` + inner,
		"a hexadecimal length":   post + "Content-Length: 0xb\r\n\r\n" + `{"bytes":1}` + inner,
		"a length beyond 2^63":   post + "Content-Length: 18446744073709551627\r\n\r\n" + `{"bytes":1}` + inner,
		"TE in odd words":        post + "Transfer-Encoding: xchunked\r\nContent-Length: 11\r\n\r\n" + `{"bytes":1}` + inner,
		"TE with a tab":          post + "Transfer-Encoding:\tchunked\r\n\r\nb\r\n" + `{"bytes":1}` + "\r\n" + chunked,
		"TE twice":               post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\nb\r\n" + `{"bytes":1}` + "\r\n" + chunked,
		"TE on a folded line":    post + "Transfer-Encoding:\r\n chunked\r\nContent-Length: 11\r\n\r\n" + `{"bytes":1}` + inner,
		"a space before a colon": post + "Transfer-Encoding : chunked\r\nContent-Length: 11\r\n\r\n" + `{"bytes":1}` + inner,
		"a chunk beyond 2^64":    post + "Transfer-Encoding: chunked\r\n\r\n1000000000000000b\r\n" + `{"bytes":1}` + "\r\n" + chunked,
		"a chunk with a sign":    post + "Transfer-Encoding: chunked\r\n\r\n+b\r\n" + `{"bytes":1}` + "\r\n" + chunked,
		"a chunk ended by LF":    post + "Transfer-Encoding: chunked\r\n\r\nb\n" + `{"bytes":1}` + "\n0\n\n" + inner,
		"a body of a GET":        "GET /v1/whoami HTTP/1.1\r\n" + auth + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(inner), inner),
		"a line break in a path": "GET /v1/keys/x HTTP/1.1\r\nX: y\nPOST /v1/admin/keys HTTP/1.1\r\n" + auth + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(evil), evil),
		"NUL in a header":        post + "X: a\x00b\r\nContent-Length: 11\r\n\r\n" + `{"bytes":1}`,
		"HTTP/1.0 with chunks":   strings.Replace(post, "HTTP/1.1", "HTTP/1.0", 1) + "Transfer-Encoding: chunked\r\n\r\nb\r\n" + `{"bytes":1}` + "\r\n" + chunked,
		"an upgrade to HTTP/2":   "POST /v1/random HTTP/1.1\r\n" + auth + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: 11\r\n\r\n" + `{"bytes":1}`,
		"a tunnel":               "CONNECT 127.0.0.1:22 HTTP/1.1\r\n" + auth + "\r\n",
		"TRACE":                  "TRACE /v1/whoami HTTP/1.1\r\n" + auth + "\r\n",
	} {
		statuses, bodies := g.raw(t, request)
		if len(statuses) == 0 || len(statuses) > 2 {
			t.Errorf("%s: answers %v", what, statuses)
		}
		if what != "a line break in a path" && strings.Contains(bodies, "smuggled") {
			t.Errorf("%s: what was smuggled is answered: %s", what, bodies)
		}
		if strings.Contains(bodies, g.line("admin.jwt")) {
			t.Errorf("%s: the token is sent back", what)
		}
	}
	g.read(admin, "/v1/keys/smuggled").refused(http.StatusNotFound, "key_not_found")
	g.alive()
	g.stop()
}

// Headers by which other systems let a client say who it is, where it comes
// from or what it means are no more than noise.
func TestHeadersThatMeanNothing(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	token := g.line("agent.jwt")
	for _, h := range [][2]string{
		{"X-HTTP-Method-Override", "DELETE"}, {"X-Method-Override", "DELETE"}, {"X-HTTP-Method", "DELETE"}, {"X-Original-URL", "/v1/admin/keys/payments/rotate"},
		{"X-Rewrite-URL", "/v1/admin/keys/payments/rotate"}, {"X-Forwarded-For", "192.0.2.99"}, {"Forwarded", "for=192.0.2.99"}, {"X-Real-IP", "192.0.2.99"},
		{"X-Forwarded-User", "admin"}, {"X-Remote-User", "admin"}, {"X-SSL-Client-Cert", "admin"}, {"X-Forwarded-Client-Cert", "URI=spiffe://corp.example/admin"},
		{"X-Request-Id", "chosen-by-the-caller"}, {"X-Forwarded-Host", "elsewhere.example"}, {"Cookie", "token=" + g.line("admin.jwt")}, {"X-Vault-Token", g.line("admin.jwt")},
		{"Proxy-Authorization", "Bearer " + g.line("admin.jwt")}, {"Accept", "text/html"}, {"Expect", "100-continue"}, {"Origin", "https://elsewhere.example"}, {"Range", "bytes=0-3"},
	} {
		a := g.call(g.http, token, http.MethodPost, "/v1/keys/payments/sign", `{"payload":"eA=="}`, h[0], h[1]).want(http.StatusOK)
		if cors := a.header.Get("Access-Control-Allow-Origin"); cors != "" || a.requestID() == "chosen-by-the-caller" {
			t.Errorf("%s: %v", h[0], a.header)
		}
		recs := g.audited(func(r audit.Record) bool { return r.RequestID == a.requestID() })
		if len(recs) != 1 || recs[0].Principal != "jwt:dev:agent" || recs[0].Action != "sign" || recs[0].Source != "127.0.0.1" {
			t.Errorf("%s: recorded %+v", h[0], recs)
		}
	}
	for _, h := range [][2]string{{"Authorization", "Bearer " + token + ", Bearer " + g.line("admin.jwt")}, {"Authorization", "bearer  "}, {"Authorization", token}, {"Authorization", "Basic YTpi"}} {
		g.call(g.http, "", http.MethodGet, "/v1/whoami", "", h[0], h[1]).refused(http.StatusUnauthorized, "unauthenticated")
	}
	if a := g.call(g.http, "", http.MethodGet, "/v1/whoami?access_token="+token, ""); a.status == http.StatusOK {
		t.Errorf("a token in the query is taken: %s", a.body)
	}
	var k api.Key
	g.read(agent, "/v1/keys/payments").want(http.StatusOK).into(&k)
	if k.ActiveVersion != 1 || len(k.Versions) != 1 {
		t.Errorf("a header has rotated the key: %+v", k)
	}
	g.stop()
}

// JSON at its limits: depth, numbers, names. Each is refused by the place
// that it concerns, and costs next to nothing.
func TestJSONAtItsLimits(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	deep := strings.Repeat("[", 400_000)
	for _, tt := range []struct {
		path, body string
		statuses   string
	}{
		{"keys/payments/sign", `{"payload":` + deep, "400"},
		{"keys/payments/sign", deep + strings.Repeat("]", 400_000), "400"},
		{"keys/payments/sign", strings.Repeat(`{"payload":`, 80_000), "400"},
		{"keys/payments/sign", `{"` + strings.Repeat("x", 900_000) + `":1}`, "400"},
		{"keys/payments/sign", `{"payload":"` + strings.Repeat(`\u0041`, 100_000) + `"}`, "200 400"},
		{"keys/payments/sign", `{"payload":"\ud800"}`, "400"},
		{"keys/payments/sign", "{\"payload\":\"\u0000\"}", "400"},
		{"keys/payments/sign", `{"payloa\u0064":"eA=="}`, "200"},
		{"keys/payments/sign", `{"payload":"eA==","payloa\u0064":"eQ=="}`, "400"},
		{"keys/payments/sign", `{"payload":"eA==","Payload":"eQ=="}`, "400"},
		{"keys/payments/sign", `{"__proto__":{"payload":"eA=="}}`, "400"},
		{"keys/payments/verify", `{"payload":"","signature":"","version":4294967296}`, "400"},
		{"keys/payments/verify", `{"payload":"","signature":"","version":4294967295}`, "404"},
		{"keys/payments/verify", `{"payload":"","signature":"","version":-1}`, "400"},
		{"keys/payments/verify", `{"payload":"","signature":"","version":1.0}`, "400"},
		{"keys/payments/verify", `{"payload":"","signature":"","version":1e0}`, "400"},
		{"keys/payments/verify", `{"payload":"","signature":"","version":"1"}`, "400"},
		{"keys/payments/verify", `{"payload":"","signature":"","version":01}`, "400"},
		{"keys/payments/verify", `{"payload":"","signature":"","version":` + strings.Repeat("9", 100_000) + `}`, "400"},
		{"random", `{"bytes":9223372036854775807}`, "422"}, {"random", `{"bytes":9223372036854775808}`, "400"}, {"random", `{"bytes":1e309}`, "400"},
		{"random", `{"bytes":-9223372036854775808}`, "422"}, {"random", `{"bytes":NaN}`, "400"}, {"random", `{"bytes":0x10}`, "400"},
		{"keys/payments/sign/batch", `{"items":[` + strings.Repeat(`{},`, 1000) + `{}]}`, "422"},
		{"keys/payments/sign/batch", `{"items":[` + strings.Repeat(`null,`, 999) + `null]}`, "400"},
	} {
		if a := g.post(agent, "/v1/"+tt.path, tt.body); !strings.Contains(tt.statuses, fmt.Sprint(a.status)) {
			t.Errorf("%s %.60s: %d %.300s, want %s", tt.path, tt.body, a.status, a.body, tt.statuses)
		} else if a.status == http.StatusOK {
			continue
		} else if len(a.body) > 2000 {
			t.Errorf("%s %.60s: the refusal has %d bytes", tt.path, tt.body, len(a.body))
		}
	}
	for _, tt := range []struct{ body, statuses string }{
		{`{"name":"p\u0430yments","algorithm":"ES256"}`, "400 422"}, {`{"name":"payments\u200b","algorithm":"ES256"}`, "400 422"}, {`{"name":"Payments","algorithm":"ES256"}`, "400 422"},
		{`{"name":"payments\n","algorithm":"ES256"}`, "400 422"}, {`{"name":"../payments","algorithm":"ES256"}`, "400 422"}, {`{"name":"payments.v1","algorithm":"ES256"}`, "400 422"},
		{`{"name":"` + strings.Repeat("a", 49) + `","algorithm":"ES256"}`, "400 422"}, {`{"name":"keyhole-store","algorithm":"ES256"}`, "400 403 409 422"}, {`{"name":"keyhole-audit","algorithm":"ES256"}`, "400 403 409 422"},
		{`{"name":"a","algorithm":"ES256","bits":-1}`, "400 422"}, {`{"name":"a","algorithm":"RS256","bits":1024}`, "422"}, {`{"name":"a","algorithm":"RS256","bits":2147483647}`, "400 422"},
		{`{"name":"a","algorithm":"ES256","token":"../x"}`, "400 422"}, {`{"name":"a","algorithm":"ES256","policy":{"period":"9999999h"}}`, "201 400 422"}, {`{"name":"b","algorithm":"ES256","policy":{"period":"-1h"}}`, "400 422"},
		{`{"name":"b","algorithm":"ES256","policy":{"period":"1ns"}}`, "400 422"}, {`{"name":"b","algorithm":"ES256","policy":{"max_operations":-1}}`, "400 422"},
		{`{"name":"b","algorithm":"ES256","policy":{"schedule":"* * * * * * * *"}}`, "400 422"}, {`{"name":"b","algorithm":"ES256","description":"` + strings.Repeat("x", 100_000) + `"}`, "400 422"},
	} {
		if a := g.post(admin, "/v1/admin/keys", tt.body); !strings.Contains(tt.statuses, fmt.Sprint(a.status)) {
			t.Errorf("%.80s: %d %.300s, want %s", tt.body, a.status, a.body, tt.statuses)
		}
	}
	g.alive()
	g.stop()
}

// What somebody wrote into a key or a note does nothing to the terminal of
// who reads it: no escape sequence, no text that turns round, no line that
// looks like another one.
func TestTextsAreNoTerminalSequences(t *testing.T) {
	g := newGateway(t)
	for i, evil := range []string{"\u001b]0;owned\u0007", "\u001b[2J", "a\rb", "a\nkey  forged", "\u202etxet", "\u009b31m", "a\u0000b", "\u2028x"} {
		body := fmt.Sprintf(`{"name":"k%d","algorithm":"ES256","description":%q,"tags":{"team":%q}}`, i, "D", "T")
		quoted := jsonText(evil)
		body = strings.Replace(strings.Replace(body, `"D"`, quoted, 1), `"T"`, quoted, 1)
		a := g.post(admin, "/v1/admin/keys", body)
		if a.status != http.StatusCreated {
			if a.status != http.StatusUnprocessableEntity && a.status != http.StatusBadRequest {
				t.Errorf("%q: %d %s", evil, a.status, a.body)
			}
			g.create(fmt.Sprintf("k%d", i), "ES256", 0)
		}
		g.post(admin, fmt.Sprintf("/v1/admin/keys/k%d/rotate", i), `{"note":`+quoted+`}`)
		for _, args := range [][]string{{"key", "list"}, {"key", "show", fmt.Sprintf("k%d", i)}, {"rotation", "list"}, {"audit", "search"}, {"audit", "search", "--key", fmt.Sprintf("k%d", i)}} {
			s := g.cli(admin, args...)
			for _, bad := range []string{"\x1b", "\x07", "\u202e", "\u009b", "\x00", "\u2028", "\r"} {
				if strings.Contains(s.out+s.errOut, bad) {
					t.Errorf("%q: keyhole %s writes %q", evil, strings.Join(args, " "), bad)
				}
			}
			if strings.Contains(s.out, "\nkey  forged") {
				t.Errorf("%q: keyhole %s writes a line of its own", evil, strings.Join(args, " "))
			}
		}
	}
	g.stop()
}

// jsonText is s as JSON text with everything beyond ASCII escaped.
func jsonText(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// From the moment that the order has been answered, no request that is sent
// succeeds: neither one of a blocked caller, nor one that needs a revoked
// version. Requests that were under way may still have ended well.
func TestNoRequestOutlivesAnOrder(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	g.create("vault", "A256GCM", 0)
	sealed := string(g.post(agent, "/v1/keys/vault/encrypt", `{"plaintext":"eA=="}`).want(http.StatusOK).only("ciphertext"))
	agentToken := g.line("agent.jwt")
	// race has workers send requests until after the order, and reports what
	// a request answered that was sent when the order had been answered.
	race := func(what string, send func() answer, order func(), allowed func(answer) bool) {
		t.Helper()
		ordered, done := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					after := false
					select {
					case <-done:
						return
					case <-ordered:
						after = true
					default:
					}
					if a := send(); after && !allowed(a) {
						t.Errorf("%s: after the order: %d %.200s", what, a.status, a.body)
						return
					}
				}
			})
		}
		for range 20 {
			send().want(http.StatusOK)
		}
		order()
		close(ordered)
		for range 50 {
			if a := send(); !allowed(a) {
				t.Errorf("%s: after the order: %d %.200s", what, a.status, a.body)
			}
		}
		close(done)
		wg.Wait()
	}
	race("decrypt by a revoked version",
		func() answer { return g.call(g.http, agentToken, http.MethodPost, "/v1/keys/vault/decrypt", sealed) },
		func() { g.post(admin, "/v1/admin/keys/vault/versions/1/revoke", `{}`).want(http.StatusOK) },
		func(a answer) bool { return a.status != http.StatusOK })
	race("sign by a revoked version",
		func() answer {
			return g.call(g.http, agentToken, http.MethodPost, "/v1/keys/payments/sign", `{"payload":"eA=="}`)
		},
		func() { g.post(admin, "/v1/admin/keys/payments/versions/1/revoke", `{}`).want(http.StatusOK) },
		func(a answer) bool { return !strings.Contains(string(a.body), `"payments.v1"`) })
	race("a blocked caller",
		func() answer {
			return g.call(g.http, agentToken, http.MethodPost, "/v1/keys/payments/sign", `{"payload":"eA=="}`)
		},
		func() {
			g.post(admin, "/v1/admin/agents/"+keys.AgentID("jwt:dev:agent")+"/block", `{}`).want(http.StatusOK)
		},
		func(a answer) bool { return a.status == http.StatusForbidden || a.status == http.StatusTooManyRequests })
	g.stop()
}

// An Idempotency-Key is its sender's: another person's request with the same
// one is neither answered with the first one's answer nor kept from being
// done; and a replay of an act is no second act.
func TestReplays(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	rotate := func(who, body string) answer {
		return g.post(who, "/v1/admin/keys/payments/rotate", body, "Idempotency-Key", "the-same-for-both")
	}
	first := rotate(admin, `{}`).want(http.StatusAccepted)
	for range 3 {
		if again := rotate(admin, `{}`).want(http.StatusAccepted); string(again.only("id")) != string(first.only("id")) {
			t.Errorf("a replay is another rotation: %s, %s", again.body, first.body)
		}
	}
	if a := rotate(admin, `{"note":"another act"}`); a.status == http.StatusAccepted {
		t.Errorf("another act under the same key: %d %s", a.status, a.body)
	}
	second := rotate("approver", `{}`)
	if second.status == http.StatusAccepted && string(second.only("id")) == string(first.only("id")) {
		t.Errorf("another person gets the first one's answer: %s", second.body)
	}
	rotate(agent, `{}`).refused(http.StatusForbidden, "forbidden")
	var k api.Key
	g.read(admin, "/v1/keys/payments").want(http.StatusOK).into(&k)
	if n := len(k.Versions); n != 3 {
		t.Errorf("the key has %d versions, want 3: one made it, two persons rotated it", n)
	}
	g.stop()
}
