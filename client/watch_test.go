package client_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// contextUntil returns a context that ends with the test, or before.
func contextUntil(t *testing.T, stop <-chan struct{}) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not so within 20 s: %s", what)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func ready(t *testing.T, w *client.Watch) {
	t.Helper()
	select {
	case <-w.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("the Watch does not become ready")
	}
}

// judged returns Verify's answer in a word.
func judged(t *testing.T, w *client.Watch, jws string) string {
	t.Helper()
	res, err := w.Verify(t.Context(), "payments", api.VerifyRequest{JWS: jws})
	switch {
	case err != nil:
		return api.CodeOf(err)
	case res.Valid:
		return "valid"
	}
	return res.Reason
}

func is(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A version that is announced is known, taken up and acknowledged before it
// is used, and what it signs is judged without a call.
func TestWatchTakesUpVersions(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var mu sync.Mutex
	var taken []string
	w := h.watch(func(c *client.WatchConfig) {
		c.OnVersion = func(_ context.Context, v client.AnnouncedVersion) error {
			mu.Lock()
			defer mu.Unlock()
			if v.PublicKey == nil || v.Algorithm != keys.ES256 {
				t.Errorf("without its public key: %+v", v)
			}
			if h.acks(v.ID.Number) > 0 {
				t.Errorf("%s was acknowledged before the callback", v.ID)
			}
			taken = append(taken, v.ID.String()+" "+string(v.State))
			return nil
		}
	})
	ready(t, w)
	eventually(t, "version 1, which waited, is acknowledged", func() bool { return h.acks(1) == 1 })
	h.announce(2)
	eventually(t, "version 2 is acknowledged", func() bool { return h.acks(2) == 1 })
	before := h.count("GET /v1/keys/payments/jwks.json")
	is(t, judged(t, w, h.sign(2)), "valid")
	is(t, judged(t, w, h.sign(1)), "valid")
	if after := h.count("GET /v1/keys/payments/jwks.json"); after != before {
		t.Errorf("verifying took %d calls", after-before)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"payments.v1 active", "payments.v2 pre-activation"}; !slices.Equal(taken, want) {
		t.Errorf("taken up: %v, want %v", taken, want)
	}
	if all := w.Versions("payments"); len(all) != 2 || all[0].ID.Number != 2 || w.Versions("other") != nil {
		t.Errorf("the versions are %+v", all)
	}
}

// A revoked version is judged so with its event, and never comes back.
func TestWatchHearsOfRevocation(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	heard := make(chan api.Event, 8)
	w := h.watch(func(c *client.WatchConfig) { c.OnEvent = func(ev api.Event) { heard <- ev } })
	ready(t, w)
	jws := h.sign(1)
	is(t, judged(t, w, jws), "valid")
	eventually(t, "the stream is open", func() bool { return h.count("GET /v1/events") == 1 })
	// The status lags behind the event: the event counts.
	h.set(func() {}, api.Event{Type: string(keys.NoticeRevoked), Version: 1})
	if ev := <-heard; ev.Type != string(keys.NoticeRevoked) {
		t.Errorf("heard %+v", ev)
	}
	is(t, judged(t, w, jws), "compromised")
	h.set(func() {}, api.Event{Type: string(keys.NoticeActivated), Version: 1})
	<-heard
	is(t, judged(t, w, jws), "compromised")
}

// An outage: what is known serves on, and what happened meanwhile is caught
// up with.
func TestWatchOutlivesOutages(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	w := h.watch()
	ready(t, w)
	eventually(t, "version 1 is acknowledged", func() bool { return h.acks(1) == 1 })
	jws := h.sign(1)
	h.set(func() { h.refuse = func(*http.Request) error { return errHangUp } })
	is(t, judged(t, w, jws), "valid")
	h.generate(2, keys.PreActivation)
	h.set(func() { h.state[1] = keys.Compromised }) // no event comes: it was lost
	is(t, judged(t, w, jws), "valid")
	eventually(t, "the stream is opened again and again", func() bool { return h.count("GET /v1/events") > 2 })
	h.set(func() { h.refuse = nil })
	eventually(t, "the revocation is known", func() bool { return judged(t, w, jws) == "compromised" })
	eventually(t, "version 2 is acknowledged", func() bool { return h.acks(2) == 1 })
	is(t, judged(t, w, h.sign(2)), "valid")
}

// A gateway that refuses for a while, even the agent itself, is waited for
// once it has been reached.
func TestWatchOutlivesRefusals(t *testing.T) {
	t.Parallel()
	for _, err := range []error{keys.ErrUnauthenticated, keys.ErrForbidden, keys.ErrKeyNotFound, keys.ErrOverloaded, keys.ErrInternal} {
		h := newHouse(t)
		w := h.watch()
		ready(t, w)
		eventually(t, "the stream is open", func() bool { return h.count("GET /v1/events") == 1 })
		h.set(func() { h.refuse = func(*http.Request) error { return errHangUp } })
		eventually(t, "the stream is gone", func() bool { return h.count("GET /v1/events") > 1 })
		h.set(func() { h.refuse = func(*http.Request) error { return err } })
		n := h.count("GET /v1/events")
		eventually(t, "it is refused: "+err.Error(), func() bool { return h.count("GET /v1/events") > n+1 })
		h.set(func() { h.refuse = nil })
		h.announce(2)
		eventually(t, "version 2 is acknowledged", func() bool { return h.acks(2) == 1 })
	}
}

// A callback that fails is called again; what it has done once is only
// acknowledged again.
func TestWatchRetries(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var mu sync.Mutex
	calls, acks := 0, 0
	h.refuse = func(r *http.Request) error {
		if strings.HasSuffix(r.URL.Path, "/ack") {
			if acks++; acks <= 5 { // more than one call is tried again
				return keys.ErrOverloaded
			}
		}
		return nil
	}
	w := h.watch(func(c *client.WatchConfig) {
		c.OnVersion = func(context.Context, client.AnnouncedVersion) error {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls < 3 {
				return errors.New("not yet")
			}
			return nil
		}
	})
	ready(t, w)
	eventually(t, "version 1 is acknowledged", func() bool { return h.acks(1) == 1 })
	mu.Lock()
	defer mu.Unlock()
	if calls != 3 {
		t.Errorf("the callback was called %d times, want 3", calls)
	}
}

// A subscription that the gateway has lost is made again: found by an
// acknowledgement, or told by a reset.
func TestWatchSubscribesAgain(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	w := h.watch()
	ready(t, w)
	eventually(t, "version 1 is acknowledged", func() bool { return h.acks(1) == 1 })
	h.set(func() { h.subscribed = false })
	h.announce(2)
	eventually(t, "version 2 is acknowledged", func() bool { return h.acks(2) == 1 })
	h.set(func() { h.subscribed = false })
	h.set(func() {}, api.Event{Type: api.EventReset})
	eventually(t, "it is subscribed", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.subscribed })
}

