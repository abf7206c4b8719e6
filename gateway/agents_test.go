package gateway_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
)

func (w *world) block(principal string) {
	w.t.Helper()
	of(w.BlockAgent(w.t.Context(), admin, keys.AgentID(principal), api.BlockRequest{Principal: principal, Reason: "stolen laptop"})).ok(w.t)
}

// A blocked principal is refused by every operation, whatever its token says,
// and by either of its identities.
func TestBlocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	claims := w.issuer.Claims("alice", w.now())
	claims["groups"] = []string{"agents"}
	creds := authz.Credentials{Token: w.issuer.Token(t, claims)}
	login := func() gateway.Request {
		t.Helper()
		req, err := w.Authenticate(ctx, "r1", addr("192.0.2.3"), creds)
		if err != nil {
			t.Fatal(err)
		}
		return req
	}
	before := login() // its token is remembered from now on
	early, release, err := w.Admit(ctx, before, "sign", "payments")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	w.news()
	got := of(w.BlockAgent(ctx, admin, keys.AgentID("jwt:corp:alice"), api.BlockRequest{Principal: "jwt:corp:alice", Reason: "stolen laptop"})).ok(t)
	if got.Principal != "jwt:corp:alice" || got.BlockedBy != admin.Caller.ID || got.BlockReason != "stolen laptop" || got.BlockedAt.IsZero() {
		t.Errorf("%+v", got)
	}
	recs := w.news()
	if len(recs) != 2 || recs[0].Outcome != audit.OutcomeIntent || recs[1].Outcome != audit.OutcomeOK || recs[1].Action != "block-agent" ||
		recs[1].Details["agent"] != "jwt:corp:alice" || recs[1].Details["act"] != "block" || recs[1].Details["note"] != "stolen laptop" {
		t.Errorf("recorded as %+v", recs)
	}
	callers := map[string]gateway.Request{
		"before": before, "admitted before": early, "anew": login(),
		"as the second one": also(as("bob", "agents"), "jwt:corp:alice"),
		"an administrator":  as("alice", "admins"),
	}
	for what, req := range callers {
		for _, op := range append(dataOperations(w), adminOperations(w)...) {
			if err := op.call(w, req, "payments"); !errors.Is(err, keys.ErrForbidden) {
				t.Errorf("%s: %s: %v, want ErrForbidden", what, op.action, err)
			}
			if r := w.record(); r.Outcome != audit.OutcomeDenied || r.Reason != "blocked" || r.Principal != req.Caller.ID {
				t.Errorf("%s: %s: recorded as %+v", what, op.action, r)
			}
		}
		of(w.Random(ctx, req, api.RandomRequest{Bytes: 8})).fails(t, keys.ErrForbidden)
		of(w.Keys(ctx, req, "", 0)).fails(t, keys.ErrForbidden)
		of(w.CreateKey(ctx, req, api.CreateKeyRequest{Name: "a", Algorithm: "ES256"})).fails(t, keys.ErrForbidden)
		of(w.UnblockAgent(ctx, req, keys.AgentID("jwt:corp:alice"), api.BlockRequest{})).fails(t, keys.ErrForbidden)
		if _, _, err := w.Admit(ctx, req, "whoami", ""); !errors.Is(err, keys.ErrForbidden) {
			t.Errorf("%s: admitted: %v", what, err)
		}
		w.news()
	}
	if n := w.hsm.Calls("Sign") + w.hsm.Calls("Random"); n != 0 {
		t.Errorf("the HSM was asked %d times", n)
	}
	of(w.Sign(ctx, as("bob", "agents"), "payments", api.SignRequest{Payload: []byte("x")})).ok(t)

	w.news()
	if got := of(w.UnblockAgent(ctx, admin, keys.AgentID("jwt:corp:alice"), api.BlockRequest{Reason: "found"})).ok(t); !got.BlockedAt.IsZero() {
		t.Errorf("%+v", got)
	}
	if recs := w.news(); len(recs) != 2 || recs[1].Details["act"] != "unblock" {
		t.Errorf("recorded as %+v", recs)
	}
	of(w.Sign(ctx, before, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
}

// Without knowing who is blocked, nobody is let in.
func TestStaleBlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.offset.Add(int64(time.Minute))
	of(w.Random(t.Context(), alice, api.RandomRequest{Bytes: 8})).fails(t, keys.ErrStale)
	if _, _, err := w.Admit(t.Context(), alice, "whoami", ""); !errors.Is(err, keys.ErrStale) {
		t.Errorf("%v", err)
	}
}

func TestBlockingIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	id := keys.AgentID("jwt:corp:bob")
	for what, tt := range map[string]struct {
		who  gateway.Request
		id   string
		in   api.BlockRequest
		kind error
	}{
		"no permission":      {alice, id, api.BlockRequest{Principal: "jwt:corp:bob"}, keys.ErrForbidden},
		"oneself":            {admin, keys.AgentID(admin.Caller.ID), api.BlockRequest{Principal: admin.Caller.ID}, keys.ErrInvalid},
		"one's certificate":  {also(admin, "mtls:me"), keys.AgentID("mtls:me"), api.BlockRequest{Principal: "mtls:me"}, keys.ErrInvalid},
		"never seen":         {admin, id, api.BlockRequest{}, keys.ErrNotFound},
		"another one's id":   {admin, id, api.BlockRequest{Principal: "jwt:corp:eve"}, keys.ErrInvalid},
		"nobody":             {admin, keys.AgentID("anonymous"), api.BlockRequest{Principal: "anonymous"}, keys.ErrInvalid},
		"the gateway itself": {admin, keys.AgentID("system"), api.BlockRequest{Principal: "system"}, keys.ErrInvalid},
		"control characters": {admin, keys.AgentID("jwt:corp:a\n"), api.BlockRequest{Principal: "jwt:corp:a\n"}, keys.ErrInvalid},
		"a long name":        {admin, id, api.BlockRequest{Principal: "jwt:" + strings.Repeat("x", 5000)}, keys.ErrInvalid},
		"a long reason":      {admin, id, api.BlockRequest{Principal: "jwt:corp:bob", Reason: strings.Repeat("x", 201)}, keys.ErrInvalid},
		"a long id":          {admin, strings.Repeat("x", 5000), api.BlockRequest{}, keys.ErrNotFound},
	} {
		w.news()
		of(w.BlockAgent(ctx, tt.who, tt.id, tt.in)).fails(t, tt.kind)
		if r := w.record(); r.Action != "block-agent" || r.Outcome == audit.OutcomeOK || r.Reason != api.CodeOf(tt.kind) {
			t.Errorf("%s: recorded as %+v", what, r)
		}
	}
	of(w.UnblockAgent(ctx, admin, id, api.BlockRequest{Principal: "jwt:corp:bob"})).fails(t, keys.ErrNotFound)
	of(w.UnblockAgent(ctx, alice, id, api.BlockRequest{})).fails(t, keys.ErrForbidden)
	if blocked, err := w.store.Blocked(ctx); err != nil || len(blocked) != 0 {
		t.Errorf("%q, %v", blocked, err)
	}
}

// A block is told to be in force only when it is.
func TestBlockNotInForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) {})
	w.key("payments", keys.ES256)
	w.log.Close()
	of(w.BlockAgent(t.Context(), admin, keys.AgentID("jwt:corp:bob"), api.BlockRequest{Principal: "jwt:corp:bob"})).fails(t, keys.ErrAudit)
	if blocked, err := w.store.Blocked(t.Context()); err != nil || len(blocked) != 0 {
		t.Errorf("blocked without an intent: %q, %v", blocked, err)
	}
}

