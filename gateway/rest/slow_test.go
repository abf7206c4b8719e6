package rest_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Whoever is refused before the body was read is told so, also when the body
// does not come.
func TestRefusedWithoutBody(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) { k.cfg.StreamWrite = 10 * time.Millisecond }) // less than the body has
	for _, headers := range []string{"Content-Length: 100", "Content-Length: 1000000", "Transfer-Encoding: chunked"} {
		conn, answer := s.raw(t)
		fmt.Fprintf(conn, "POST /v1/keys/payments/sign HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\n\r\n{", headers)
		if res := answer(); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", headers, res.StatusCode)
		}
	}
}

// An answer that is not read holds its caller's place only for a while.
func TestUnreadAnswers(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) {
		k.cfg.StreamWrite, k.cfg.MaxBatches = 50*time.Millisecond, 1
		k.shape = func(server *http.Server) {
			server.ConnState = func(c net.Conn, state http.ConnState) {
				if state == http.StateNew {
					_ = c.(*tls.Conn).NetConn().(*net.TCPConn).SetWriteBuffer(1)
				}
			}
		}
	})
	agent := s.as(t, "agent")
	item := `{"payload":"` + strings.Repeat("A", 4096) + `","format":"jws"}`
	body := `{"items":[` + strings.Repeat(item+",", 99) + item + `]}`
	conn := dial(t, s, "http/1.1")
	defer func() { _ = conn.Close() }()
	_, err := fmt.Fprintf(conn, "POST /v1/keys/payments/sign/batch HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		agent.header.Get("Authorization"), len(body), body)
	must(t, err)
	eventually(t, "the answer is given up", func() bool {
		return s.observed.count(observation{"/v1/keys/{key}/sign/batch", "POST", 200}) == 1
	})
	agent.post("/v1/keys/payments/sign/batch", `{"items":[{"payload":""}]}`).want(200)
	// What was cut off cannot be taken for a whole answer.
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	if got, err := io.ReadAll(conn); err == nil && len(got) > len(body) {
		t.Errorf("%d bytes came", len(got))
	}
}
