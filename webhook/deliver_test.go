package webhook_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
	"keyhole/webhook"
)

// Events arrive in order, as the API shows them, signed, filtered; each is
// recorded as an act of the system and counted as use of the key.
func TestDelivers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("payments", keys.ES256)
	w.create("other", keys.ES256)
	w.notice("payments", keys.NoticeAnnounced) // before the webhook was known
	r := newReceiver(t, nil)
	r.hook.Keys = []string{"payments"}
	r.hook.Events = []keys.NoticeType{keys.NoticeActivated, keys.NoticeRevoked}
	d, stop := w.start(w.config(r.hook))

	w.notice("payments", keys.NoticeActivated)
	w.notice("other", keys.NoticeActivated)
	w.notice("payments", keys.NoticeArchived)
	w.notice("payments", keys.NoticeRevoked)
	first, second := r.next(), r.next()
	if first.event.Type != "version.activated" || second.event.Type != "version.revoked" || first.event.Key != "payments" || second.event.Key != "payments" {
		t.Errorf("delivered %+v and %+v", first.event, second.event)
	}
	all, err := w.db.Events(t.Context(), first.event.ID-1, 1)
	if err != nil || len(all) != 1 {
		t.Fatalf("the event's id %d: %v, %v", first.event.ID, all, err)
	}
	want := api.Event{
		ID: all[0].ID, Type: "version.activated", Time: api.At(all[0].At), Key: "payments", Version: 1, KeyID: "payments.v1", When: api.At(all[0].When), Reason: "manual",
	}
	if first.event != want {
		t.Errorf("delivered %+v, want %+v", first.event, want)
	}
	if first.header.Get("Content-Type") != "application/json" || first.header.Get("Keyhole-Event") != "version.activated" || first.delivery() == "" || first.delivery() == second.delivery() {
		t.Errorf("the headers are %v", first.header)
	}
	for _, g := range []got{first, second} {
		if kid := verify(t, w.jwks(), "siem", g); kid != "hooks.v1" {
			t.Errorf("signed by %s", kid)
		}
		if n := len(w.recorded(`"action":"sign"`, `"principal":"system"`, `"kid":"hooks.v1"`, `"outcome":"ok"`, `"webhook":"siem"`, g.delivery())); n != 1 {
			t.Errorf("%d records of the signature", n)
		}
	}
	eventually(t, "the webhook has taken all", func() bool { one := w.one(d); return one.Pending == 0 && !one.LastOKAt.IsZero() })
	if one := w.one(d); one.Name != "siem" || "https://"+one.Host != r.server.URL || one.Failures != 0 || one.LastError != "" || len(one.Dead) != 0 {
		t.Errorf("it stands at %+v", one)
	}
	if u := w.meter.Of("hooks", 1); u.Applied != 2 {
		t.Errorf("the signing key was used %d times, want 2", u.Applied)
	}
	stop()
	if len(r.all) != 0 {
		t.Errorf("also delivered: %+v", (<-r.all).event)
	}
}

// Deliveries go on across rotations of the key that signs them, by other
// algorithms too, and the old ones still verify.
func TestSigningKeyRotates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t, nil)
	w.start(w.config(r.hook))
	var all []got
	for i, alg := range []keys.Algorithm{keys.ES256, keys.EdDSA, keys.RS256} {
		if i > 0 {
			w.change("hooks", func(k *keys.Key) {
				k.Algorithm = alg
				k.Bits, _ = alg.KeyBits(0)
				w.generate(k, uint32(i+1))
			})
		}
		w.notice("hooks", keys.NoticeActivated)
		all = append(all, r.next())
	}
	var kids []string
	for _, g := range all {
		kids = append(kids, verify(t, w.jwks(), "siem", g))
	}
	if !slices.Equal(kids, []string{"hooks.v1", "hooks.v2", "hooks.v3"}) {
		t.Errorf("signed by %v", kids)
	}
}

// cutStore is a real store whose PutHook fails when fail says so: before it
// has written, or after.
type cutStore struct {
	*store.SQLite
	fail   func(h store.Hook) (before, after bool)
	failed chan struct{} // gets a value when a write has failed, made or not
}

func (c *cutStore) PutHook(ctx context.Context, h store.Hook, dead ...store.DeadEvent) error {
	before, after := c.fail(h)
	if !before {
		if err := c.SQLite.PutHook(ctx, h, dead...); err != nil || !after {
			return err
		}
	}
	c.failed <- struct{}{} // and from here on the process is as good as dead
	return keys.ErrStore
}

// A process that dies at any moment around a delivery loses nothing and
// changes no order, and what it sends twice has one delivery id.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		after  bool // the write that fails was made
		repeat bool // the event is sent again
	}{{"not written", false, true}, {"written", true, false}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.create("payments", keys.ES256)
			const events, cut = 5, 2
			r := newReceiver(t, nil)
			failed := make(chan struct{}, 100)
			written := 0
			c := w.config(r.hook)
			c.Store = &cutStore{SQLite: w.db, failed: failed, fail: func(store.Hook) (bool, bool) {
				if written++; written <= cut {
					return false, false
				}
				return !tt.after, tt.after
			}}
			_, stop := w.start(c)
			for range events {
				w.notice("payments", keys.NoticeActivated)
			}
			<-failed
			stop()
			w.start(w.config(r.hook))
			var ids []uint64
			seen := map[uint64]string{}
			twice := 0
			for len(seen) < events {
				g := r.next()
				if id, ok := seen[g.event.ID]; ok {
					twice++
					if id != g.delivery() {
						t.Errorf("event %d is delivery %s and delivery %s", g.event.ID, id, g.delivery())
					}
				} else if len(ids) > 0 && g.event.ID <= ids[len(ids)-1] {
					t.Errorf("event %d comes after %v", g.event.ID, ids)
				}
				seen[g.event.ID] = g.delivery()
				ids = append(ids, g.event.ID)
				verify(t, w.jwks(), "siem", g)
			}
			if (twice > 0) != tt.repeat {
				t.Errorf("%d events were sent twice: %v", twice, ids)
			}
		})
	}
}

