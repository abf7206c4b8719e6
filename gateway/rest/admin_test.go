package rest_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/store"
)

func TestAdminPlane(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	res := admin.post("/v1/admin/keys", `{"name":"ledger","algorithm":"EdDSA","description":"signs the ledger","tags":{"team":"pay"},"policy":{"period":"720h"}}`).want(201)
	k := read[api.Key](res)
	if k.Name != "ledger" || k.ActiveVersion != 1 || k.Policy.Period.Std() != 720*time.Hour || k.Tags["team"] != "pay" || res.header.Get("Location") != "/v1/keys/ledger" {
		t.Errorf("created %+v at %q", k, res.header.Get("Location"))
	}
	if recs := s.recorded(t, res); len(recs) != 2 || recs[0].Outcome != audit.OutcomeIntent || recs[1].Outcome != audit.OutcomeOK || recs[1].Action != "create-key" {
		t.Errorf("recorded %+v", recs)
	}
	admin.post("/v1/admin/keys", `{"name":"ledger","algorithm":"EdDSA"}`).refused(409, "key_exists")
	for body, code := range map[string]string{
		`{"name":"Ledger","algorithm":"EdDSA"}`: "invalid_argument", `{"algorithm":"EdDSA"}`: "invalid_argument", `{"name":"x"}`: "invalid_argument", `{"name":"x","algorithm":"none"}`: "invalid_argument",
		`{"name":"x","algorithm":"RS256","bits":1024}`: "invalid_argument", `{"name":"keyhole-x","algorithm":"ES256"}`: "invalid_argument", `{"name":"x","algorithm":"ES256","token":"other"}`: "invalid_argument",
		`{"name":"x","algorithm":"ES256","policy":{"period":"1m"}}`: "invalid_argument",
	} {
		admin.post("/v1/admin/keys", body).refused(422, code)
	}

	patched := read[api.Key](admin.do("PATCH", "/v1/admin/keys/ledger", strings.NewReader(`{"description":"","policy":{"period":"0s"}}`)).want(200))
	if patched.Description != "" || patched.Policy.Period != 0 || patched.Tags["team"] != "pay" {
		t.Errorf("patched %+v", patched)
	}
	admin.do("PATCH", "/v1/admin/keys/ledger", strings.NewReader(`{"epoch":1,"description":"late"}`)).refused(409, "conflict")

	res = admin.post("/v1/admin/keys/ledger/rotate", `{"reason":"personnel-change"}`).want(202)
	r := read[api.Rotation](res)
	if r.From != 1 || r.To != 2 || r.Phase != "completed" || res.header.Get("Location") != "/v1/admin/rotations/"+r.ID || r.RequestID != res.header.Get("X-Request-Id") {
		t.Errorf("rotated %+v at %q", r, res.header.Get("Location"))
	}
	if again := read[api.Rotation](admin.get("/v1/admin/rotations/" + r.ID).want(200)); again != r {
		t.Errorf("%+v, and later %+v", r, again)
	}
	if list := read[api.RotationList](admin.get("/v1/admin/rotations?key=ledger&limit=1").want(200)); len(list.Rotations) != 1 || list.Rotations[0] != r || list.Next == "" {
		t.Errorf("listed %+v", list)
	}
	admin.get("/v1/admin/rotations/01ARZ3NDEKTSV4RRFFQ69G5FAV").refused(404, "not_found")
	admin.post("/v1/admin/keys/ledger/rotate", `{"reason":"initial"}`).refused(422, "invalid_argument")
	admin.post("/v1/admin/keys/ledger/rotate", `{"algorithm":"A256GCM"}`).refused(422, "wrong_purpose")

	act := func(version, act string) *response {
		return admin.post("/v1/admin/keys/ledger/versions/"+version+"/"+act, `{"reason":"a test"}`)
	}
	if k := read[api.Key](act("2", "suspend").want(200)); k.ActiveVersion != 1 || k.Versions[0].State != "suspended" {
		t.Errorf("suspended %+v", k)
	}
	act("2", "suspend").refused(409, "version_state")
	if k := read[api.Key](act("2", "resume").want(200)); k.ActiveVersion != 2 {
		t.Errorf("resumed %+v", k)
	}
	act("1", "suspend").want(200)
	act("2", "suspend").want(200)
	admin.post("/v1/keys/ledger/sign", `{"payload":""}`).refused(409, "no_active_version")
	act("2", "resume").want(200)
	if k := read[api.Key](act("2", "revoke").want(200)); k.ActiveVersion != 3 || k.Versions[1].State != "compromised" || k.Versions[1].RevokeReason != "a test" {
		t.Errorf("revoked %+v", k)
	}
	act("2", "resume").refused(409, "version_state")
	act("9", "revoke").refused(404, "version_not_found")
	act("4294967295", "revoke").refused(404, "version_not_found")
	act("4294967296", "revoke").refused(404, "version_not_found")
	act("9999999999", "revoke").refused(404, "version_not_found")
}

