package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

type calls map[string]func(ctx context.Context, c *client.Client) error

// every is one call of each kind.
var every = calls{
	"read": func(ctx context.Context, c *client.Client) error { _, err := c.WhoAmI(ctx); return err },
	"data": func(ctx context.Context, c *client.Client) error {
		_, err := c.Sign(ctx, "payments", api.SignRequest{Payload: []byte("x")})
		return err
	},
	"admin": func(ctx context.Context, c *client.Client) error {
		_, err := c.Rotate(ctx, "payments", api.RotateRequest{})
		return err
	},
}

// pauses records what the client would have waited.
func pauses(c *client.Client) func() []time.Duration {
	var mu sync.Mutex
	var all []time.Duration
	c.SetWait(func(ctx context.Context, d time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, d)
		return ctx.Err()
	})
	return func() []time.Duration { mu.Lock(); defer mu.Unlock(); return slices.Clone(all) }
}

func TestRetriesWhatMayPass(t *testing.T) {
	t.Parallel()
	for kind, act := range every {
		for status, attempts := range map[int]int{429: 4, 502: 4, 503: 4, 504: 4, 400: 1, 401: 1, 404: 1, 409: 1, 422: 1, 500: 1, 501: 1} {
			var n counter
			s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) { n.next(); w.WriteHeader(status) })
			c := connect(t, s, ca)
			waited := pauses(c)
			if err := act(t.Context(), c); err == nil {
				t.Errorf("%s, %d: no error", kind, status)
			}
			if n.count() != attempts {
				t.Errorf("%s, %d: %d attempts, want %d", kind, status, n.count(), attempts)
			}
			for i, d := range waited() {
				if lo, hi := 50*time.Millisecond<<i, 100*time.Millisecond<<i; d < lo || d > hi {
					t.Errorf("%s, %d: pause %d is %s, want %s to %s", kind, status, i, d, lo, hi)
				}
			}
			s.Close()
			c.Close()
		}
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	for kind, act := range every {
		var n counter
		s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if n.next() == 1 {
				w.Header().Set("Retry-After", "7")
				refuse(w, api.ProblemOf(keys.ErrOverloaded))
				return
			}
			reply(w, 200, struct{}{})
		})
		c := connect(t, s, ca)
		waited := pauses(c)
		if err := act(t.Context(), c); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if got := waited(); len(got) != 1 || got[0] != 7*time.Second {
			t.Errorf("%s: waited %v, want 7s", kind, got)
		}
		// Longer than the caller has: the refusal at once, no waiting.
		n.reset()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := act(ctx, c)
		cancel()
		var refused *client.Error
		if !errors.As(err, &refused) || refused.RetryAfter != 7*time.Second || n.count() != 1 || len(waited()) != 1 {
			t.Errorf("%s: %v after %d attempts, want the refusal at once", kind, err, n.count())
		}
		s.Close()
		c.Close()
	}
}

func TestRetryPauseEndsWithContext(t *testing.T) {
	t.Parallel()
	s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) { refuse(w, api.ProblemOf(keys.ErrOverloaded)) })
	c := connect(t, s, ca)
	ctx, cancel := context.WithCancel(t.Context())
	c.SetWait(func(ctx context.Context, _ time.Duration) error { cancel(); <-ctx.Done(); return ctx.Err() })
	if _, err := c.WhoAmI(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
}

// One Idempotency-Key per logical call, the same on each retry.
func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []string
	s, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Header.Get("Idempotency-Key"))
		n := len(seen)
		mu.Unlock()
		switch n {
		case 1:
			refuse(w, api.ProblemOf(keys.ErrHSM))
		case 2: // the first attempt is at work after all
			refuse(w, api.ProblemOf(keys.ErrConflict))
		default:
			reply(w, 202, api.Rotation{ID: "01"})
		}
	})
	c := connect(t, s, ca)
	for range 2 {
		if _, err := c.Rotate(t.Context(), "payments", api.RotateRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != 4 || seen[0] == "" || seen[0] != seen[1] || seen[1] != seen[2] || seen[3] == seen[0] || seen[3] == "" {
		t.Errorf("keys %q", seen)
	}
	if _, err := c.WhoAmI(t.Context()); err != nil || seen[4] != "" {
		t.Errorf("a read carries the key %q, %v", seen[4], err)
	}
}

// A lost act that takes longer than the retries last is waited for, not
// given up; a conflict at the first attempt is an answer.
func TestActInProgressIsWaitedFor(t *testing.T) {
	t.Parallel()
	for polls, ok := range map[int]bool{1: true, 6: true, 1000: false} {
		var n counter
		s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			switch i := n.next(); {
			case i == 1:
				hangUp(w)
			case i <= 1+polls:
				refuse(w, api.ProblemOf(keys.ErrConflict))
			default:
				reply(w, 202, api.Rotation{ID: "01"})
			}
		}, http1)
		c := connect(t, s, ca)
		_, err := c.Rotate(t.Context(), "payments", api.RotateRequest{})
		if ok != (err == nil) || !ok && (!errors.Is(err, keys.ErrConflict) || n.count() > 20) {
			t.Errorf("%d polls: %v after %d attempts", polls, err, n.count())
		}
		s.Close()
		c.Close()
	}
	var n counter
	s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) { n.next(); refuse(w, api.ProblemOf(keys.ErrConflict)) })
	if _, err := connect(t, s, ca).Rotate(t.Context(), "payments", api.RotateRequest{}); !errors.Is(err, keys.ErrConflict) || n.count() != 1 {
		t.Errorf("a conflict at once: %v after %d attempts", err, n.count())
	}
}

