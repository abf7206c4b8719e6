package rest_test

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"keyhole/gateway/api"
)

func (c *caller) rotate(key string) *response {
	c.t.Helper()
	return c.post("/v1/admin/keys/"+key+"/rotate", `{}`).want(202)
}

func TestEventsArriveAsTheyHappen(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	for proto, agent := range map[string]*caller{"HTTP/2.0": s.as(t, "agent"), "HTTP/1.1": s.as(t, "agent").overHTTP1()} {
		f := agent.follow("/v1/events?key=payments")
		if f.res.Proto != proto || f.res.Header.Get("X-Accel-Buffering") != "no" || f.res.Header.Get("Cache-Control") != "no-store" || f.res.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%s: %v", f.res.Proto, f.res.Header)
		}
		admin.rotate("orders") // of no concern
		r := read[api.Rotation](admin.rotate("payments"))
		got := f.until("version.activated")
		last := got[len(got)-1]
		if last.Key != "payments" || last.Version != r.To || last.KeyID != fmt.Sprintf("payments.v%d", r.To) || last.Rotation != r.ID || last.Time.IsZero() || last.When.IsZero() {
			t.Errorf("%+v of rotation %+v", last, r)
		}
		for _, e := range got {
			if e.Key != "payments" {
				t.Errorf("%+v is of no concern", e)
			}
		}
		f.close()
	}
	eventually(t, "the streams end", func() bool {
		return s.observed.count(observation{"/v1/events", "GET", 200}) == 2
	})
}

func (o *observed) count(what observation) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, seen := range o.all {
		if seen == what {
			n++
		}
	}
	return n
}

// What one may not see does not happen, and keys that are made later are
// followed too.
func TestEventsOfWhatOneMaySee(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	all := s.as(t, "agent").follow("/v1/events")
	some := s.as(t, "agent").follow("/v1/events?key=orders,payments&key=payments")
	admin.rotate("hidden")
	admin.post("/v1/admin/keys", `{"name":"later","algorithm":"ES256"}`).want(201)
	admin.rotate("later")
	admin.rotate("payments")
	var seen []string
	for !slices.Contains(seen, "payments") {
		seen = append(seen, all.event().Key)
	}
	if slices.Contains(seen, "hidden") || !slices.Contains(seen, "later") {
		t.Errorf("of all: %v", seen)
	}
	if e := some.event(); e.Key != "payments" {
		t.Errorf("of some: %+v", e)
	}
}

func TestEventsAreResumed(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin, agent := s.as(t, "admin"), s.as(t, "agent")
	live := agent.follow("/v1/events")
	for range 3 {
		admin.rotate("payments")
	}
	var all []api.Event
	for activated := 0; activated < 3; {
		all = append(all, live.event())
		if all[len(all)-1].Type == "version.activated" {
			activated++
		}
	}
	rest := func(f *follower, n int) []api.Event {
		var got []api.Event
		for range n {
			got = append(got, f.event())
		}
		f.close()
		return got
	}
	for i := range all {
		after := strconv.FormatUint(all[i].ID, 10)
		want := all[i+1:]
		for name, f := range map[string]*follower{
			"header": agent.set("Last-Event-ID", after).follow("/v1/events"), "query": agent.follow("/v1/events?after=" + after),
			"header and query": agent.set("Last-Event-ID", after).follow("/v1/events?after=0"), // as EventSource does
		} {
			if got := rest(f, len(want)); !slices.Equal(got, want) {
				t.Errorf("by %s after %s: %+v, want %+v", name, after, got, want)
			}
		}
	}
	first := agent.follow("/v1/events?after=0").event()
	if first.ID >= all[0].ID {
		t.Errorf("from the beginning: %+v, and the first one seen was %+v", first, all[0])
	}
}

// Whoever comes too late is told so, and goes on from there.
func TestEventsThatAreGone(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin, agent := s.as(t, "admin"), s.as(t, "agent")
	admin.rotate("payments")
	_, newest, err := s.store.EventRange(t.Context())
	must(t, err)
	_, err = s.store.ExpireEvents(t.Context(), time.Now().Add(time.Hour))
	must(t, err)
	f := agent.follow("/v1/events?after=1")
	if e := f.event(); e.Type != api.EventReset || e.ID != newest || e.Key != "" {
		t.Errorf("%+v, and the newest was %d", e, newest)
	}
	r := read[api.Rotation](admin.rotate("payments"))
	if e := f.event(); e.ID <= newest || e.Rotation != r.ID {
		t.Errorf("after it: %+v", e)
	}
	// An id of another gateway's stream, or of the future.
	if e := agent.follow("/v1/events?after=9223372036854775807").event(); e.Type != api.EventReset {
		t.Errorf("from the future: %+v", e)
	}
}

// While keys are rotated from all sides, a reader that is cut off again and
// again gets what one gets that is not.
func TestResumeHasNoGapAndNoDuplicate(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin, agent := s.as(t, "admin"), s.as(t, "agent")
	const rounds = 8
	whole := agent.follow("/v1/events")
	cut := agent.follow("/v1/events")
	var wg sync.WaitGroup
	for _, key := range []string{"payments", "orders", "hidden"} {
		wg.Go(func() {
			for range rounds {
				admin.rotate(key)
			}
		})
	}
	done := func(all []api.Event) bool {
		n := 0
		for _, e := range all {
			if e.Type == "version.activated" {
				n++
			}
		}
		return n == 2*rounds
	}
	var want, got []api.Event
	wg.Go(func() {
		for !done(want) {
			want = append(want, whole.event())
		}
	})
	for i := 1; !done(got); i++ {
		for range i % 4 {
			if got = append(got, cut.event()); done(got) {
				break
			}
		}
		cut.close()
		if len(got) > 0 {
			cut = agent.set("Last-Event-ID", strconv.FormatUint(got[len(got)-1].ID, 10)).follow("/v1/events")
		} else {
			cut = agent.follow("/v1/events?after=" + strconv.FormatUint(0, 10))
		}
	}
	wg.Wait()
	n := min(len(want), len(got)) // one may have seen what came behind the last activation
	if !slices.Equal(want[:n], got[:n]) {
		t.Errorf("cut off: %+v\nnot cut off: %+v", got, want)
	}
	for i := 1; i < len(got); i++ {
		if got[i].ID <= got[i-1].ID {
			t.Errorf("%+v comes behind %+v", got[i], got[i-1])
		}
	}
}