// twice sends the same request again, which must be answered alike.
func twice(t *testing.T, c *caller, method, path, body string, status int) {
	t.Helper()
	send := func() *response {
		if body == "" {
			return c.do(method, path, nil).want(status)
		}
		return c.do(method, path, strings.NewReader(body)).want(status)
	}
	first := send()
	if first.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("%s: replayed at once", first.what)
	}
	again := send()
	if again.header.Get("Idempotency-Replayed") != "true" || string(again.body) != string(first.body) || again.header.Get("Location") != first.header.Get("Location") {
		t.Errorf("%s: %s, then %s (%v)", first.what, first.body, again.body, again.header)
	}
	recs := c.s.recorded(t, again)
	if len(recs) != 1 || recs[0].Reason != "replayed" || recs[0].Details["first_request"] != first.header.Get("X-Request-Id") {
		t.Errorf("%s: recorded %+v", first.what, recs)
	}
}

func TestIdempotentActsAreDoneOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	for i, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v1/admin/keys", `{"name":"once","algorithm":"ES256"}`, 201},
		{"POST", "/v1/admin/keys/once/rotate", `{}`, 202},
		{"PATCH", "/v1/admin/keys/once", `{"description":"x","epoch":4}`, 200},
		{"POST", "/v1/admin/keys/once/versions/2/suspend", `{}`, 200},
		{"POST", "/v1/admin/keys/once/versions/2/resume", `{}`, 200},
		{"POST", "/v1/admin/keys/once/versions/2/revoke", `{}`, 200},
	} {
		twice(t, admin.set("Idempotency-Key", "key-"+strings.Repeat("~", i)), tt.method, tt.path, tt.body, tt.status)
	}
	if k := read[api.Key](admin.get("/v1/keys/once").want(200)); len(k.Versions) != 3 {
		t.Errorf("%d versions", len(k.Versions))
	}
	// Each principal has its own keys, and the answers survive a restart.
	claims := s.issuer.Claims("boss", time.Now())
	claims["groups"] = []string{"admins"}
	boss := s.nobody(t).set("Authorization", "Bearer "+s.issuer.Token(t, claims)).set("Idempotency-Key", "key-~")
	boss.post("/v1/admin/keys/once/rotate", `{}`).want(202)
	after := s.serve(t).as(t, "admin").set("Idempotency-Key", "key-~")
	if res := after.post("/v1/admin/keys/once/rotate", `{}`).want(202); res.header.Get("Idempotency-Replayed") != "true" || read[api.Rotation](res).To != 2 {
		t.Errorf("after a restart: %s", res.body)
	}
}