func TestAgents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "hidden", Algorithm: "ES256"})).ok(t)
	for _, k := range []string{"payments", "hidden"} {
		for _, who := range []gateway.Request{as("root", "admins"), as("susan", "admins")} {
			of(w.Subscribe(ctx, who, k)).ok(t)
			of(w.Acknowledge(ctx, who, k, 1)).ok(t)
		}
	}
	w.rotate("payments")
	of(w.Acknowledge(ctx, admin, "payments", 2)).ok(t)
	seen := w.now()
	if err := w.store.SeeAgents(ctx, []store.Sighting{{Principal: admin.Caller.ID, At: seen}, {Principal: second.Caller.ID, At: seen}, {Principal: "mtls:till-7", At: seen}}); err != nil {
		t.Fatal(err)
	}
	w.block("jwt:corp:mallory")
	w.news()
	list := of(w.Agents(ctx, admin, "", 0)).ok(t)
	var names []string
	for _, a := range list.Agents {
		names = append(names, a.Principal)
		if a.ID != keys.AgentID(a.Principal) {
			t.Errorf("%+v", a)
		}
	}
	if want := []string{"jwt:corp:mallory", "jwt:corp:root", "jwt:corp:susan", "mtls:till-7"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if r := w.record(); r.Action != "list-agents" || r.Outcome != audit.OutcomeOK {
		t.Errorf("recorded as %+v", r)
	}
	root := of(w.Agent(ctx, admin, keys.AgentID(admin.Caller.ID))).ok(t)
	if !slices.Equal(root.Subscriptions, []string{"hidden", "payments"}) || len(root.Acks) != 2 || root.Acks[0].KeyID != "hidden.v1" || root.Acks[1].KeyID != "payments.v2" || root.LastSeenAt.IsZero() {
		t.Errorf("%+v", root)
	}
	// Keys that the caller may not see are not named.
	warden := as("warden", "wardens")
	if got := of(w.Agent(ctx, warden, keys.AgentID(admin.Caller.ID))).ok(t); len(got.Subscriptions) != 0 || len(got.Acks) != 0 || got.Principal != admin.Caller.ID {
		t.Errorf("%+v", got)
	}
	page := of(w.Agents(ctx, admin, "", 2)).ok(t)
	if len(page.Agents) != 2 || page.Next != "jwt:corp:root" {
		t.Errorf("%+v", page)
	}
	if page = of(w.Agents(ctx, admin, page.Next, 2)).ok(t); len(page.Agents) != 2 || page.Next != "" || page.Agents[0].Principal != "jwt:corp:susan" {
		t.Errorf("%+v", page)
	}
	of(w.Agents(ctx, admin, "", -1)).fails(t, keys.ErrInvalid)
	of(w.Agent(ctx, admin, keys.AgentID("mtls:nobody"))).fails(t, keys.ErrNotFound)
	for _, who := range []gateway.Request{alice, nobody, auditor} {
		w.news()
		of(w.Agents(ctx, who, "", 0)).fails(t, keys.ErrForbidden)
		of(w.Agent(ctx, who, keys.AgentID(admin.Caller.ID))).fails(t, keys.ErrForbidden)
		for _, r := range w.news() {
			if r.Outcome != audit.OutcomeDenied || r.Action != "list-agents" {
				t.Errorf("recorded as %+v", r)
			}
		}
	}
}

// Who authenticates is seen, by both identities.
func TestSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	creds := authz.Credentials{Token: w.issuer.Token(t, w.issuer.Claims("alice", w.now()))}
	if _, err := w.Authenticate(t.Context(), "r1", addr("192.0.2.3"), creds); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Authenticate(t.Context(), "r2", addr("192.0.2.3"), authz.Credentials{Token: "x"}); err == nil {
		t.Fatal("authenticated")
	}
	w.flush()
	agents, err := w.store.Agents(t.Context(), store.AgentFilter{})
	if err != nil || len(agents) != 1 || agents[0].Principal != "jwt:corp:alice" {
		t.Errorf("%+v, %v", agents, err)
	}
}
