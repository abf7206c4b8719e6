package gateway_test

import (
	"errors"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
)

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	claims := w.issuer.Claims("alice", w.now())
	claims["groups"] = []string{"agents"}
	w.news()
	req, err := w.Authenticate(ctx, "r1", addr("192.0.2.3"), authz.Credentials{Token: w.issuer.Token(t, claims)})
	if err != nil || req.ID != "r1" || req.Caller.ID != "jwt:corp:alice" || req.Source != addr("192.0.2.3") {
		t.Fatalf("%+v, %v", req, err)
	}
	if recs := w.news(); len(recs) != 0 {
		t.Errorf("recorded as %+v", recs)
	}
	of(w.Sign(ctx, req, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
	if r := w.record(); r.Principal != "jwt:corp:alice" || r.RequestID != "r1" || r.Source != "192.0.2.3" {
		t.Errorf("recorded as %+v", r)
	}
	who := w.WhoAmI(req)
	if who.Principal != "jwt:corp:alice" || who.Method != "jwt" || len(who.Groups) != 1 || who.Groups[0] != "agents" || who.ExpiresAt.Before(w.now().Add(59*time.Minute)) {
		t.Errorf("%+v", who)
	}
	if who := w.WhoAmI(nobody); who.Groups == nil || !who.ExpiresAt.IsZero() {
		t.Errorf("%+v", who)
	}

	expired := w.issuer.Claims("alice", w.now().Add(-2*time.Hour))
	details := map[string]bool{}
	for reason, token := range map[string]string{
		"expired": w.issuer.Token(t, expired), "missing": "", "other": "not a token",
	} {
		req, err := w.Authenticate(ctx, "r2", addr("192.0.2.3"), authz.Credentials{Token: token})
		if !errors.Is(err, keys.ErrUnauthenticated) || req.Caller.ID != "" {
			t.Errorf("%s: %+v, %v", reason, req, err)
		}
		if token != "" {
			details[api.ProblemOf(err).Detail] = true
		}
		var failure *authz.Failure
		if !errors.As(err, &failure) {
			t.Fatalf("%v is no Failure", err)
		}
		r := w.record()
		if r.Action != "authenticate" || r.Outcome != audit.OutcomeDenied || r.Reason != failure.Reason || r.Source != "192.0.2.3" || r.Principal != "" || r.RequestID != "r2" {
			t.Errorf("%s: recorded as %+v", reason, r)
		}
		if reason == "expired" && r.Reason != "expired" {
			t.Errorf("recorded with the reason %q", r.Reason)
		}
	}
	if len(details) != 1 {
		t.Errorf("callers learn why: %v", details)
	}
	if err := w.RefuseLogin(ctx, "r3", addr("192.0.2.3"), &authz.Failure{Reason: "malformed"}); !errors.Is(err, keys.ErrUnauthenticated) {
		t.Errorf("%v", err)
	}
	if r := w.record(); r.Action != "authenticate" || r.Reason != "malformed" {
		t.Errorf("recorded as %+v", r)
	}
}

// From a source that failed too often further failures do not fill the log.
// Good credentials pass all the same.
func TestFailedLogins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) {
		c.Limits = authz.NewLimiter(authz.LimiterConfig{FailedLogins: 0.01, FailedLoginBurst: 3, Now: c.Now})
	})
	ctx := t.Context()
	good := authz.Credentials{Token: w.issuer.Token(t, w.issuer.Claims("alice", w.now()))}
	try := func(source string, c authz.Credentials, want error) {
		t.Helper()
		req, err := w.Authenticate(ctx, "r", addr(source), c)
		if !errors.Is(err, want) || err != nil && req.Caller.ID != "" {
			t.Errorf("%+v, %v, want %v", req.Caller, err, want)
		}
	}
	bad := authz.Credentials{Token: "x"}
	for range 3 {
		try("192.0.2.3", bad, keys.ErrUnauthenticated)
	}
	w.news()
	for range 5 {
		try("192.0.2.3", bad, keys.ErrRateLimited)
		if err := w.RefuseLogin(ctx, "r", addr("192.0.2.3"), &authz.Failure{Reason: "malformed"}); !errors.Is(err, keys.ErrRateLimited) {
			t.Errorf("%v, want ErrRateLimited", err)
		}
	}
	if recs := w.news(); len(recs) != 0 {
		t.Errorf("the flood wrote %d records", len(recs))
	}
	try("192.0.2.3", good, nil)
	try("192.0.2.4", bad, keys.ErrUnauthenticated)
	w.offset.Add(int64(200 * time.Second))
	try("192.0.2.3", bad, keys.ErrUnauthenticated)
}

func TestAnonymousReadsWhatIsPublic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("site", keys.ES256, "public")
	w.key("payments", keys.ES256)
	anonymous := w.Anonymous("r", addr("192.0.2.3"))
	w.news()
	if set := of(w.JWKS(ctx, anonymous, "site")).ok(t); len(set.Keys) != 1 {
		t.Errorf("%+v", set)
	}
	if recs := w.news(); len(recs) != 0 {
		t.Errorf("recorded as %+v", recs)
	}
	for _, name := range []string{"payments", "none", ""} {
		of(w.JWKS(ctx, anonymous, name)).fails(t, keys.ErrUnauthenticated)
		if r := w.record(); r.Action != "authenticate" || r.Outcome != audit.OutcomeDenied {
			t.Errorf("%q: recorded as %+v", name, r)
		}
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cause := keys.Errorf(keys.ErrTooLarge, "the body is too large")
	if err := w.Refuse(t.Context(), alice, "sign", "payments", cause); err != error(cause) {
		t.Errorf("%v", err)
	}
	if r := w.record(); r.Action != "sign" || r.Key != "payments" || r.Outcome != audit.OutcomeError || r.Reason != "payload_too_large" || r.Principal != alice.Caller.ID {
		t.Errorf("recorded as %+v", r)
	}
}

// A caller who does not stop at a limit cannot fill the audit log by that:
// of its refusals one a second is recorded, and how many were not.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) {
		c.Limits = authz.NewLimiter(authz.LimiterConfig{Rate: 0.001, Burst: 1, Now: c.Now})
	})
	ctx := t.Context()
	_, release, err := w.Admit(ctx, alice, "sign", "payments")
	if err != nil {
		t.Fatal(err)
	}
	release()
	w.news()
	flood := func(who gateway.Request) {
		t.Helper()
		for range 100 {
			if _, _, err := w.Admit(ctx, who, "sign", "payments"); !errors.Is(err, keys.ErrRateLimited) {
				t.Fatalf("%v, want ErrRateLimited", err)
			}
		}
	}
	start := time.Now()
	flood(alice)
	recs := w.news()
	if most := 1 + int(time.Since(start)/time.Second); len(recs) < 1 || len(recs) > most {
		t.Fatalf("%d records of 100 refusals, want 1 to %d", len(recs), most)
	}
	if r := recs[0]; r.Principal != alice.Caller.ID || r.Action != "sign" || r.Key != "payments" || r.Outcome != audit.OutcomeError || r.Reason != "rate_limited" || r.Details != nil {
		t.Errorf("%+v", r)
	}
	w.offset.Add(int64(2 * time.Second))
	flood(alice)
	if recs = w.news(); len(recs) == 0 || recs[0].Details["not_recorded"] == "" || recs[0].Details["not_recorded"] == "0" {
		t.Errorf("%+v", recs)
	}
}
