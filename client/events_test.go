package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// script serves event streams: the first connection gets the first answer,
// and so on; the last one is for all that follow.
type script struct {
	t       *testing.T
	answers []func(w http.ResponseWriter, r *http.Request)

	mu    sync.Mutex
	asked []string // path?query, and the Last-Event-ID
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	n := min(len(s.asked), len(s.answers)-1)
	s.asked = append(s.asked, r.URL.RequestURI()+" "+r.Header.Get("Last-Event-ID"))
	s.mu.Unlock()
	if a := r.Header.Get("Accept"); a != "text/event-stream" {
		s.t.Errorf("asked for %q", a)
	}
	s.answers[n](w, r)
}

func (s *script) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// streams sends text as an event stream that ends.
func streams(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, text)
	}
}

// stays sends text as an event stream that stays open.
func stays(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		streams(text)(w, r)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

func refuses(err error) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { refuse(w, api.ProblemOf(err)) }
}

func event(id uint64, kind keys.NoticeType, version uint32) string {
	return fmt.Sprintf("id: %d\nevent: %s\ndata: {\"id\":%d,\"type\":\"%s\",\"time\":\"2026-11-24T13:00:00Z\",\"key\":\"payments\",\"version\":%d}\n\n", id, kind, id, kind, version)
}

// follow reads n events.
func follow(ctx context.Context, c *client.Client, o client.EventOptions, n int) (got []string, err error) {
	for ev, err := range c.Events(ctx, o) {
		if err != nil {
			return got, err
		}
		got = append(got, fmt.Sprintf("%d %s %d", ev.ID, ev.Type, ev.Version))
		if len(got) == n {
			break
		}
	}
	return got, nil
}

// The stream goes on behind the last event, however connections end.
func TestEventsResume(t *testing.T) {
	t.Parallel()
	s := &script{t: t, answers: []func(http.ResponseWriter, *http.Request){
		streams(": hello\n\n" + event(3, keys.NoticeAnnounced, 2) + event(5, keys.NoticeScheduled, 2)[:20]),
		refuses(keys.ErrOverloaded),
		func(w http.ResponseWriter, _ *http.Request) { hangUp(w) },
		streams(event(5, keys.NoticeScheduled, 2)),
		streams("id: 9\n\n"),
		stays(event(11, keys.NoticeActivated, 2) + event(12, keys.NoticeDeactivated, 1)),
	}}
	srv, ca := serve(t, s.ServeHTTP, http1)
	c := connect(t, srv, ca)
	got, err := follow(t.Context(), c, client.EventOptions{Keys: []string{"payments", "mail"}, After: new(uint64(2))}, 4)
	if want := []string{"3 version.announced 2", "5 version.scheduled 2", "11 version.activated 2", "12 version.deactivated 1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	const path = "/v1/events?key=payments&key=mail "
	if want := []string{path + "2", path + "3", path + "3", path + "3", path + "5", path + "9"}; !slices.Equal(s.requests(), want) {
		t.Errorf("asked for %q, want %q", s.requests(), want)
	}
}

// Where there is no position to go on from, the reader is told.
func TestEventsReset(t *testing.T) {
	t.Parallel()
	s := &script{t: t, answers: []func(http.ResponseWriter, *http.Request){
		streams(""),
		streams("id: 40\nevent: reset\ndata: {\"id\":40,\"type\":\"reset\",\"time\":\"2026-11-24T13:00:00Z\",\"key\":\"\"}\n\n"),
		stays(event(41, keys.NoticeRevoked, 1)),
	}}
	srv, ca := serve(t, s.ServeHTTP)
	c := connect(t, srv, ca)
	got, err := follow(t.Context(), c, client.EventOptions{}, 3)
	if want := []string{"0 reset 0", "40 reset 0", "41 version.revoked 1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if want := []string{"/v1/events ", "/v1/events ", "/v1/events 40"}; !slices.Equal(s.requests(), want) {
		t.Errorf("asked for %q, want %q", s.requests(), want)
	}
}

// What would only come again ends the stream, with the gateway's sentinel.
func TestEventsEnd(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		want   error
	}{
		"not authenticated": {refuses(keys.ErrUnauthenticated), keys.ErrUnauthenticated},
		"not allowed":       {refuses(keys.ErrForbidden), keys.ErrForbidden},
		"no such key":       {refuses(keys.ErrKeyNotFound), keys.ErrKeyNotFound},
		"too many keys":     {refuses(keys.ErrInvalid), keys.ErrInvalid},
		"no stream":         {func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, struct{}{}) }, keys.ErrInternal},
		"no end of a line":  {streams(strings.Repeat("x", 1<<20)), keys.ErrInternal},
		"no JSON":           {streams("data: x\n\n"), keys.ErrInternal},
	} {
		s := &script{t: t, answers: []func(http.ResponseWriter, *http.Request){tt.answer}}
		srv, ca := serve(t, s.ServeHTTP)
		c := connect(t, srv, ca)
		if got, err := follow(t.Context(), c, client.EventOptions{}, 1); !errors.Is(err, tt.want) || len(got) != 0 || len(s.requests()) != 1 {
			t.Errorf("%s: %v, %v after %d requests", name, got, err, len(s.requests()))
		}
	}
	srv, _ := serve(t, stays(""))
	c := connect(t, srv, "")
	var conn *client.ConnError
	if _, err := follow(t.Context(), c, client.EventOptions{}, 1); !errors.As(err, &conn) || !conn.Permanent {
		t.Errorf("an unknown CA: %v", err)
	}
}