// A webhook that hangs delays no other, and leaves when the gateway stops.
func TestSlowWebhookDelaysNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hang := make(chan struct{})
	slow := newReceiver(t, func(http.ResponseWriter, got) { <-hang })
	defer close(hang)
	quick := newReceiver(t, nil)
	quick.hook.Name = "quick"
	d, stop := w.start(w.config(slow.hook, quick.hook))
	for range 10 {
		w.notice("hooks", keys.NoticeActivated)
	}
	held := slow.next()
	for range 10 {
		if g := quick.next(); g.event.ID == held.event.ID && g.delivery() == held.delivery() {
			t.Error("two webhooks have one delivery id")
		} else if verify(t, w.jwks(), "quick", g) == "" {
			t.Error("not signed")
		}
	}
	eventually(t, "only one webhook waits", func() bool {
		s := d.Stats()
		return s[0].Name == "siem" && s[0].Lag > 0 && s[1].Name == "quick" && s[1].Lag == 0
	})
	stop()
	// What hung was not taken: it comes again.
	slow.answers(nil)
	w.start(w.config(slow.hook))
	if g := slow.next(); g.event.ID != held.event.ID || g.delivery() != held.delivery() {
		t.Errorf("after the stop event %d comes, want %d again", g.event.ID, held.event.ID)
	}
}

// Without a key that can sign nothing is sent and nothing is given up.
func TestCannotSign(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, key, problem string
		mend               func(w *world)
	}{
		{"no such key", "later", `there is no key "later"`, func(w *world) { w.create("later", keys.ES256) }},
		{"no public half", "mac", "has no public half", func(w *world) {
			w.change("mac", func(k *keys.Key) { k.Algorithm, k.Bits = keys.ES256, 256; w.generate(k, 2) })
		}},
		{"no active version", "paused", "has no active version", func(w *world) {
			w.change("paused", func(k *keys.Key) { w.generate(k, 2) })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.create("mac", keys.HS256)
			w.create("paused", keys.ES256)
			w.change("paused", func(k *keys.Key) { k.Versions[0].SuspendedAt = k.Versions[0].CreatedAt })
			r := newReceiver(t, nil)
			r.hook.SigningKey = tt.key
			d, _ := w.start(w.config(r.hook))
			w.notice("hooks", keys.NoticeActivated)
			eventually(t, "it fails", func() bool { return strings.Contains(w.one(d).LastError, tt.problem) })
			w.clock.advance(48 * 3600 * 1e9)
			eventually(t, "it fails on", func() bool { return w.one(d).Failures > 3 })
			if len(r.all) != 0 || len(w.one(d).Dead) != 0 {
				t.Errorf("sent %d, given up %d", len(r.all), len(w.one(d).Dead))
			}
			tt.mend(w)
			w.clock.advance(3600 * 1e9)
			if _, err := d.Retry(t.Context(), "siem"); err != nil {
				t.Fatal(err)
			}
			r.next()
			eventually(t, "it is well", func() bool { one := w.one(d); return one.Failures == 0 && one.LastError == "" })
		})
	}
}

// What cannot be recorded is not sent.
func TestAuditFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t, nil)
	d, _ := w.start(w.config(r.hook))
	if err := w.audit.Close(); err != nil {
		t.Fatal(err)
	}
	w.notice("hooks", keys.NoticeActivated)
	eventually(t, "it fails", func() bool { return w.one(d).Failures > 2 })
	if len(r.all) != 0 {
		t.Error("an event was sent without a record of its signature")
	}
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := webhook.Hook{Name: "a", URL: "https://siem.example/" + secret, SigningKey: "hooks"}
	if _, err := webhook.New(w.config(good)); err != nil {
		t.Fatal(err)
	}
	for name, hooks := range map[string][]webhook.Hook{
		"twice":     {good, good},
		"key":       {{Name: "a", URL: good.URL, SigningKey: keys.ReservedPrefix + "audit"}},
		"http":      {{Name: "a", URL: "http://siem.example/" + secret}},
		"user":      {{Name: "a", URL: "https://u:" + secret + "@siem.example/"}},
		"no host":   {{Name: "a", URL: "https:///" + secret}},
		"no URL":    {{Name: "a", URL: "https://siem.example/%zz" + secret}},
		"no CA":     {{Name: "a", URL: good.URL, CAFile: "/nonexistent/ca.crt"}},
		"no CA PEM": {{Name: "a", URL: good.URL, CAFile: "/dev/null"}},
	} {
		for i := range hooks {
			if hooks[i].SigningKey == "" {
				hooks[i].SigningKey = "hooks"
			}
		}
		if _, err := webhook.New(w.config(hooks...)); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	d, err := webhook.New(w.config(good))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Retry(t.Context(), "b"); err == nil {
		t.Error("a webhook that there is not can be ordered")
	}
}
