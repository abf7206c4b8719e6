package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"keyhole/cmd/keyholed/internal/exit"
)

// plain is a connection of HTTP/1.1 that is kept.
type plain struct {
	conn  *tls.Conn
	in    *bufio.Reader
	token string
}

func dialPlain(t *testing.T, p *process, dir string) *plain {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.api, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &plain{conn, bufio.NewReader(conn), strings.TrimSpace(read(t, dir, "agent.jwt")["agent.jwt"])}
}

// sign signs once, and says whether the answer asks to close the connection.
func (c *plain) sign() (status int, closes bool, err error) {
	const body = `{"payload":"aGVsbG8="}`
	if _, err := fmt.Fprintf(c.conn, "POST /v1/keys/payments/sign HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", c.token, len(body), body); err != nil {
		return 0, false, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Close, err
}

// The end of a gateway behind a balancer: it is not ready at once, answers
// for shutdown_delay as before, on connections old and new, then asks every
// connection to close, by each protocol's own means, ends event streams, and
// refuses no request on the way.
func TestShutdownDelay(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	devGateway(t, dir).stop()
	configure(t, dir, "development: true\n", "development: true\nshutdown_delay: 10s\nshutdown_grace: 1m\n")
	p := gateway(t, dir)
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	old := dialPlain(t, p, dir)
	if status, closes, err := old.sign(); status != http.StatusOK || closes || err != nil {
		t.Fatalf("before: %d, %v, %v", status, closes, err)
	}
	second := p.web(dir) // HTTP/2
	onSecond := func() (reused bool, status int) {
		t.Helper()
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.api+"/v1/keys/payments/sign", strings.NewReader(`{"payload":"aGVsbG8="}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+old.token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := second.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.ProtoMajor != 2 {
			t.Fatalf("by %s: %v", resp.Proto, err)
		}
		return reused, resp.StatusCode
	}
	onSecond()
	stream := streamOf(t, p, dir)

	p.signal(syscall.SIGTERM)
	eventually(t, "it is not ready", func() bool { status, _ := p.get("/readyz"); return status == http.StatusServiceUnavailable })
	for range 3 { // as before, for a while
		status, closes, err := old.sign()
		if status != http.StatusOK || err != nil {
			t.Fatalf("on an old connection: %d, %v", status, err)
		}
		if strings.Contains(p.log.String(), "no new requests") {
			break // the delay was over on this machine
		}
		if closes {
			t.Error("a connection is closed before balancers have noticed")
		}
		if reused, status := onSecond(); !reused || status != http.StatusOK {
			t.Errorf("on an old HTTP/2 connection: %v, %d", reused, status)
		}
	}
	fresh := dialPlain(t, p, dir)
	if status, _, err := fresh.sign(); status != http.StatusOK || err != nil {
		t.Errorf("on a new connection: %d, %v", status, err)
	}
	p.log.waitFor(t, p, func(log string) bool { return strings.Contains(log, "no new requests") })
	for _, c := range []*plain{old, fresh} {
		eventually(t, "a connection is asked to close", func() bool {
			status, closes, err := c.sign()
			if status != http.StatusOK || err != nil {
				t.Fatalf("a request is lost: %d, %v", status, err)
			}
			return closes
		})
	}
	if status := p.wait(); status != exit.OK {
		t.Errorf("status %d", status)
	}
	if err := <-stream; err != nil {
		t.Errorf("the event stream: %v", err)
	}
}

// GOAWAY: an HTTP/2 connection that is in use is told to end by an answer, and
// the request that the answer is to is not lost.
func TestShutdownTellsHTTP2(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	devGateway(t, dir).stop()
	configure(t, dir, "development: true\n", "development: true\nshutdown_delay: 10s\nshutdown_grace: 1m\n")
	p := gateway(t, dir)
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.api, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hold := dialPlain(t, p, dir) // or there would be nobody to wait for
	frames := newFrames(t, conn)
	frames.get(1, hold.token)
	frames.until(func() bool { return frames.answered[1] })
	p.signal(syscall.SIGTERM)
	p.log.waitFor(t, p, func(log string) bool { return strings.Contains(log, "no new requests") })
	frames.get(3, hold.token)
	frames.until(func() bool { return frames.answered[3] && frames.away })
	if frames.last < 3 {
		t.Errorf("GOAWAY takes stream 3 back, which was answered: %d", frames.last)
	}
	if status := p.wait(); status != exit.OK {
		t.Errorf("status %d", status)
	}
}

// frames is one side of an HTTP/2 connection.
type frames struct {
	t        *testing.T
	framer   *http2.Framer
	block    bytes.Buffer
	encoder  *hpack.Encoder
	answered map[uint32]bool
	away     bool   // GOAWAY was sent
	last     uint32 // the last stream that counts after it
}

func newFrames(t *testing.T, conn net.Conn) *frames {
	t.Helper()
	f := &frames{t: t, framer: http2.NewFramer(conn, conn), answered: map[uint32]bool{}}
	f.encoder = hpack.NewEncoder(&f.block)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := f.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

// get asks who the caller is.
func (f *frames) get(stream uint32, token string) {
	f.t.Helper()
	f.block.Reset()
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/v1/whoami"}, {"authorization", "Bearer " + token}} {
		if err := f.encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := f.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		f.t.Fatal(err)
	}
}

// until reads until what was waited for is there.
func (f *frames) until(ok func() bool) {
	f.t.Helper()
	for !ok() {
		frame, err := f.framer.ReadFrame()
		if err != nil {
			f.t.Fatalf("the connection ends: %v", err)
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				if err := f.framer.WriteSettingsAck(); err != nil {
					f.t.Fatal(err)
				}
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				if err := f.framer.WritePing(true, frame.Data); err != nil {
					f.t.Fatal(err)
				}
			}
		case *http2.GoAwayFrame:
			f.away, f.last = true, frame.LastStreamID
		case *http2.DataFrame:
			f.answered[frame.StreamID] = f.answered[frame.StreamID] || frame.StreamEnded()
		case *http2.HeadersFrame:
			f.answered[frame.StreamID] = f.answered[frame.StreamID] || frame.StreamEnded()
		}
	}
}

// streamOf follows the events. What it returns yields nil when the stream has
// ended in order.
func streamOf(t *testing.T, p *process, dir string) <-chan error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.api+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(read(t, dir, "agent.jwt")["agent.jwt"]))
	resp, err := p.web(dir).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the event stream: %s", resp.Status)
	}
	done := make(chan error, 1)
	go func() {
		defer resp.Body.Close()
		_, err := io.Copy(io.Discard, resp.Body)
		done <- err
	}()
	return done
}
