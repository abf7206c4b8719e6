package gateway_test

import (
	"errors"
	"testing"
	"time"

	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/store"
)

// Of the operations that are refused for want of room, one a second of each
// caller is recorded, with how many were not.
func TestOverloadIsRecordedOnceASecond(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) {
		c.Limits = authz.NewLimiter(authz.LimiterConfig{Now: func() time.Time { return now }})
	})
	w.key("payments", keys.ES256)
	w.news()
	refused := func(who gateway.Request, n int) {
		t.Helper()
		for range n {
			w.hsm.Fail(hsmtest.Sign, 1, hsmtest.NotDone, keys.Errorf(keys.ErrOverloaded, "busy"))
			if _, err := w.Sign(t.Context(), who, "payments", api.SignRequest{Payload: []byte("x")}); !errors.Is(err, keys.ErrOverloaded) {
				t.Fatal(err)
			}
		}
	}
	refused(alice, 1)
	if r := w.record(); r.Reason != "overloaded" || r.Details["not_recorded"] != "" {
		t.Errorf("recorded as %+v", r)
	}
	refused(alice, 7)
	if recs := w.news(); len(recs) != 0 {
		t.Errorf("refusals just after are recorded: %+v", recs)
	}
	refused(admin, 1) // another caller
	if r := w.record(); r.Reason != "overloaded" {
		t.Errorf("recorded as %+v", r)
	}
	now = now.Add(time.Second)
	refused(alice, 1)
	if r := w.record(); r.Details["not_recorded"] != "7" {
		t.Errorf("recorded as %+v", r)
	}
	if _, err := w.Sign(t.Context(), alice, "payments", api.SignRequest{Payload: []byte("x")}); err != nil {
		t.Error(err)
	}
	if r := w.record(); r.Outcome != "ok" {
		t.Errorf("recorded as %+v", r)
	}
}
