package webhook_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/webhook"
)

// An endpoint that fails in whatever way is tried again with the same event,
// and the rest follows in order.
func TestTriedAgain(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int64
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	for _, tt := range []struct {
		name, problem string
		answer        func(w http.ResponseWriter, g got)
	}{
		{"500", "status 500", status(500)},
		{"400", "status 400", status(400)},
		{"404", "status 404", status(404)},
		{"redirect", "redirects (status 307)", func(w http.ResponseWriter, _ got) {
			w.Header().Set("Location", other.URL)
			w.WriteHeader(307)
		}},
		{"cut off", "did not answer as an HTTPS server does", func(w http.ResponseWriter, _ got) { panic(http.ErrAbortHandler) }},
		{"large header", "did not answer as an HTTPS server does", func(w http.ResponseWriter, _ got) { w.Header().Set("X", strings.Repeat(secret, 1<<12)) }},
		{"no HTTP", "did not answer as an HTTPS server does", func(w http.ResponseWriter, _ got) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				fmt.Fprintf(conn, "what is /%s?\r\n\r\n", secret)
				conn.Close()
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := newReceiver(t, tt.answer)
			results := make(chan string, 1000)
			c := w.config(r.hook)
			c.Observe = func(hook, result string) { results <- hook + " " + result }
			d, _ := w.start(c)
			w.notice("hooks", keys.NoticeActivated)
			w.notice("hooks", keys.NoticeRevoked)
			first := r.next()
			for range 2 {
				if g := r.next(); g.event.ID != first.event.ID || g.delivery() != first.delivery() {
					t.Errorf("event %d comes before %d was taken", g.event.ID, first.event.ID)
				}
			}
			eventually(t, "the problem is shown", func() bool {
				one := w.one(d)
				return one.Failures > 1 && strings.Contains(one.LastError, tt.problem) && !one.RetryAt.IsZero() && one.Pending == 2
			})
			r.answers(nil)
			for g := first; g.event.Type != "version.revoked"; g = r.next() {
			}
			eventually(t, "it is well", func() bool { one := w.one(d); return one.Failures == 0 && one.Pending == 0 })
			if got := <-results; got != "siem "+webhook.Failed {
				t.Errorf("the first result is %q", got)
			}
			if strings.Contains(w.log.String(), secret) {
				t.Errorf("the log shows the URL:\n%s", w.log)
			}
			if n := elsewhere.Load(); n != 0 {
				t.Error("a redirect was followed")
			}
		})
	}
}

// Whoever cannot prove to be the endpoint gets nothing.
func TestEndpointsThatAreNotTrusted(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, tt := range []struct {
		name, problem string
		spoil         func(t *testing.T, r *receiver)
	}{
		{"unknown CA", "by an unknown authority", func(t *testing.T, r *receiver) { r.hook.CAFile = "" }},
		{"old TLS", "refused the TLS handshake|did not answer as an HTTPS server", func(t *testing.T, r *receiver) {
			old := httptest.NewUnstartedServer(r.server.Config.Handler)
			old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
			old.Config.ErrorLog = r.server.Config.ErrorLog
			old.StartTLS()
			t.Cleanup(old.Close)
			r.hook.URL = old.URL + "/" + secret
		}},
		{"other host", "for another host", func(t *testing.T, r *receiver) {
			r.hook.URL = strings.Replace(r.hook.URL, "127.0.0.1", "localhost", 1)
		}},
		{"nobody listens", "connection refused", func(t *testing.T, r *receiver) { r.hook.URL = "https://" + closed.Addr().String() + "/" + secret }},
		{"no such host", "cannot be resolved", func(t *testing.T, r *receiver) { r.hook.URL = "https://nowhere.invalid/" + secret }},
		{"no TLS", "did not answer as an HTTPS server does", func(t *testing.T, r *receiver) {
			plain := httptest.NewServer(r.server.Config.Handler)
			t.Cleanup(plain.Close)
			r.hook.URL = strings.Replace(plain.URL, "http:", "https:", 1) + "/" + secret
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := newReceiver(t, nil)
			tt.spoil(t, r)
			d, _ := w.start(w.config(r.hook))
			w.notice("hooks", keys.NoticeActivated)
			eventually(t, "it fails: "+tt.problem, func() bool {
				for part := range strings.SplitSeq(tt.problem, "|") {
					if one := w.one(d); one.Failures > 1 && strings.Contains(one.LastError, part) {
						return true
					}
				}
				return false
			})
			if len(r.all) != 0 {
				t.Error("the event was sent")
			}
			if strings.Contains(w.log.String(), secret) {
				t.Errorf("the log shows the URL:\n%s", w.log)
			}
		})
	}
}