// So is everything else that administrators do, also what waits for another
// person.
func TestOtherIdempotentActsAreDoneOnce(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) {
		k.gateway.Triggers = map[string]gateway.Trigger{"deploy": {Keys: []string{"orders"}, Reason: keys.ReasonDeployment}}
	})
	admin, boss := s.as(t, "admin"), s.as(t, "boss")
	n := 0
	once := func(c *caller, method, path, body string, status int) {
		t.Helper()
		n++
		twice(t, c.set("Idempotency-Key", strings.Repeat("~", n)), method, path, body, status)
	}
	admin.rotate("payments")
	once(admin, "POST", "/v1/admin/keys/payments/versions/1/destroy", `{"reason":"a"}`, 202)
	list := func() []api.Approval {
		return read[api.ApprovalList](admin.get("/v1/admin/approvals").want(200)).Approvals
	}
	once(boss, "POST", "/v1/admin/approvals/"+list()[0].ID+"/approve", `{}`, 200)
	once(admin, "POST", "/v1/admin/keys/payments/versions/1/restore", `{}`, 200)
	once(admin, "DELETE", "/v1/admin/keys/payments?reason=b", "", 202)
	admin.set("Idempotency-Key", strings.Repeat("~", n)).delete("/v1/admin/keys/payments?reason=c").refused(422, "invalid_argument")
	once(boss, "POST", "/v1/admin/approvals/"+list()[0].ID+"/reject", `{}`, 200)
	r := read[api.Rotation](admin.post("/v1/admin/keys/payments/rotate", `{"announce":"1h"}`).want(202))
	once(admin, "POST", "/v1/admin/rotations/"+r.ID+"/activate", `{}`, 200)
	r = read[api.Rotation](admin.post("/v1/admin/keys/payments/rotate", `{"announce":"1h"}`).want(202))
	once(admin, "POST", "/v1/admin/rotations/"+r.ID+"/abort", `{}`, 200)
	once(admin, "POST", "/v1/admin/triggers/deploy", `{}`, 202)
	once(admin, "POST", "/v1/admin/reconcile", `{}`, 200)
	agent := "/v1/admin/agents/" + keys.AgentID("mtls:x")
	once(admin, "POST", agent+"/block", `{"principal":"mtls:x"}`, 200)
	once(admin, "POST", agent+"/unblock", `{}`, 200)
	if k := read[api.Key](admin.get("/v1/keys/orders").want(200)); len(k.Versions) != 2 {
		t.Errorf("%d versions", len(k.Versions))
	}
}

func TestIdempotencyKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	for _, key := range []string{"", " ", "a b", strings.Repeat("x", 256), "ä"} {
		admin.set("Idempotency-Key", key).post("/v1/admin/keys/payments/rotate", `{}`).refused(422, "invalid_argument")
	}
	admin.set("Idempotency-Key", "a").set("Idempotency-Key", "b").post("/v1/admin/keys/payments/rotate", `{}`).refused(400, "malformed_request")
	k := admin.set("Idempotency-Key", strings.Repeat("x", 255))
	k.post("/v1/admin/keys/payments/rotate", `{}`).want(202)
	for _, res := range []*response{
		k.post("/v1/admin/keys/payments/rotate", `{ }`), k.post("/v1/admin/keys/orders/rotate", `{}`), k.do("PATCH", "/v1/admin/keys/payments", strings.NewReader(`{}`)),
		k.post("/v1/admin/keys", `{"name":"x","algorithm":"ES256"}`),
	} {
		res.refused(422, "invalid_argument")
	}
	if key := read[api.Key](admin.get("/v1/keys/payments").want(200)); len(key.Versions) != 2 {
		t.Errorf("%d versions", len(key.Versions))
	}
	k.post("/v1/keys/payments/sign", `{"payload":""}`).want(200) // means nothing there
}

func TestRefusalsAreNotRemembered(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin").set("Idempotency-Key", "k")
	resume := func() *response { return admin.post("/v1/admin/keys/payments/versions/1/resume", `{}`) }
	resume().refused(409, "version_state")
	s.as(t, "admin").post("/v1/admin/keys/payments/versions/1/suspend", `{}`).want(200)
	if res := resume().want(200); res.header.Get("Idempotency-Replayed") != "" {
		t.Error("replayed")
	}
	// Who may not act leaves nothing in the store.
	s.as(t, "agent").set("Idempotency-Key", "k").post("/v1/admin/keys/payments/rotate", `{}`).refused(403, "forbidden")
	if n, err := s.store.ExpireAttempts(t.Context(), time.Now().Add(time.Hour)); err != nil || n != 1 {
		t.Errorf("%d attempts are remembered, %v; want that of the admin", n, err)
	}
}

func TestIdempotentRequestsAtTheSameTime(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin").set("Idempotency-Key", "k")
	entered, release := s.hsm.Block(hsmtest.Generate, 1)
	defer release()
	var wg sync.WaitGroup
	wg.Go(func() { admin.post("/v1/admin/keys/payments/rotate", `{}`).want(202) })
	<-entered
	admin.post("/v1/admin/keys/payments/rotate", `{}`).refused(409, "conflict")
	admin.post("/v1/admin/keys/payments/rotate", `{"reason":"manual"}`).refused(422, "invalid_argument")
	release()
	wg.Wait()
	if res := admin.post("/v1/admin/keys/payments/rotate", `{}`).want(202); res.header.Get("Idempotency-Replayed") != "true" {
		t.Error("not replayed")
	}
	if n := s.hsm.Calls(hsmtest.Generate); n != 4 {
		t.Errorf("%d versions were generated for 3 keys and one rotation", n)
	}
}

