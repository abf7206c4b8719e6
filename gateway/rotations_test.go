package gateway_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
)

func span(d time.Duration) *api.Duration { return (*api.Duration)(&d) }

// Every rotation that waits can be forced and given up.
func TestRotationActs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	begin := func() api.Rotation {
		t.Helper()
		r := of(w.Rotate(ctx, admin, "payments", api.RotateRequest{Announce: span(time.Hour), Note: "n"})).ok(t)
		if r.Phase != "announced" || r.Next == nil || r.Next.At.IsZero() || r.Next.Text == "" || r.Acks != nil || r.Note != "n" {
			t.Errorf("%+v", r)
		}
		w.news()
		return r
	}
	r := begin()
	of(w.Rotate(ctx, admin, "payments", api.RotateRequest{})).fails(t, keys.ErrRotationRunning)
	w.news()
	// Whoever may see it and no more is forbidden; nobody else learns of it.
	for _, act := range []func(gateway.Request, string) error{
		func(who gateway.Request, id string) error {
			return of(w.ActivateRotation(ctx, who, id, api.RotationActRequest{})).err
		},
		func(who gateway.Request, id string) error {
			return of(w.AbortRotation(ctx, who, id, api.RotationActRequest{})).err
		},
	} {
		if err := act(alice, r.ID); !errors.Is(err, keys.ErrForbidden) {
			t.Errorf("%v", err)
		}
		if rec := w.record(); rec.Outcome != audit.OutcomeDenied || rec.Key != "payments" || rec.Rotation != r.ID {
			t.Errorf("recorded as %+v", rec)
		}
		hidden, none := act(nobody, r.ID), act(nobody, "01JJJJJJJJJJJJJJJJJJJJJJJJ")
		if !errors.Is(hidden, keys.ErrNotFound) || !errors.Is(none, keys.ErrNotFound) ||
			strings.ReplaceAll(hidden.Error(), r.ID, "") != strings.ReplaceAll(none.Error(), "01JJJJJJJJJJJJJJJJJJJJJJJJ", "") {
			t.Errorf("%v, %v", hidden, none)
		}
		if err := act(admin, strings.Repeat("x", 5000)); !errors.Is(err, keys.ErrNotFound) || len(err.Error()) > 300 {
			t.Errorf("%.300v", err)
		}
		if recs := w.news(); len(recs) != 3 {
			t.Errorf("recorded as %+v", recs)
		}
	}
	of(w.ActivateRotation(ctx, admin, r.ID, api.RotationActRequest{Reason: strings.Repeat("x", 201)})).fails(t, keys.ErrInvalid)
	w.news()
	forced := of(w.ActivateRotation(ctx, admin, r.ID, api.RotationActRequest{Reason: "no time"})).ok(t)
	if forced.Phase != "completed" || forced.ForcedBy != admin.Caller.ID {
		t.Errorf("%+v", forced)
	}
	recs := w.news()
	if recs[0].Action != "activate-rotation" || recs[0].Outcome != audit.OutcomeIntent || recs[0].Details["note"] != "no time" {
		t.Errorf("recorded as %+v", recs)
	}
	of(w.AbortRotation(ctx, admin, r.ID, api.RotationActRequest{})).fails(t, keys.ErrConflict)

	r = begin()
	aborted := of(w.AbortRotation(ctx, admin, r.ID, api.RotationActRequest{Reason: "wrong key"})).ok(t)
	if aborted.Phase != "aborted" || aborted.EndedBy != admin.Caller.ID || aborted.Error == "" || aborted.Next != nil {
		t.Errorf("%+v", aborted)
	}
	of(w.ActivateRotation(ctx, admin, r.ID, api.RotationActRequest{})).fails(t, keys.ErrConflict)
	if k := of(w.Key(ctx, admin, "payments")).ok(t); k.ActiveVersion != 2 || k.Rotation != "" || k.Versions[0].State != "destroyed" {
		t.Errorf("%+v", k)
	}
}

// A coordinated switch is announced for everybody to see, and comes by the
// clock.
func TestCoordinatedSwitch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	at := w.now().Add(2 * time.Hour)
	r := of(w.Rotate(ctx, admin, "payments", api.RotateRequest{ActivateAt: api.At(at)})).ok(t)
	if r.Phase != "scheduled" || !r.ActivateAt.Equal(api.At(at).Time) || r.Next == nil || r.Next.Step != "activate" || !r.Next.At.Equal(r.ActivateAt.Time) {
		t.Errorf("%+v", r)
	}
	if s := of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t); s.Version != 1 {
		t.Errorf("version %d signs", s.Version)
	}
	w.offset.Add(int64(2 * time.Hour))
	if err := w.cache.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	// Nobody has told the gateway; it switches by the clock.
	if s := of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t); s.Version != 2 {
		t.Errorf("version %d signs", s.Version)
	}
	w.tick(0)
	if r := of(w.Rotation(ctx, admin, r.ID)).ok(t); r.Phase != "completed" {
		t.Errorf("%+v", r)
	}
}

