package rest_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

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