func TestOldAttemptsAreForgotten(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin").set("Idempotency-Key", "k")
	admin.post("/v1/admin/keys/payments/rotate", `{}`).want(202)
	k := s.kit
	k.gateway.Now = func() time.Time { return time.Now().Add(gateway.AttemptLife - time.Minute) }
	if res := k.serve(t).as(t, "admin").set("Idempotency-Key", "k").post("/v1/admin/keys/payments/rotate", `{}`).want(202); read[api.Rotation](res).To != 2 {
		t.Errorf("a day later, nearly: %s", res.body)
	}
	k.gateway.Now = func() time.Time { return time.Now().Add(gateway.AttemptLife + time.Minute) }
	late := k.serve(t)
	if res := late.as(t, "admin").set("Idempotency-Key", "k").post("/v1/admin/keys/payments/rotate", `{}`).want(202); read[api.Rotation](res).To != 3 {
		t.Errorf("a day later: %s", res.body)
	}
	k.gateway.Now = func() time.Time { return time.Now().Add(3 * gateway.AttemptLife) }
	if n, err := gateway.New(k.gateway).ExpireAttempts(t.Context()); err != nil || n != 1 {
		t.Errorf("%d expired, %v", n, err)
	}
}

// The process dies behind the act and before the answer is kept. The retry
// is answered, and nothing is done twice.
func TestRetryAfterACrashBehindTheAct(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		prepare            string // an act before it
		method, path, body string
		status, versions   int
	}{
		"create":  {"", "POST", "/v1/admin/keys", `{"name":"fresh","algorithm":"ES256"}`, 201, 1},
		"rotate":  {"", "POST", "/v1/admin/keys/payments/rotate", `{}`, 202, 2},
		"update":  {"", "PATCH", "/v1/admin/keys/payments", `{"description":"new","tags":{"a":"b"},"policy":{"period":"1h"},"epoch":2}`, 200, 1},
		"suspend": {"", "POST", "/v1/admin/keys/payments/versions/1/suspend", `{}`, 200, 1},
		"resume":  {"suspend", "POST", "/v1/admin/keys/payments/versions/1/resume", `{}`, 200, 1},
		"revoke":  {"", "POST", "/v1/admin/keys/payments/versions/1/revoke", `{}`, 200, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			if tt.prepare != "" {
				s.as(t, "admin").post("/v1/admin/keys/payments/versions/1/"+tt.prepare, `{}`).want(200)
			}
			s.store.die(errors.New("the process died"))
			first := s.as(t, "admin").set("Idempotency-Key", "k").do(tt.method, tt.path, strings.NewReader(tt.body)).want(tt.status)
			s.store.die(nil)

			after := s.serve(t)
			admin := after.as(t, "admin").set("Idempotency-Key", "k")
			admin.do(tt.method, tt.path, strings.NewReader(tt.body+" ")).refused(422, "invalid_argument")
			again := admin.do(tt.method, tt.path, strings.NewReader(tt.body)).want(tt.status)
			if string(again.body) != string(first.body) {
				t.Errorf("%s, then %s", first.body, again.body)
			}
			recs := s.recorded(t, again)
			if len(recs) != 1 || recs[0].Reason != "resumed" || recs[0].Details["first_request"] != first.header.Get("X-Request-Id") {
				t.Errorf("recorded %+v", recs)
			}
			name := "payments"
			if tt.status == 201 {
				name = "fresh"
			}
			if k := read[api.Key](admin.get("/v1/keys/" + name).want(200)); len(k.Versions) != tt.versions {
				t.Errorf("%d versions, want %d", len(k.Versions), tt.versions)
			}
			if res := admin.do(tt.method, tt.path, strings.NewReader(tt.body)).want(tt.status); res.header.Get("Idempotency-Replayed") != "true" {
				t.Error("the answer was not kept this time")
			}
		})
	}
}

