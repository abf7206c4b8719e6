package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
)

// stream is an event stream that runs until it is stopped or the test ends.
type stream struct {
	t      *testing.T
	events chan api.Event
	ended  chan struct{}
	err    error // of Events; to be read when ended is closed
	stop   context.CancelFunc
}

// patience is how long tests wait for what must come.
const patience = 30 * time.Second

// follow begins a stream and returns when it stands.
func (w *world) follow(who gateway.Request, q gateway.EventQuery) *stream {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	s := &stream{t: w.t, events: make(chan api.Event), ended: make(chan struct{}), stop: stop}
	stands := make(chan struct{}, 1)
	go func() {
		defer close(s.ended)
		s.err = w.Events(ctx, who, q, func(e api.Event) error {
			select {
			case s.events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}, func() error {
			select {
			case stands <- struct{}{}:
			default:
			}
			return nil
		})
	}()
	w.t.Cleanup(func() { stop(); <-s.ended })
	select {
	case <-stands:
	case <-s.ended:
		w.t.Fatalf("the stream did not begin: %v", s.err)
	case <-time.After(patience):
		w.t.Fatal("the stream does not begin")
	}
	return s
}

// next returns the next event in short: its type and kid.
func (s *stream) next() string {
	s.t.Helper()
	e := s.event()
	return strings.TrimPrefix(e.Type, "version.") + " " + e.KeyID
}

func (s *stream) event() api.Event {
	s.t.Helper()
	select {
	case e := <-s.events:
		return e
	case <-s.ended:
		s.t.Fatalf("the stream has ended: %v", s.err)
	case <-time.After(patience):
		s.t.Fatal("no event comes")
	}
	return api.Event{}
}

// expect checks the next events.
func (s *stream) expect(want ...string) {
	s.t.Helper()
	for _, x := range want {
		if got := s.next(); got != x {
			s.t.Errorf("event %q, want %q", got, x)
		}
	}
}

// ends waits for the end, before which nothing comes, and returns why.
func (s *stream) ends() error {
	s.t.Helper()
	select {
	case e := <-s.events:
		s.t.Errorf("before the end comes %+v", e)
	case <-s.ended:
	case <-time.After(patience):
		s.t.Fatal("the stream does not end")
	}
	return s.err
}

func TestEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("other", keys.ES256)
	w.news()
	all, one := w.follow(alice, gateway.EventQuery{}), w.follow(alice, gateway.EventQuery{Keys: []string{"payments"}})
	recs := w.news()
	if len(recs) != 2 || recs[0].Action != "read" || recs[0].Outcome != audit.OutcomeOK || recs[0].Details["act"] != "events" || recs[1].Key != "payments" {
		t.Errorf("recorded as %+v", recs)
	}
	w.rotate("other")
	w.rotate("payments")
	of(w.Revoke(ctx, admin, "payments", 1, api.VersionActRequest{Reason: "leaked"})).ok(t)
	e := one.event()
	if e.Type != "version.announced" || e.Key != "payments" || e.Version != 2 || e.KeyID != "payments.v2" || e.ID == 0 || e.Time.IsZero() || e.When.IsZero() || e.Rotation == "" {
		t.Errorf("%+v", e)
	}
	var ids []uint64
	for {
		e := one.event()
		ids = append(ids, e.ID)
		if e.Type == "version.revoked" {
			if e.Reason != "leaked" || e.KeyID != "payments.v1" {
				t.Errorf("%+v", e)
			}
			break
		}
	}
	if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		t.Errorf("ids %v", ids)
	}
	seen := map[string]bool{}
	for len(seen) == 0 || !seen["revoked payments.v1"] {
		seen[all.next()] = true
	}
	if !seen["activated other.v2"] || !seen["deactivated other.v1"] || !seen["activated payments.v2"] {
		t.Errorf("%v", seen)
	}
	one.stop()
	if err := one.ends(); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// What one hears of is there when one asks.
func TestEventsTellWhatIsInForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("payments", keys.ES256)
	s := w.follow(alice, gateway.EventQuery{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 5 {
			of(w.Rotate(w.t.Context(), admin, "payments", api.RotateRequest{})).ok(t)
		}
	})
	for range 5 {
		for {
			e := s.event()
			if e.Type != "version.activated" {
				continue
			}
			if k := of(w.Key(t.Context(), alice, "payments")).ok(t); k.ActiveVersion < e.Version {
				t.Errorf("%s is announced, and version %d is active", e.KeyID, k.ActiveVersion)
			}
			break
		}
	}
	wg.Wait()
}