// A version that is gone before it could be acknowledged is left alone.
func TestWatchGivesUpWhatIsGone(t *testing.T) {
	t.Parallel()
	for _, gone := range []error{keys.ErrVersionState, keys.ErrVersionNotFound} {
		h := newHouse(t)
		h.refuse = func(r *http.Request) error {
			if strings.HasSuffix(r.URL.Path, "/1/ack") {
				return gone
			}
			return nil
		}
		w := h.watch()
		ready(t, w)
		h.announce(2)
		eventually(t, "version 2 is acknowledged", func() bool { return h.acks(2) == 1 })
		h.announce(3)
		eventually(t, "version 3 is acknowledged", func() bool { return h.acks(3) == 1 })
		if n := h.count("POST /v1/keys/payments/versions/1/ack"); n != 1 {
			t.Errorf("%v: acknowledged %d times", gone, n)
		}
	}
}

// A version is not acknowledged before its public key is there, though the
// announcement came from a gateway that knew more than the next one.
func TestWatchWaitsForThePublicKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	w := h.watch()
	ready(t, w)
	eventually(t, "version 1 is acknowledged", func() bool { return h.acks(1) == 1 })
	h.generate(2, keys.PreActivation)
	h.set(func() { h.hidden[2] = 4 }, api.Event{Type: string(keys.NoticeAnnounced), Version: 2})
	eventually(t, "version 2 is acknowledged", func() bool { return h.acks(2) == 1 })
	h.mu.Lock()
	left := h.hidden[2]
	h.mu.Unlock()
	if left > 0 {
		t.Errorf("acknowledged while %d JWKS were to be without it", left)
	}
}