// The process dies in front of the act: the retry does it.
func TestRetryAfterACrashInFrontOfTheAct(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		prepare            string
		method, path, body string
		status             int
	}{
		"create":  {"", "POST", "/v1/admin/keys", `{"name":"fresh","algorithm":"ES256"}`, 201},
		"rotate":  {"", "POST", "/v1/admin/keys/payments/rotate", `{}`, 202},
		"update":  {"", "PATCH", "/v1/admin/keys/payments", `{"description":"new"}`, 200},
		"suspend": {"", "POST", "/v1/admin/keys/payments/versions/1/suspend", `{}`, 200},
		"resume":  {"suspend", "POST", "/v1/admin/keys/payments/versions/1/resume", `{}`, 200},
		"revoke":  {"", "POST", "/v1/admin/keys/payments/versions/1/revoke", `{}`, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			if tt.prepare != "" {
				s.as(t, "admin").post("/v1/admin/keys/payments/versions/1/"+tt.prepare, `{}`).want(200)
			}
			s.store.die(errors.New("the process died"))
			k := s.kit
			works := k.gateway.Lifecycle
			k.gateway.Lifecycle = nil // a fault in front of the act: the request panics
			s.serve(t).as(t, "admin").set("Idempotency-Key", "k").do(tt.method, tt.path, strings.NewReader(tt.body)).refused(500, "internal")
			k.gateway.Lifecycle = works
			s.store.die(nil)
			res := s.serve(t).as(t, "admin").set("Idempotency-Key", "k").do(tt.method, tt.path, strings.NewReader(tt.body)).want(tt.status)
			acts := 0
			for _, rec := range s.records(t) {
				if rec.Outcome == audit.OutcomeIntent && rec.RequestID != "" {
					acts++
				}
			}
			if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Reason != "resumed" || acts < 4 {
				t.Errorf("recorded %+v, %d intents", recs, acts)
			}
		})
	}
}

// A rotation whose outcome is not known yet keeps its key until it is.
func TestRetryOfWhatTheEngineFinishes(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin").set("Idempotency-Key", "k")
	// The store fails behind the generation: the rotation stays open.
	entered, release := s.hsm.Block(hsmtest.Generate, 1)
	defer release()
	rotate := func() *response { return admin.post("/v1/admin/keys/payments/rotate", `{}`) }
	var wg sync.WaitGroup
	wg.Go(func() { rotate().refused(503, "store_unavailable") })
	<-entered
	s.store.fail(true)
	release()
	wg.Wait()
	rotate().refused(409, "conflict")
	s.store.fail(false)
	must(t, s.engine.Recover(context.WithoutCancel(t.Context())))
	res := rotate().want(202)
	if r := read[api.Rotation](res); r.To != 2 || r.Phase != "completed" {
		t.Errorf("%+v", r)
	}
	if key := read[api.Key](admin.get("/v1/keys/payments").want(200)); len(key.Versions) != 2 {
		t.Errorf("%d versions", len(key.Versions))
	}
}

// A rotation that failed and was undone is tried again by the retry.
func TestRetryOfWhatWasUndone(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin").set("Idempotency-Key", "k")
	s.hsm.Fail(hsmtest.Generate, 1, hsmtest.Done, keys.ErrHSM)
	admin.post("/v1/admin/keys/payments/rotate", `{}`).refused(503, "hsm_unavailable")
	admin.post("/v1/admin/keys/payments/rotate", `{ }`).refused(422, "invalid_argument")
	res := admin.post("/v1/admin/keys/payments/rotate", `{}`).want(202)
	if r := read[api.Rotation](res); r.To != 3 {
		t.Errorf("%+v: number 2 never comes back", r)
	}
	s.hsm.Fail(hsmtest.Generate, 1, hsmtest.NotDone, keys.ErrHSM)
	create := s.as(t, "admin").set("Idempotency-Key", "c")
	create.post("/v1/admin/keys", `{"name":"fresh","algorithm":"ES256"}`).refused(503, "hsm_unavailable")
	create.post("/v1/admin/keys", `{"name":"fresh","algorithm":"ES256"}`).want(201)
	list, err := s.store.Rotations(t.Context(), store.RotationFilter{Key: "payments"})
	if err != nil || len(list) != 3 {
		t.Errorf("%d rotations, %v", len(list), err)
	}
}