// Who comes again with the last id that it saw misses nothing, and gets
// nothing twice.
func TestEventsResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("payments", keys.ES256)
	s := w.follow(alice, gateway.EventQuery{})
	w.rotate("payments")
	first := s.event()
	s.stop()
	<-s.ended
	w.rotate("payments")
	again := w.follow(alice, gateway.EventQuery{Resume: true, After: first.ID})
	var got []string
	for len(got) == 0 || got[len(got)-1] != "deactivated payments.v2" {
		got = append(got, again.next())
	}
	whole := w.follow(alice, gateway.EventQuery{Resume: true})
	var want []string
	for len(want) == 0 || want[len(want)-1] != "deactivated payments.v2" {
		want = append(want, whole.next())
	}
	// From the beginning comes what was before and the first one too.
	i := slices.Index(want, strings.TrimPrefix(first.Type, "version.")+" "+first.KeyID)
	if i < 0 || !slices.Equal(want[i+1:], got) {
		t.Errorf("resumed: %q, want the end of %q", got, want)
	}
	// The newest ones are served from memory, others from the store.
	w.rotate("payments")
	again.expect("announced payments.v4")
	whole.expect("announced payments.v4")
}

func TestEventsThatAreGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.rotate("payments")
	_, newest, err := w.store.EventRange(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.offset.Add(int64(time.Second))
	if n, err := w.store.ExpireEvents(ctx, w.now()); err != nil || n == 0 {
		t.Fatalf("%d, %v", n, err)
	}
	if err := w.cache.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	for what, after := range map[string]uint64{"long gone": 1, "the beginning": 0, "of another store": newest + 1000, "the last id that there is": 1<<63 - 1} {
		s := w.follow(alice, gateway.EventQuery{Resume: true, After: after})
		if e := s.event(); e.Type != api.EventReset || e.ID != newest || e.Time.IsZero() || e.Key != "" {
			t.Errorf("%s: %+v", what, e)
		}
		s.stop()
	}
	s := w.follow(alice, gateway.EventQuery{Resume: true, After: newest})
	w.rotate("payments")
	s.expect("announced payments.v3")
}

// The policy is asked about each event, as the key is then.
func TestEventsByPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "hidden", Algorithm: "ES256"})).ok(t)
	w.news()
	nothing := func() error { t.Error("the stream began"); return errors.New("it began") }
	for _, q := range []gateway.EventQuery{{Keys: []string{"hidden"}}, {Keys: []string{"none"}}, {Keys: []string{"payments", "hidden"}}, {Keys: []string{strings.Repeat("x", 5000)}}} {
		if err := w.Events(ctx, alice, q, nil, nothing); !errors.Is(err, keys.ErrKeyNotFound) {
			t.Errorf("%.50q: %v", q.Keys, err)
		}
		if r := w.record(); r.Action != "read" || r.Outcome == audit.OutcomeOK {
			t.Errorf("recorded as %+v", r)
		}
	}
	s := w.follow(alice, gateway.EventQuery{})
	w.rotate("hidden")
	w.key("mail", keys.A256GCM) // made later
	w.rotate("payments")
	s.expect("announced mail.v1", "activated mail.v1", "announced payments.v2", "activated payments.v2", "deactivated payments.v1")
	tags := map[string]string{"team": "dev"}
	of(w.UpdateKey(ctx, admin, "payments", api.UpdateKeyRequest{Tags: &tags})).ok(t)
	tags["team"] = "pay"
	of(w.UpdateKey(ctx, admin, "hidden", api.UpdateKeyRequest{Tags: &tags})).ok(t)
	w.rotate("payments")
	w.rotate("hidden")
	s.expect("announced hidden.v3", "activated hidden.v3", "deactivated hidden.v2")
}