// Secret keys have nothing to keep, and are taken up all the same.
func TestWatchOfSecretKeys(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.secret = true
	taken := make(chan client.AnnouncedVersion, 4)
	w := h.watch(func(c *client.WatchConfig) {
		c.OnVersion = func(_ context.Context, v client.AnnouncedVersion) error { taken <- v; return nil }
	})
	ready(t, w)
	eventually(t, "version 1 is acknowledged", func() bool { return h.acks(1) == 1 })
	if v := <-taken; v.PublicKey != nil || v.ID.Number != 1 {
		t.Errorf("%+v", v)
	}
	h.announce(2)
	eventually(t, "version 2 is acknowledged", func() bool { return h.acks(2) == 1 })
	is(t, judged(t, w, h.sign(2)), "wrong_purpose")
}

// Those who only verify are counted by nobody.
func TestSilentWatch(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	w := h.watch(func(c *client.WatchConfig) { c.Silent = true })
	ready(t, w)
	h.announce(2)
	eventually(t, "version 2 is known", func() bool { return len(w.Versions("payments")) == 2 })
	is(t, judged(t, w, h.sign(2)), "valid")
	if h.count("PUT /v1/subscriptions/payments") > 0 || h.acks(1)+h.acks(2) > 0 {
		t.Error("a silent Watch subscribed or acknowledged")
	}
}

// A version that was never heard of costs one reading, whoever asks and how
// often.
func TestWatchOfUnknownVersions(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	w := h.watch()
	ready(t, w)
	eventually(t, "version 1 is acknowledged", func() bool { return h.acks(1) == 1 })
	h.generate(2, keys.Active) // nothing tells of it
	h.generate(9, keys.Active)
	h.set(func() { h.hidden[9] = 1 << 30 })
	before := h.count("GET /v1/keys/payments/status.json")
	bogus := h.sign(9)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() { is(t, judged(t, w, bogus), "version_not_found") })
	}
	is(t, judged(t, w, h.sign(2)), "valid")
	wg.Wait()
	if n := h.count("GET /v1/keys/payments/status.json") - before; n < 1 || n > 4 {
		t.Errorf("%d readings for 200 questions", n)
	}
}

// Whoever is cut off relies on what it knows for MaxStale, and no longer.
func TestWatchGrowsStale(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	w := h.watch(func(c *client.WatchConfig) { c.MaxStale = 100 * time.Millisecond })
	ready(t, w)
	h.set(func() { h.refuse = func(*http.Request) error { return errHangUp } })
	jws := h.sign(1)
	eventually(t, "it does not rely on it", func() bool { return judged(t, w, jws) == "state_stale" })
	h.set(func() { h.refuse = nil })
	eventually(t, "it relies on it again", func() bool { return judged(t, w, jws) == "valid" })
}

// What cannot work is told at once.
func TestWatchRefusedAtFirst(t *testing.T) {
	t.Parallel()
	for _, want := range []error{keys.ErrUnauthenticated, keys.ErrForbidden, keys.ErrKeyNotFound} {
		for _, path := range []string{"/v1/events", "/v1/subscriptions/payments", "/v1/keys/payments/status.json"} {
			h := newHouse(t)
			h.refuse = func(r *http.Request) error {
				if r.URL.Path == path {
					return want
				}
				return nil
			}
			w, err := h.client().Watch(client.WatchConfig{Keys: []string{"payments"}})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Run(t.Context()); !errors.Is(err, want) {
				t.Errorf("%s refused by %v: Run returned %v", path, want, err)
			}
			if err := w.Run(t.Context()); !errors.Is(err, keys.ErrInvalid) {
				t.Errorf("a second Run: %v", err)
			}
			if _, err := w.Verify(t.Context(), "payments", api.VerifyRequest{JWS: h.sign(1)}); path != "/v1/events" && !errors.Is(err, keys.ErrStale) {
				t.Errorf("Verify behind it: %v", err)
			}
		}
	}
	c := newHouse(t).client()
	for _, names := range [][]string{nil, {""}, {"payments", "../admin"}} {
		if _, err := c.Watch(client.WatchConfig{Keys: names}); !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("%q: %v", names, err)
		}
	}
	w, err := c.Watch(client.WatchConfig{Keys: []string{"payments"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Verify(t.Context(), "mail", api.VerifyRequest{JWS: "x"}); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("a key that is not followed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Verify(ctx, "payments", api.VerifyRequest{Payload: []byte{}, Signature: []byte{}, Version: 1}); !errors.Is(err, keys.ErrStale) {
		t.Errorf("before Run: %v", err)
	}
}