// What the issue lists as bad input is refused with the reason, and recorded.
func TestBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	day := func(n int) api.Duration { return api.Duration(n) * api.Duration(24*time.Hour) }
	policies := map[string]api.Policy{
		"policy.overlap is":          {Announce: day(2), Overlap: day(1)},
		"policy.period is 48h0m0s":   {Period: day(2), Announce: day(1), Acks: &api.Acks{Require: "all", Timeout: day(1)}},
		"policy.destroy_delay is 1h": {DestroyDelay: api.Duration(time.Hour)},
		"never":                      {Schedule: "0 0 30 2 *"},
		"schedule":                   {Schedule: "every day"},
		"policy.schedule":            {Schedule: "* * * * * *"},
		"policy.acks.timeout":        {Acks: &api.Acks{Require: "all"}},
		"all, quorum or none":        {Acks: &api.Acks{Require: "most", Timeout: day(1)}},
		"percentage":                 {Acks: &api.Acks{Require: "quorum", Quorum: 101, Timeout: day(1)}},
		"archive or destroy":         {Overlap: day(1), AfterOverlap: "shred"},
		"needs policy.overlap":       {AfterOverlap: "destroy"},
	}
	for want, p := range policies {
		w.news()
		for i, err := range []error{
			of(w.UpdateKey(ctx, admin, "payments", api.UpdateKeyRequest{Policy: &p})).err,
			of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "other", Algorithm: "ES256", Policy: &p})).err,
		} {
			if d := api.ProblemOf(err).Detail; !errors.Is(err, keys.ErrInvalid) || !strings.Contains(d, want) {
				t.Errorf("%+v: %v, want ErrInvalid with %q", p, err, want)
			}
			if recs := w.news(); i == 1 && (len(recs) != 2 || recs[0].Outcome != audit.OutcomeError || recs[1].Reason != "invalid_argument") {
				t.Errorf("recorded as %+v", recs)
			} else if i == 0 {
				w.read -= len(recs)
			}
		}
	}
	for what, in := range map[string]api.RotateRequest{
		"in the past":        {ActivateAt: api.At(w.now().Add(-time.Minute))},
		"in a thousand":      {ActivateAt: api.At(w.now().AddDate(1000, 0, 0))},
		"negative announce":  {Announce: span(-time.Hour)},
		"endless announce":   {Announce: span(1 << 62)},
		"a long note":        {Note: strings.Repeat("x", 201)},
		"a note of no UTF-8": {Note: "\xff"},
	} {
		w.news()
		of(w.Rotate(ctx, admin, "payments", in)).fails(t, keys.ErrInvalid)
		if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "invalid_argument" || r.Action != "rotate" {
			t.Errorf("%s: recorded as %+v", what, r)
		}
	}
	if k := of(w.Key(ctx, admin, "payments")).ok(t); k.Epoch != 2 || len(k.Versions) != 1 {
		t.Errorf("%+v", k)
	}
	of(w.Key(ctx, admin, "other")).fails(t, keys.ErrKeyNotFound)
}

// Every field of a policy goes in, is shown, and comes back the same.
func TestPolicyRoundTrip(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	h := func(n int) api.Duration { return api.Duration(n) * api.Duration(time.Hour) }
	p := api.Policy{
		Period: h(24 * 90), Schedule: "0 3 1 * *", MaxOperations: 1e9, MaxBytes: 1 << 40, Announce: h(24), Overlap: h(720), AfterOverlap: "destroy", DestroyDelay: h(48),
		Acks: &api.Acks{Require: "quorum", Quorum: 60, Timeout: h(36), OnTimeout: "activate", AbsentAfter: h(72)},
	}
	k := of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "payments", Algorithm: "ES256", Policy: &p})).ok(t)
	acks := *k.Policy.Acks
	k.Policy.Acks, p.Acks = nil, nil
	if k.Policy != p || acks != (api.Acks{Require: "quorum", Quorum: 60, Timeout: h(36), OnTimeout: "activate", AbsentAfter: h(72)}) {
		t.Errorf("%+v, %+v", k.Policy, acks)
	}
	if k.NextRotation.IsZero() || k.NextRotation.Sub(w.now()) > 32*24*time.Hour {
		t.Errorf("the next rotation is at %s", k.NextRotation)
	}
}

// Versions go their way by the policy, and the API says when.
func TestEndOfOverlap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *gateway.Config, c *store.CacheConfig) { c.MaxStaleness = 10_000 * time.Hour })
	ctx := t.Context()
	w.key("payments", keys.ES256)
	policy := api.Policy{Overlap: api.Duration(48 * time.Hour)}
	of(w.UpdateKey(ctx, admin, "payments", api.UpdateKeyRequest{Policy: &policy})).ok(t)
	r := of(w.Rotate(ctx, admin, "payments", api.RotateRequest{})).ok(t)
	if r.Next == nil || r.Next.Step != "archive" {
		t.Errorf("%+v", r.Next)
	}
	v := of(w.Key(ctx, admin, "payments")).ok(t).Versions[1]
	if v.State != "deactivated" || v.OverlapEndsAt.Sub(v.DeactivatedAt.Time) != 48*time.Hour || !v.ArchivedAt.IsZero() {
		t.Errorf("%+v", v)
	}
	w.tick(48 * time.Hour)
	v = of(w.Key(ctx, admin, "payments")).ok(t).Versions[1]
	if v.State != "archived" || v.ArchivedAt.IsZero() {
		t.Errorf("%+v", v)
	}
}