// A stream ends with what had let it begin.
func TestEventsEnd(t *testing.T) {
	t.Parallel()
	draining := make(chan struct{})
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) { c.Draining, c.Streams = draining, 2 })
	ctx := t.Context()
	w.key("payments", keys.ES256)

	victim := w.follow(alice, gateway.EventQuery{})
	w.block(alice.Caller.ID)
	if err := victim.ends(); !errors.Is(err, keys.ErrForbidden) {
		t.Errorf("blocked: %v", err)
	}

	short := as("short", "agents")
	short.Caller.ExpiresAt = w.now().Add(time.Minute)
	expiring := w.follow(short, gateway.EventQuery{Idle: time.Millisecond})
	w.offset.Add(int64(time.Minute))
	if err := w.cache.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	w.rotate("payments")
	if err := expiring.ends(); !errors.Is(err, keys.ErrUnauthenticated) {
		t.Errorf("expired: %v", err)
	}

	broken := errors.New("the reader is gone")
	for name, act := range map[string]func() error{
		"send": func() error {
			return w.Events(ctx, admin, gateway.EventQuery{Resume: true}, func(api.Event) error { return broken }, func() error { return nil })
		},
		"idle": func() error { return w.Events(ctx, admin, gateway.EventQuery{}, nil, func() error { return broken }) },
		"idle, later": func() error {
			n := 0
			return w.Events(ctx, admin, gateway.EventQuery{Idle: time.Millisecond}, nil, func() error {
				if n++; n > 1 {
					return broken
				}
				return nil
			})
		},
	} {
		if err := act(); !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Places come back when streams end; all before have.
	first, other := w.follow(admin, gateway.EventQuery{}), w.follow(admin, gateway.EventQuery{})
	w.news()
	if err := w.Events(ctx, admin, gateway.EventQuery{}, nil, nil); !errors.Is(err, keys.ErrRateLimited) {
		t.Errorf("a third stream: %v", err)
	}
	if r := w.record(); r.Reason != "rate_limited" {
		t.Errorf("recorded as %+v", r)
	}
	third := w.follow(second, gateway.EventQuery{}) // another caller has places of its own
	close(draining)
	for _, s := range []*stream{first, other, third} {
		if err := s.ends(); err != nil {
			t.Errorf("draining: %v", err)
		}
	}
}

// A reader that does not read holds up nobody, and finds everything when it
// reads again.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("payments", keys.ES256)
	slow, fast := w.follow(alice, gateway.EventQuery{}), w.follow(alice, gateway.EventQuery{})
	const rotations = 10
	for i := range rotations {
		w.rotate("payments")
		fast.expect(fmt.Sprintf("announced payments.v%d", i+2), fmt.Sprintf("activated payments.v%d", i+2), fmt.Sprintf("deactivated payments.v%d", i+1))
	}
	for i := range rotations {
		slow.expect(fmt.Sprintf("announced payments.v%d", i+2), fmt.Sprintf("activated payments.v%d", i+2), fmt.Sprintf("deactivated payments.v%d", i+1))
	}
}

// A stream outlives a store that cannot be read for a moment, and not the
// staleness of the keys.
func TestEventsWithoutStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("payments", keys.ES256)
	s := w.follow(alice, gateway.EventQuery{Idle: time.Millisecond})
	w.offset.Add(int64(time.Minute))
	if err := s.ends(); !errors.Is(err, keys.ErrStale) {
		t.Errorf("%v", err)
	}
}

// Whoever could read a key is told that it was deleted.
func TestEventsOfDeletedKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *gateway.Config, c *store.CacheConfig) { c.MaxStaleness = 1000 * time.Hour })
	ctx := t.Context()
	w.key("payments", keys.ES256)
	of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "hidden", Algorithm: "ES256"})).ok(t)
	s := w.follow(alice, gateway.EventQuery{})
	for _, k := range []string{"hidden", "payments"} {
		out := of(w.DeleteKey(ctx, admin, k, api.DestroyRequest{Reason: "unused"})).ok(t)
		of(w.Approve(ctx, second, out.Approval.ID, api.DecisionRequest{})).ok(t)
	}
	s.expect("destroy-scheduled payments.v1")
	for range 100 { // the engine takes its time with what cannot be undone
		w.tick(time.Hour)
		if of(w.Key(ctx, admin, "payments")).err != nil {
			break
		}
	}
	of(w.Key(ctx, admin, "payments")).fails(t, keys.ErrKeyNotFound)
	s.expect("destroyed payments.v1", "key.deleted ")
}