// An endpoint that never stops answering has its time, and no more.
func TestEndlessAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	endless := func(rw http.ResponseWriter, _ got) {
		for {
			if _, err := rw.Write([]byte(strings.Repeat("x", 1<<10))); err != nil {
				return
			}
		}
	}
	r := newReceiver(t, endless) // 200, and it is taken
	hang := make(chan struct{})
	silent := newReceiver(t, func(http.ResponseWriter, got) { <-hang })
	defer close(hang)
	silent.hook.Name, silent.hook.Timeout = "silent", 50*time.Millisecond
	d, _ := w.start(w.config(r.hook, silent.hook))
	w.notice("hooks", keys.NoticeActivated)
	w.notice("hooks", keys.NoticeRevoked)
	if first, second := r.next(), r.next(); first.event.Type != "version.activated" || second.event.Type != "version.revoked" {
		t.Errorf("delivered %v and %v", first.event, second.event)
	}
	eventually(t, "the silent one is given its time", func() bool {
		all, err := d.List(t.Context())
		return err == nil && all[1].Failures > 1 && all[1].LastError == "no answer within 50ms"
	})
}

// What is gone is dead at once, and can be sent again on order.
func TestGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t, status(http.StatusGone))
	d, stop := w.start(w.config(r.hook))
	w.notice("hooks", keys.NoticeActivated)
	w.notice("hooks", keys.NoticeRevoked)
	first, second := r.next(), r.next()
	eventually(t, "two are dead", func() bool { return len(w.one(d).Dead) == 2 && d.Stats()[0].Dead == 2 })
	one := w.one(d)
	if one.Dead[0].Event != first.event || one.Dead[1].Event != second.event || !strings.Contains(one.Dead[0].Error, "410") || one.Dead[0].At.IsZero() || one.Pending != 0 {
		t.Errorf("it stands at %+v", one)
	}
	stop()

	// They are still there after a restart. The endpoint takes but the second.
	r.answers(func(w http.ResponseWriter, g got) {
		if g.event.ID == first.event.ID {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	d, _ = w.start(w.config(r.hook))
	if n := d.Stats()[0].Dead; n != 2 {
		t.Errorf("%d dead events after a restart", n)
	}
	if _, err := d.Retry(t.Context(), "siem"); err != nil {
		t.Fatal(err)
	}
	if g := r.next(); g.delivery() != first.delivery() {
		t.Errorf("event %d comes first", g.event.ID)
	}
	if g := r.next(); g.delivery() != second.delivery() || verify(t, w.jwks(), "siem", g) == "" {
		t.Errorf("event %d comes second", g.event.ID)
	}
	eventually(t, "one is dead", func() bool { return len(w.one(d).Dead) == 1 && d.Stats()[0].Dead == 1 })
	r.answers(nil)
	if _, err := d.Retry(t.Context(), "siem"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "none is dead", func() bool { return len(w.one(d).Dead) == 0 && d.Stats()[0].Dead == 0 })
}

// An event that is not taken for long is given up, and each has its time.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t, status(503))
	r.hook.GiveUpAfter = time.Hour
	d, _ := w.start(w.config(r.hook))
	w.notice("hooks", keys.NoticeActivated)
	eventually(t, "it fails", func() bool { return w.one(d).Failures > 1 })
	w.clock.advance(50 * time.Minute)
	eventually(t, "it fails on", func() bool { return w.one(d).Failures > 3 })
	if n := len(w.one(d).Dead); n != 0 {
		t.Errorf("%d are dead too early", n)
	}
	late := time.Now().Add(50 * time.Minute).UTC().Truncate(time.Microsecond)
	w.change("hooks", nil, keys.Notice{Type: keys.NoticeRevoked, At: late, Key: "hooks", Version: 1, When: late})
	w.clock.advance(11 * time.Minute)
	eventually(t, "the first is dead", func() bool { return len(w.one(d).Dead) == 1 })
	failures := w.one(d).Failures
	eventually(t, "the second is tried", func() bool { w.clock.advance(time.Second); return w.one(d).Failures > failures+1 })
	if n := len(w.one(d).Dead); n != 1 {
		t.Errorf("%d are dead; the second has its time", n)
	}
	r.answers(nil)
	w.clock.advance(time.Minute)
	eventually(t, "the second is taken", func() bool { one := w.one(d); return one.Pending == 0 && one.Failures == 0 })
	if n := len(w.one(d).Dead); n != 1 {
		t.Errorf("%d are dead", n)
	}
}

// Retry-After is honoured.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t, func(w http.ResponseWriter, _ got) {
		w.Header().Set("Retry-After", "1800")
		w.WriteHeader(429)
	})
	d, _ := w.start(w.config(r.hook))
	before := w.clock.now()
	w.notice("hooks", keys.NoticeActivated)
	r.next()
	eventually(t, "it fails", func() bool { return w.one(d).Failures == 1 })
	if at := w.one(d).RetryAt; at.Before(before.Add(30*time.Minute-time.Second)) || at.After(w.clock.now().Add(30*time.Minute)) {
		t.Errorf("it is tried again at %v, %v later", at, at.Sub(before))
	}
	r.answers(nil)
	w.notice("hooks", keys.NoticeRevoked) // wakes it up, and is not the time
	if _, err := d.Retry(t.Context(), "siem"); err != nil {
		t.Fatal(err)
	}
	r.next()
	r.next()
	eventually(t, "an order goes before it", func() bool { return w.one(d).Pending == 0 })
}