// The same request is done once, whatever was interrupted.
func TestActsOnceAfterACrash(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		prepare func(w *world)
		act     func(w *world, r gateway.Request) error
		check   func(w *world) string // what must not change by a second attempt
	}{
		"rotate, waiting": {
			func(*world) {},
			func(w *world, r gateway.Request) error {
				return of(w.Rotate(w.t.Context(), r, "payments", api.RotateRequest{Announce: span(time.Hour)})).err
			},
			func(w *world) string {
				return fmt.Sprint(len(of(w.Key(w.t.Context(), admin, "payments")).ok(w.t).Versions))
			},
		},
		"activate": {
			func(w *world) {
				of(w.Rotate(w.t.Context(), admin, "payments", api.RotateRequest{Announce: span(time.Hour)})).ok(w.t)
			},
			func(w *world, r gateway.Request) error {
				return of(w.ActivateRotation(w.t.Context(), r, w.latest(), api.RotationActRequest{})).err
			},
			func(w *world) string {
				return fmt.Sprint(of(w.Key(w.t.Context(), admin, "payments")).ok(w.t).ActiveVersion)
			},
		},
		"abort": {
			func(w *world) {
				of(w.Rotate(w.t.Context(), admin, "payments", api.RotateRequest{Announce: span(time.Hour)})).ok(w.t)
			},
			func(w *world, r gateway.Request) error {
				return of(w.AbortRotation(w.t.Context(), r, w.latest(), api.RotationActRequest{})).err
			},
			func(w *world) string { return w.stateOf("payments", 2) },
		},
		"destroy": {
			func(w *world) { w.rotate("payments") },
			func(w *world, r gateway.Request) error {
				return of(w.Destroy(w.t.Context(), r, "payments", 1, api.DestroyRequest{})).err
			},
			func(w *world) string { return w.stateOf("payments", 1) },
		},
		"restore": {
			func(w *world) {
				w.rotate("payments")
				of(w.Destroy(w.t.Context(), admin, "payments", 1, api.DestroyRequest{})).ok(w.t)
			},
			func(w *world, r gateway.Request) error {
				return of(w.Restore(w.t.Context(), r, "payments", 1, api.VersionActRequest{})).err
			},
			func(w *world) string { return w.stateOf("payments", 1) },
		},
		"delete": {
			func(*world) {},
			func(w *world, r gateway.Request) error {
				return of(w.DeleteKey(w.t.Context(), r, "payments", api.DestroyRequest{})).err
			},
			func(w *world) string { return w.stateOf("payments", 1) },
		},
		"restore key": {
			func(w *world) {
				of(w.DeleteKey(w.t.Context(), admin, "payments", api.DestroyRequest{})).ok(w.t)
			},
			func(w *world, r gateway.Request) error {
				return of(w.RestoreKey(w.t.Context(), r, "payments", api.VersionActRequest{})).err
			},
			func(w *world) string { return w.stateOf("payments", 1) },
		},
		"block": {
			func(*world) {},
			func(w *world, r gateway.Request) error {
				return of(w.BlockAgent(w.t.Context(), r, keys.AgentID("mtls:x"), api.BlockRequest{Principal: "mtls:x"})).err
			},
			func(w *world) string { b, err := w.store.Blocked(w.t.Context()); return fmt.Sprint(b, err) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) { c.TwoPeople = []string{} })
			w.key("payments", keys.ES256)
			tt.prepare(w)
			try := func(id string) gateway.Request {
				r := admin
				r.ID, r.Once = id, &gateway.Once{Key: "k", Fingerprint: "f", Status: 200}
				if err := tt.act(w, r); err != nil {
					t.Fatalf("%s: %v", id, err)
				}
				return r
			}
			try("req-1")
			want := tt.check(w)
			if r := try("req-2"); !r.Once.Replayed {
				t.Error("the answer does not come again")
			}
			if err := w.store.ForgetAttempt(t.Context(), admin.Caller.ID, "k"); err != nil {
				t.Fatal(err)
			}
			if _, err := w.store.BeginAttempt(t.Context(), store.Attempt{
				Principal: admin.Caller.ID, Key: "k", Fingerprint: "f", RequestID: "req-1", StartedAt: w.now(),
			}); err != nil {
				t.Fatal(err)
			}
			if r := try("req-3"); r.Once.Replayed {
				t.Error("there was no answer to come again")
			}
			if got := tt.check(w); got != want {
				t.Errorf("it was %s, and is %s", want, got)
			}
		})
	}
}

// latest returns the id of the newest rotation.
func (w *world) latest() string {
	w.t.Helper()
	return of(w.Rotations(w.t.Context(), admin, "payments", "", 1)).ok(w.t).Rotations[0].ID
}