// hangUp ends the connection without an answer.
func hangUp(w http.ResponseWriter) { panic(http.ErrAbortHandler) }

func TestLostConnections(t *testing.T) {
	t.Parallel()
	for _, proto := range []struct {
		name string
		with []func(*httptest.Server)
	}{{"HTTP/1.1", []func(*httptest.Server){http1}}, {"HTTP/2", nil}} {
		for kind, act := range every {
			var n counter
			s, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.ReadAll(r.Body)
				if n.next() < 3 {
					hangUp(w)
				}
				reply(w, 200, struct{}{})
			}, proto.with...)
			c := connect(t, s, ca)
			if err := act(t.Context(), c); err != nil || n.count() < 3 {
				t.Errorf("%s, %s, lost before an answer: %v after %d attempts", proto.name, kind, err, n.count())
			}

			// Lost within the answer.
			var n2 counter
			s2, ca2 := serve(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.ReadAll(r.Body)
				if n2.next() < 3 {
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, "{")
					_ = http.NewResponseController(w).Flush()
					hangUp(w)
				}
				reply(w, 200, struct{}{})
			}, proto.with...)
			c2 := connect(t, s2, ca2)
			if err := act(t.Context(), c2); err != nil || n2.count() != 3 {
				t.Errorf("%s, %s, lost within the answer: %v after %d attempts", proto.name, kind, err, n2.count())
			}
			c2 = connect(t, s2, ca2, func(cfg *client.Config) { cfg.Retries = -1 })
			n2.reset()
			err := act(t.Context(), c2)
			var conn *client.ConnError
			if !errors.As(err, &conn) || n2.count() != 1 {
				t.Errorf("%s, %s, lost within the answer, no retries: %v after %d attempts", proto.name, kind, err, n2.count())
			}
			for _, f := range []func(){s.Close, s2.Close, c.Close, c2.Close} {
				f()
			}
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := "https://" + l.Addr().String()
	l.Close() // nobody listens there now
	c, err := client.New(client.Config{Address: addr})
	if err != nil {
		t.Fatal(err)
	}
	waited := pauses(c)
	_, err = c.WhoAmI(t.Context())
	var conn *client.ConnError
	if !errors.As(err, &conn) || conn.Permanent || conn.Address != addr || len(waited()) != 3 {
		t.Errorf("%v after %d pauses, want a ConnError after 3", err, len(waited()))
	}
}

// Answers of every kind leave their connection usable.
func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	for _, proto := range [][]func(*httptest.Server){nil, {http1}} {
		var opened, n counter
		s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			switch n.next() % 5 {
			case 0:
				refuse(w, api.ProblemOf(keys.ErrForbidden))
			case 1:
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(404)
				_, _ = w.Write(make([]byte, 20<<10))
			case 2:
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write(make([]byte, 2000)) // over the client's bound
			case 3:
				w.WriteHeader(http.StatusNoContent)
			default:
				reply(w, 200, api.WhoAmI{Principal: "x"})
			}
		}, append(proto, func(s *httptest.Server) {
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					opened.next()
				}
			}
		})...)
		c := connect(t, s, ca, func(cfg *client.Config) { cfg.MaxResponse = 1000 })
		for range 25 {
			_, _ = c.WhoAmI(t.Context())
		}
		if opened.count() != 1 || n.count() != 25 {
			t.Errorf("%d calls opened %d connections", n.count(), opened.count())
		}
		s.Close()
		c.Close()
	}
}