// The reader's own end is no error but its context's.
func TestEventsOfOneWhoLeaves(t *testing.T) {
	t.Parallel()
	var left sync.WaitGroup
	left.Add(1)
	srv, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
		stays(event(1, keys.NoticeActivated, 1))(w, r)
		left.Done() // the connection of whoever broke off is closed
	})
	c := connect(t, srv, ca)
	if got, err := follow(t.Context(), c, client.EventOptions{}, 1); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	left.Wait()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	srv, ca = serve(t, stays(event(1, keys.NoticeActivated, 1)))
	c = connect(t, srv, ca)
	n := 0
	for _, err := range c.Events(ctx, client.EventOptions{}) {
		if n++; n == 1 {
			cancel()
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("behind the end of its context: %v", err)
		}
	}
	if n != 2 {
		t.Errorf("%d rounds, want 2", n)
	}
}

// Pauses grow while nothing comes, keep to what the gateway asks for, and
// are short again behind an event.
func TestEventsPauses(t *testing.T) {
	t.Parallel()
	busy := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		refuse(w, api.ProblemOf(keys.ErrOverloaded))
	}
	always := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "86400")
		refuse(w, api.ProblemOf(keys.ErrOverloaded))
	}
	s := &script{t: t, answers: []func(http.ResponseWriter, *http.Request){
		streams(""), streams("retry: 2000\n\n"), streams(""), busy, always,
		streams("retry: 99999999\n\n" + event(1, keys.NoticeActivated, 1)), streams(""), stays(event(2, keys.NoticeActivated, 2)),
	}}
	srv, ca := serve(t, s.ServeHTTP)
	c := connect(t, srv, ca)
	waited := pauses(c)
	got, err := follow(t.Context(), c, client.EventOptions{After: new(uint64(0))}, 2)
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	ms := time.Millisecond
	for i, want := range [][2]time.Duration{
		{50 * ms, 100 * ms}, {1000 * ms, 2000 * ms}, {200 * ms, 400 * ms}, {7 * time.Second, 7 * time.Second}, {time.Minute, time.Minute},
		{50 * ms, 100 * ms}, {100 * ms, 200 * ms},
	} {
		if d := waited()[i]; d < want[0] || d > want[1] {
			t.Errorf("pause %d is %s, want %s to %s", i, d, want[0], want[1])
		}
	}
}

// A connection on which nothing comes is given up, one with signs of life is
// not.
func TestEventsWatchdog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listener := &pipes{conns: make(chan net.Conn)}
		var began []time.Duration
		start := time.Now()
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began = append(began, time.Since(start))
			switch len(began) {
			case 1: // nothing at all
				<-r.Context().Done()
			case 2: // a comment each 40 seconds, three times
				w.Header().Set("Content-Type", "text/event-stream")
				for range 3 {
					time.Sleep(40 * time.Second) // of the bubble's clock
					_, _ = io.WriteString(w, ":\n\n")
					_ = http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			default:
				stays(event(1, keys.NoticeActivated, 1))(w, r)
			}
		})}
		go func() { _ = server.Serve(listener) }()
		c, err := client.New(client.Config{Address: "http://127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		c.SetDial(listener.dial)
		got, err := follow(t.Context(), c, client.EventOptions{After: new(uint64(0))}, 1)
		if err != nil || len(got) != 1 || len(began) != 3 {
			t.Errorf("%v, %v after %d connections", got, err, len(began))
		}
		for i, want := range []time.Duration{0, 45 * time.Second, (45 + 3*40 + 45) * time.Second} {
			if d := began[i] - want; d < 0 || d > time.Second {
				t.Errorf("connection %d began at %s, want about %s", i, began[i], want)
			}
		}
		c.Close()
		_ = server.Close()
	})
}

// pipes is a listener of connections in memory.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
}

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	p.conns <- there
	return here, nil
}

func (p *pipes) Accept() (net.Conn, error) {
	conn, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.conns) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
