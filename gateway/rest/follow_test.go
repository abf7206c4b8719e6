package rest_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"keyhole/gateway/api"
)

// follower reads an event stream.
type follower struct {
	t      testing.TB
	res    *http.Response
	lines  *bufio.Reader
	cancel context.CancelFunc
}

// follow opens the stream at path. It gives up, with the test, after
// minutes without an end.
func (c *caller) follow(path string) *follower {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Minute)
	c.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.s.url+path, nil)
	must(c.t, err)
	req.Header = c.header.Clone()
	res, err := c.client.Do(req)
	must(c.t, err)
	if res.StatusCode != 200 {
		body, _ := io.ReadAll(res.Body)
		cancel()
		c.t.Fatalf("GET %s: %d %s", path, res.StatusCode, body)
	}
	f := &follower{t: c.t, res: res, lines: bufio.NewReader(res.Body), cancel: cancel}
	c.t.Cleanup(f.close)
	return f
}

// close leaves the stream.
func (f *follower) close() {
	f.cancel()
	_ = f.res.Body.Close()
}

// block returns the next block of lines without the empty one behind it.
func (f *follower) block() (string, error) {
	var block strings.Builder
	for {
		line, err := f.lines.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line == "\n" {
			return strings.TrimSuffix(block.String(), "\n"), nil
		}
		block.WriteString(line)
	}
}

// event returns the next event.
func (f *follower) event() api.Event {
	f.t.Helper()
	for {
		block, err := f.block()
		if err != nil {
			f.t.Fatalf("the stream broke off: %v", err)
		}
		if _, data, ok := strings.Cut(block, "\ndata: "); ok {
			var e api.Event
			must(f.t, json.Unmarshal([]byte(data), &e))
			return e
		}
	}
}

// until returns the events up to and with the first of that type.
func (f *follower) until(kind string) []api.Event {
	f.t.Helper()
	for all := []api.Event{}; ; {
		all = append(all, f.event())
		if all[len(all)-1].Type == kind {
			return all
		}
	}
}

// comment returns the next comment.
func (f *follower) comment() string {
	f.t.Helper()
	for {
		block, err := f.block()
		if err != nil {
			f.t.Fatalf("the stream broke off: %v", err)
		}
		if text, ok := strings.CutPrefix(block, ":"); ok {
			return strings.TrimSpace(text)
		}
	}
}

// end reads on until the stream ends in order and returns the last comment.
func (f *follower) end() string {
	f.t.Helper()
	last := ""
	for {
		block, err := f.block()
		switch {
		case errors.Is(err, io.EOF):
			return last
		case err != nil:
			f.t.Fatalf("the stream did not end in order: %v", err)
		}
		if text, ok := strings.CutPrefix(block, ":"); ok {
			last = strings.TrimSpace(text)
		}
	}
}

// overHTTP1 is the same caller over HTTP/1.1.
func (c *caller) overHTTP1() *caller {
	transport := c.client.Transport.(*contract).next.(*http.Transport).Clone()
	transport.ForceAttemptHTTP2 = false
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	c.t.Cleanup(transport.CloseIdleConnections)
	d := *c
	d.client = &http.Client{Transport: &contract{t: c.t, next: transport}}
	return &d
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it did not come about: %s", what)
		}
	}
}
