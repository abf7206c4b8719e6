package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// wire is a connection that speaks HTTP/1.1 by hand: a general client would
// take as much of the machine as the gateway.
type wire struct {
	net.Conn
	r *bufio.Reader
}

// dialAs opens a TLS connection that speaks proto.
func (g *gateway) dialAs(ctx context.Context, proto string) (*tls.Conn, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(g.line("ca.crt")))
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots, NextProtos: []string{proto}}}
	c, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(g.api, "https://"))
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

// wire opens a connection.
func (g *gateway) wire(ctx context.Context) (*wire, error) {
	c, err := g.dialAs(ctx, "http/1.1")
	if err != nil {
		return nil, err
	}
	return &wire{c, bufio.NewReaderSize(c, 16<<10)}, nil
}

// request is a POST as it is sent.
func (g *gateway) request(token, path, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
		path, strings.TrimPrefix(g.api, "https://"), token, len(body), body)
}

// reply is an answer.
type reply struct {
	status     int
	retryAfter int // seconds; 0: not said
	body       []byte
}

// ask sends a request and reads the answer.
func (w *wire) ask(request []byte) (reply, error) {
	if _, err := w.Write(request); err != nil {
		return reply{}, err
	}
	return w.answer()
}

func (w *wire) answer() (reply, error) {
	line, err := w.r.ReadSlice('\n')
	if err != nil {
		return reply{}, err
	}
	if len(line) < 12 {
		return reply{}, fmt.Errorf("the status line is %q", line)
	}
	var a reply
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return reply{}, err
	}
	length := 0
	for {
		line, err := w.r.ReadSlice('\n')
		if err != nil {
			return reply{}, err
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case len(line) <= 2:
			a.body = make([]byte, length)
			_, err := io.ReadFull(w.r, a.body)
			return a, err
		case bytes.EqualFold(name, []byte("Content-Length")):
			length, err = strconv.Atoi(textproto.TrimString(string(value)))
		case bytes.EqualFold(name, []byte("Retry-After")):
			a.retryAfter, err = strconv.Atoi(textproto.TrimString(string(value)))
		}
		if err != nil {
			return reply{}, err
		}
	}
}

// agents returns tokens of so many principals, who may do what the agent may.
func (g *gateway) agents(n int) []string {
	is := g.devIssuer()
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = token(g.t, jwt.SigningMethodES256, is.key, is.kid, claims(jwt.MapClaims{"sub": fmt.Sprintf("agent-%d", i)}))
	}
	return tokens
}

// storm is many requests over many connections.
type storm struct {
	conns    int
	rate     float64 // requests a second of all connections; 0: each sends as soon as it has its answer
	requests [][]byte
	check    func(reply) error // of each answer 200; nil: none
}

// weather is what became of a storm.
type weather struct {
	took                        time.Duration
	sent, good, refused, silent int             // silent: of those refused, those that do not say when to come again
	waits                       []time.Duration // of those that were good, in order of length
	errs                        []error
}

func (w *weather) goodput() float64 { return float64(w.good) / w.took.Seconds() }

func (w *weather) percentile(p float64) time.Duration {
	if len(w.waits) == 0 {
		return 0
	}
	return w.waits[min(len(w.waits)-1, int(p*float64(len(w.waits))))]
}

func (w *weather) String() string {
	return fmt.Sprintf("offered %.0f/s, good %.0f/s, refused %.0f/s, of the good ones p50 %v, p99 %v",
		float64(w.sent)/w.took.Seconds(), w.goodput(), float64(w.refused)/w.took.Seconds(),
		w.percentile(0.5).Round(100*time.Microsecond), w.percentile(0.99).Round(100*time.Microsecond))
}

// rage sends requests for d, or until ctx ends, and returns when all are
// answered.
func (s storm) rage(ctx context.Context, g *gateway, d time.Duration) *weather {
	all := &weather{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	wires := make([]*wire, s.conns)
	for i := range wires {
		var err error
		if wires[i], err = g.wire(ctx); err != nil {
			all.errs = append(all.errs, err)
			return all
		}
		defer wires[i].Close()
	}
	var turn atomic.Int64
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	begun := time.Now()
	for i, w := range wires {
		wg.Go(func() {
			mine := s.one(ctx, w, i, begun, &turn)
			mu.Lock()
			defer mu.Unlock()
			all.sent, all.good, all.refused, all.silent = all.sent+mine.sent, all.good+mine.good, all.refused+mine.refused, all.silent+mine.silent
			all.waits, all.errs = append(all.waits, mine.waits...), append(all.errs, mine.errs...)
		})
	}
	wg.Wait()
	all.took = time.Since(begun)
	slices.Sort(all.waits)
	return all
}

// one is what one connection does.
func (s storm) one(ctx context.Context, w *wire, i int, begun time.Time, turn *atomic.Int64) (mine weather) {
	request := s.requests[i%len(s.requests)]
	for s.wait(ctx, begun, turn) {
		start := time.Now()
		a, err := w.ask(request)
		mine.sent++
		switch {
		case err != nil:
			mine.errs = append(mine.errs, err)
			return mine
		case a.status == 200:
			mine.good++
			mine.waits = append(mine.waits, time.Since(start))
			if s.check != nil {
				if err := s.check(a); err != nil {
					mine.errs = append(mine.errs, err)
				}
			}
		case a.status == 429 || a.status == 503:
			mine.refused++
			if a.retryAfter < 1 {
				mine.silent++
			}
		default:
			mine.errs = append(mine.errs, fmt.Errorf("%d %s", a.status, a.body))
		}
	}
	return mine
}

// wait waits for the moment of the next request. It returns false at ctx's
// end.
func (s storm) wait(ctx context.Context, begun time.Time, turn *atomic.Int64) bool {
	if s.rate == 0 {
		return ctx.Err() == nil
	}
	due := begun.Add(time.Duration(float64(turn.Add(1)) / s.rate * float64(time.Second)))
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// sound fails unless every request was answered well, or refused with a word
// on when to come again.
func (w *weather) sound(t *testing.T) {
	t.Helper()
	if len(w.errs) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(w.errs), w.sent, errors.Join(w.errs[:min(3, len(w.errs))]...))
	}
	if w.silent > 0 {
		t.Errorf("%d of %d refusals have no Retry-After", w.silent, w.refused)
	}
}

// metric reads a value of the operations page; labels as they stand there.
func (g *gateway) metric(series string) (float64, bool) {
	_, page := g.page("/metrics")
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return v, err == nil
		}
	}
	return 0, false
}

func unmarshal(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%.200s: %w", data, err)
	}
	return nil
}
