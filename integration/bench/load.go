package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// target is what a load is sent to.
type target struct {
	addr   string // host:port
	tls    *tls.Config
	bearer string // "" sends no Authorization
}

// result is what one run of one rival gave.
type result struct {
	perSecond float64 // operations, not requests
	p50, p99  time.Duration
}

// load keeps conns connections busy for d, each sending one request after
// the other (closed loop), and counts opsPerRequest operations for each
// answer 200. Any other answer ends the run: a rival that refuses is not
// fast.
//
// It speaks HTTP/1.1 over kept-alive TLS connections by itself: a general
// client would take as much of the machine as the servers that it measures.
func load(ctx context.Context, t target, path string, body []byte, conns, opsPerRequest int, d time.Duration) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	request := t.request(path, body)
	hists := make([]*hdrhistogram.Histogram, conns)
	errs := make([]error, conns)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range conns {
		hists[i] = hdrhistogram.New(1, int64(time.Minute/time.Microsecond), 3)
		wg.Go(func() { errs[i] = t.drive(ctx, request, hists[i]) })
	}
	wg.Wait()
	took := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return result{}, err
	}
	return newResult(hists, opsPerRequest, took), nil
}

func newResult(hists []*hdrhistogram.Histogram, opsPerRequest int, took time.Duration) result {
	all := hists[0]
	for _, h := range hists[1:] {
		all.Merge(h)
	}
	return result{
		perSecond: float64(all.TotalCount()) * float64(opsPerRequest) / took.Seconds(),
		p50:       time.Duration(all.ValueAtQuantile(50)) * time.Microsecond,
		p99:       time.Duration(all.ValueAtQuantile(99)) * time.Microsecond,
	}
}

// loadAt sends requests at a constant rate for d, whether or not those before
// are answered (open loop), over conns connections. Latencies run from the
// moment at which a request was due, so that one that had to wait for a
// connection counts with its wait.
func loadAt(ctx context.Context, t target, path string, body []byte, conns int, perSecond float64, d time.Duration) (result, error) {
	request := t.request(path, body)
	hists := make([]*hdrhistogram.Histogram, conns)
	errs := make([]error, conns)
	total := int64(perSecond * d.Seconds())
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for i := range conns {
		hists[i] = hdrhistogram.New(1, int64(10*time.Minute/time.Microsecond), 3)
		wg.Go(func() {
			errs[i] = t.driveAt(ctx, request, hists[i], func() (due time.Time, ok bool) {
				n := next.Add(1) - 1
				return start.Add(time.Duration(float64(n) / perSecond * float64(time.Second))), n < total
			})
		})
	}
	wg.Wait()
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return result{}, err
	}
	return newResult(hists, 1, time.Since(start)), nil
}

// driveAt sends a request over one connection at each moment that next says.
func (t target) driveAt(ctx context.Context, request []byte, h *hdrhistogram.Histogram, next func() (due time.Time, ok bool)) error {
	c, r, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		due, ok := next()
		if !ok || ctx.Err() != nil {
			return nil
		}
		time.Sleep(time.Until(due))
		if _, err := roundTrip(c, r, request, false); err != nil {
			return err
		}
		if err := h.RecordValue(max(1, time.Since(due).Microseconds())); err != nil {
			return err
		}
	}
}

func (t target) request(path string, body []byte) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", path, t.addr, len(body))
	if t.bearer != "" {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", t.bearer)
	}
	b.WriteString("\r\n")
	b.Write(body)
	return []byte(b.String())
}

// drive sends request after request over one connection until ctx ends.
func (t target) drive(ctx context.Context, request []byte, h *hdrhistogram.Histogram) error {
	c, r, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for ctx.Err() == nil {
		start := time.Now()
		if _, err := roundTrip(c, r, request, false); err != nil {
			return err
		}
		if err := h.RecordValue(max(1, time.Since(start).Microseconds())); err != nil {
			return err
		}
	}
	return nil
}

func (t target) dial(ctx context.Context) (*tls.Conn, *bufio.Reader, error) {
	cfg := t.tls.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	c, err := (&tls.Dialer{Config: cfg}).DialContext(context.WithoutCancel(ctx), "tcp", t.addr)
	if err != nil {
		return nil, nil, err
	}
	return c.(*tls.Conn), bufio.NewReaderSize(c, 64<<10), nil
}

// once sends one request on a connection of its own and returns the body.
func (t target) once(ctx context.Context, path string, body []byte) ([]byte, error) {
	c, r, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return roundTrip(c, r, t.request(path, body), true)
}

// roundTrip sends a request and reads its answer. The body is returned if
// keep is set or the status is no success.
func roundTrip(c io.Writer, r *bufio.Reader, request []byte, keep bool) ([]byte, error) {
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	ok := len(line) > 12 && line[9] == '2'
	status := strings.TrimSpace(string(line[min(9, len(line)):]))
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		if len(line) <= 2 {
			break
		}
		if len(line) > 16 && (line[0] == 'C' || line[0] == 'c') && strings.EqualFold(string(line[:15]), "Content-Length:") {
			if length, err = strconv.Atoi(textproto.TrimString(string(line[15:]))); err != nil {
				return nil, err
			}
		}
	}
	if length < 0 {
		return nil, errors.New("the answer has no Content-Length")
	}
	if ok && !keep {
		_, err := r.Discard(length)
		return nil, err
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("answered %s: %.300s", status, body)
	}
	return body, nil
}
