package client_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/gateway/gatewaytest"
	"keyhole/keys"
)

// two are two gateways over one store, of which the first one can be made to
// answer what it does not do, or does.
type two struct {
	first, second *gatewaytest.Gateway
	says          atomic.Int32 // what the first one answers; 0: the truth
	does          atomic.Bool  // it does what it is asked for, and says so nevertheless
	asked         atomic.Int32 // how often the first one was asked
}

func startTwo(t *testing.T) *two {
	t.Helper()
	w := &two{}
	w.first = gatewaytest.Start(t, gatewaytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			w.asked.Add(1)
			code := int(w.says.Load())
			if code == 0 {
				next.ServeHTTP(out, r)
				return
			}
			if w.does.Load() {
				next.ServeHTTP(&nowhere{http.Header{}}, r)
			}
			out.Header().Set("Retry-After", "1")
			out.WriteHeader(code)
		})
	}})
	w.second = gatewaytest.Start(t, gatewaytest.Options{Peer: w.first})
	return w
}

// nowhere is an answer that gets lost.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n *nowhere) WriteHeader(int)             {}

// client is one of both, the first one in front.
func (w *two) client(t *testing.T, with ...func(*client.Config)) *client.Client {
	t.Helper()
	cfg := client.Config{Address: w.first.URL + ", " + w.second.URL, CACertFile: w.first.CAFile, Token: client.TokenString(w.first.Token(t, "alice", gatewaytest.Admins))}
	for _, f := range with {
		f(&cfg)
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// settled waits until a gateway has what the other one did.
func settled(t *testing.T, g *gatewaytest.Gateway) {
	t.Helper()
	if err := g.Cache.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestNextGateway: a call that one gateway cannot serve is served by the next
// one, at once, and so are those that follow.
func TestNextGateway(t *testing.T) {
	t.Parallel()
	w := startTwo(t)
	c := w.client(t)
	ctx := t.Context()
	create(t, c, "payments", keys.ES256)
	settled(t, w.second)
	for _, code := range []int32{503, 502, 504} {
		w.says.Store(code)
		before := w.asked.Load()
		for range 3 {
			if _, err := c.Sign(ctx, "payments", api.SignRequest{Payload: []byte("x")}); err != nil {
				t.Errorf("%d: %v", code, err)
			}
		}
		if n := w.asked.Load() - before; n != 1 || c.Address() != w.second.URL {
			t.Errorf("%d: the first one was asked %d times, and calls go to %s", code, n, c.Address())
		}
		w.says.Store(0)
		c = w.client(t) // which begins at the first one
	}
	// What is meant for the caller is the answer, of whichever gateway.
	pauses(c)
	for _, code := range []int32{429, 403, 500} {
		w.says.Store(code)
		if _, err := c.Sign(ctx, "payments", api.SignRequest{Payload: []byte("x")}); err == nil || c.Address() != w.first.URL {
			t.Errorf("%d: %v, and calls go to %s", code, err, c.Address())
		}
	}
	w.says.Store(0)

	// An act is done once, though the first gateway did it and could not say so.
	w.says.Store(503)
	w.does.Store(true)
	r, err := c.Rotate(ctx, "payments", api.RotateRequest{})
	if err != nil || r.To != 2 || c.Address() != w.second.URL {
		t.Errorf("%+v, %v at %s", r, err, c.Address())
	}
	settled(t, w.second)
	if k, err := c.Key(ctx, "payments"); err != nil || len(k.Versions) != 2 {
		t.Errorf("%+v, %v", k, err)
	}
	w.says.Store(0)

	// The first one is gone, and is not waited for.
	c = w.client(t)
	waited := pauses(c)
	w.first.Shut(t)
	if _, err := c.Rotate(ctx, "payments", api.RotateRequest{}); err != nil || c.Address() != w.second.URL {
		t.Errorf("%v at %s", err, c.Address())
	}
	for _, d := range waited() {
		if d != 0 {
			t.Errorf("it waited %s", d)
		}
	}

	// And so is the second one: each was asked, in turns, and the last error told.
	w.second.Shut(t)
	var conn *client.ConnError
	if _, err := c.WhoAmI(ctx); !errors.As(err, &conn) || len(waited()) < 4 {
		t.Errorf("%v after %d tries", err, len(waited()))
	}
	// Whoever wants no retries gets none.
	c = w.client(t, func(cfg *client.Config) { cfg.Retries = -1 })
	waited = pauses(c)
	if _, err := c.WhoAmI(ctx); !errors.As(err, &conn) || len(waited()) != 0 || conn.Address != w.first.URL {
		t.Errorf("%v after %d tries", err, len(waited()))
	}
}

// TestNextGatewayOfAStream: events are followed at the next gateway, from the
// last one seen.
func TestNextGatewayOfAStream(t *testing.T) {
	t.Parallel()
	w := startTwo(t)
	admin := w.client(t, func(cfg *client.Config) { cfg.Address = w.second.URL })
	create(t, admin, "payments", keys.ES256)
	settled(t, w.first)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := w.client(t)
	rotated := 0
	rotate := func() {
		if _, err := admin.Rotate(ctx, "payments", api.RotateRequest{}); err != nil {
			t.Error(err)
		}
		settled(t, w.first)
		rotated++
	}
	seen := []uint32{}
	after := uint64(0)
	for ev, err := range c.Events(ctx, client.EventOptions{Keys: []string{"payments"}, After: &after}) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Type == api.EventReset {
			t.Error("something was missed")
		}
		if ev.Type != string(keys.NoticeActivated) {
			continue
		}
		seen = append(seen, ev.Version)
		switch {
		case len(seen) == 1:
			rotate()
		case len(seen) == 2:
			w.first.Shut(t)
			rotate()
		}
		if len(seen) == 3 {
			break
		}
	}
	if len(seen) != 3 || seen[0] != 1 || seen[1] != 2 || seen[2] != 3 || c.Address() != w.second.URL {
		t.Errorf("versions %d were activated, seen at %s", seen, c.Address())
	}
}

// TestAddresses: each of them is checked.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"https://a.example,", ",https://a.example", "https://a.example,http://b.example", "https://a.example,b.example", "https://a.example https://b.example"} {
		if _, err := client.New(client.Config{Address: bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	c, err := client.New(client.Config{Address: "https://a.example:8443/x/ , https://b.example"})
	if err != nil || c.Address() != "https://a.example:8443/x" {
		t.Errorf("%v, %v", c, err)
	}
}

// TestCertificateIsNotPassedOver: a gateway that shows a certificate of
// somebody else is told of, not passed over.
func TestCertificateIsNotPassedOver(t *testing.T) {
	t.Parallel()
	w := startTwo(t)
	stranger := gatewaytest.Start(t, gatewaytest.Options{})
	c := w.client(t, func(cfg *client.Config) { cfg.Address = stranger.URL + "," + w.second.URL })
	var conn *client.ConnError
	if _, err := c.WhoAmI(t.Context()); !errors.As(err, &conn) || !conn.Permanent || conn.Address != stranger.URL {
		t.Errorf("%v", err)
	}
}
