package rest_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/webhook"
)

func (c *caller) put(path string) *response    { return c.do(http.MethodPut, path, nil) }
func (c *caller) delete(path string) *response { return c.do(http.MethodDelete, path, nil) }

func (c *caller) patch(path, body string) *response {
	return c.do(http.MethodPatch, path, strings.NewReader(body))
}

func TestRotationsAreFollowedForcedAndAborted(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	admin.patch("/v1/admin/keys/payments", `{"policy":{"period":"720h","announce":"1h"}}`).want(200)
	begun := read[api.Rotation](admin.post("/v1/admin/keys/payments/rotate", `{"note":"the yearly one"}`).want(202))
	if begun.Phase != "announced" || begun.Note != "the yearly one" || begun.AnnouncedAt.IsZero() || begun.Next == nil || begun.Next.Step != "schedule" || begun.Next.At.IsZero() {
		t.Errorf("begun: %+v", begun)
	}
	if k := read[api.Key](admin.get("/v1/keys/payments").want(200)); k.ActiveVersion != 1 || k.Rotation != begun.ID || k.Versions[0].State != "pre-activation" || k.NextRotation.IsZero() {
		t.Errorf("the key: %+v", k)
	}
	admin.post("/v1/admin/keys/payments/rotate", `{}`).refused(409, "rotation_running")
	path := "/v1/admin/rotations/" + begun.ID
	for _, act := range []string{"/activate", "/abort"} {
		s.as(t, "agent").post(path+act, `{}`).refused(404, "not_found")
		admin.post("/v1/admin/rotations/01ARZ3NDEKTSV4RRFFQ69G5FAV"+act, `{}`).refused(404, "not_found")
		admin.post(path+act, `{"reason":"`+strings.Repeat("x", 201)+`"}`).refused(422, "invalid_argument")
	}
	res := admin.post(path+"/activate", `{"reason":"it is urgent"}`).want(200)
	if r := read[api.Rotation](res); r.Phase != "completed" || r.ForcedBy != "jwt:corp:admin" {
		t.Errorf("forced: %+v", r)
	}
	if recs := s.recorded(t, res); len(recs) == 0 || recs[0].Outcome != audit.OutcomeIntent {
		t.Errorf("recorded %+v", recs)
	}
	admin.post(path+"/activate", `{}`).want(200) // it may be repeated
	admin.post(path+"/abort", `{}`).refused(409, "conflict")

	again := read[api.Rotation](admin.post("/v1/admin/keys/payments/rotate", `{"announce":"2h"}`).want(202))
	if r := read[api.Rotation](admin.post("/v1/admin/rotations/"+again.ID+"/abort", `{"reason":"not now"}`).want(200)); r.Phase != "aborted" || r.EndedBy != "jwt:corp:admin" {
		t.Errorf("aborted: %+v", r)
	}
	admin.post("/v1/admin/rotations/"+again.ID+"/activate", `{}`).refused(409, "conflict")
	if k := read[api.Key](admin.get("/v1/keys/payments").want(200)); k.ActiveVersion != 2 || k.Rotation != "" {
		t.Errorf("the key: %+v", k)
	}
	for _, body := range []string{
		`{"activate_at":"2020-01-01T00:00:00Z"}`, `{"announce":"-1h"}`, `{"reason":"compromise","announce":"1h"}`, `{"note":"` + strings.Repeat("x", 201) + `"}`,
	} {
		admin.post("/v1/admin/keys/payments/rotate", body).refused(422, "invalid_argument")
	}
	for _, body := range []string{`{"activate_at":"tomorrow"}`, `{"announce":60}`, `{"announce":"60"}`, `{"activate_at":null}`} {
		admin.post("/v1/admin/keys/payments/rotate", body).refused(400, "malformed_request")
	}
}

func TestPoliciesThatCannotWork(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	for _, policy := range []string{
		`{"period":"0s","announce":"2h","overlap":"1h"}`, `{"period":"2h","announce":"1h","acks":{"require":"all","timeout":"1h"}}`,
		`{"period":"0s","destroy_delay":"1h"}`, `{"period":"0s","schedule":"0 0 30 2 *"}`, `{"period":"0s","schedule":"hourly"}`, `{"period":"0s","acks":{"require":"some"}}`,
		`{"period":"0s","acks":{"require":"quorum","timeout":"1h"}}`, `{"period":"0s","after_overlap":"burn"}`,
	} {
		admin.patch("/v1/admin/keys/payments", `{"policy":`+policy+`}`).refused(422, "invalid_argument")
		admin.post("/v1/admin/keys", `{"name":"fresh","algorithm":"ES256","policy":`+policy+`}`).refused(422, "invalid_argument")
	}
	whole := `{"period":"720h0m0s","schedule":"0 3 1 * *","max_operations":1000000,"max_bytes":1000000000,"announce":"1h0m0s",` +
		`"acks":{"require":"quorum","quorum":60,"timeout":"2h0m0s","on_timeout":"activate","absent_after":"12h0m0s"},"overlap":"48h0m0s","after_overlap":"destroy","destroy_delay":"72h0m0s"}`
	if got := admin.patch("/v1/admin/keys/payments", `{"policy":`+whole+`}`).want(200); !strings.Contains(string(got.body), `"policy":`+whole) {
		t.Errorf("%s\nis not in %s", whole, got.body)
	}
}

func TestAgentsSubscribeAndAcknowledge(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin, agent := s.as(t, "admin"), s.as(t, "agent")
	admin.patch("/v1/admin/keys/payments", `{"policy":{"period":"0s","acks":{"require":"all","timeout":"1h"}}}`).want(200)
	agent.post("/v1/keys/payments/versions/1/ack", `{}`).refused(409, "not_subscribed")
	sub := read[api.Subscription](agent.put("/v1/subscriptions/payments").want(200))
	if sub.Key != "payments" || sub.Since.IsZero() || !slices.Equal(sub.Waiting, []uint32{1}) {
		t.Errorf("subscribed: %+v", sub)
	}
	if again := read[api.Subscription](agent.do("PUT", "/v1/subscriptions/payments", strings.NewReader(`{}`)).want(200)); !again.Since.Equal(sub.Since.Time) {
		t.Errorf("%+v, and again %+v", sub, again)
	}
	r := read[api.Rotation](admin.rotate("payments"))
	if r.Phase != "announced" || r.Acks == nil || !slices.Equal(r.Acks.Missing, []string{"jwt:corp:agent"}) || len(r.Acks.Acknowledged) != 0 {
		t.Errorf("begun: %+v, %+v", r, r.Acks)
	}
	list := read[api.SubscriptionList](agent.get("/v1/subscriptions").want(200))
	if len(list.Subscriptions) != 1 || !slices.Equal(list.Subscriptions[0].Waiting, []uint32{1, 2}) {
		t.Errorf("listed: %+v", list)
	}
	ack := read[api.Ack](agent.do("POST", "/v1/keys/payments/versions/2/ack", nil).want(200))
	if ack.KeyID != "payments.v2" || ack.AcknowledgedAt.IsZero() {
		t.Errorf("acknowledged: %+v", ack)
	}
	if again := read[api.Ack](agent.post("/v1/keys/payments/versions/2/ack", `{}`).want(200)); again != ack {
		t.Errorf("%+v, and again %+v", ack, again)
	}
	must(t, s.engine.Tick(t.Context()))
	r = read[api.Rotation](admin.get("/v1/admin/rotations/" + r.ID).want(200))
	if r.Phase != "completed" || len(r.Acks.Acknowledged) != 1 || r.Acks.Acknowledged[0].Principal != "jwt:corp:agent" {
		t.Errorf("in the end: %+v, %+v", r, r.Acks)
	}
	for path, code := range map[string]string{"payments/versions/9": "version_not_found", "payments/versions/4294967296": "version_not_found", "hidden/versions/1": "key_not_found", "nosuch/versions/1": "key_not_found"} {
		agent.post("/v1/keys/"+path+"/ack", `{}`).refused(404, code)
	}
	admin.post("/v1/admin/keys/payments/versions/1/revoke", `{}`).want(200)
	agent.post("/v1/keys/payments/versions/1/ack", `{}`).refused(409, "version_state")

	agent.put("/v1/subscriptions/hidden").refused(404, "key_not_found")
	s.with(t, "signer").put("/v1/subscriptions/payments").refused(404, "key_not_found")
	for range 2 {
		if res := agent.delete("/v1/subscriptions/payments").want(204); len(res.body) != 0 {
			t.Errorf("unsubscribed: %s", res.body)
		}
	}
	agent.delete("/v1/subscriptions/hidden").refused(404, "key_not_found")
	if list := read[api.SubscriptionList](agent.get("/v1/subscriptions").want(200)); len(list.Subscriptions) != 0 {
		t.Errorf("listed: %+v", list)
	}
}

func TestDestructionTakesTwo(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin, boss, agent := s.as(t, "admin"), s.as(t, "boss"), s.as(t, "agent")
	admin.rotate("payments")
	const destroy = "/v1/admin/keys/payments/versions/1/destroy"
	agent.post(destroy, `{}`).refused(403, "forbidden")
	admin.post("/v1/admin/keys/payments/versions/2/destroy", `{}`).refused(409, "version_state") // active
	admin.post("/v1/admin/keys/payments/versions/7/destroy", `{}`).refused(404, "version_not_found")
	admin.post("/v1/admin/keys/payments/versions/4294967296/destroy", `{}`).refused(404, "version_not_found")
	admin.post(destroy, `{"force":true}`).refused(422, "invalid_argument")
	res := admin.post(destroy, `{"reason":"no longer used"}`).want(202)
	asked := read[api.ActResult](res)
	if asked.Key != nil || asked.Approval == nil {
		t.Fatalf("asked: %+v", asked)
	}
	a, path := *asked.Approval, "/v1/admin/approvals/"+asked.Approval.ID
	if res.header.Get("Location") != path || a.State != "pending" || a.Action != "destroy" || a.Version != 1 || a.Reason != "no longer used" || !a.Mine || a.RequestedBy != "jwt:corp:admin" {
		t.Errorf("asked: %+v at %q", a, res.header.Get("Location"))
	}
	if got := read[api.Approval](boss.get(path).want(200)); got.Mine {
		t.Errorf("to the boss it is %+v", got)
	}
	if list := read[api.ApprovalList](boss.get("/v1/admin/approvals?state=pending").want(200)); len(list.Approvals) != 1 || list.Approvals[0].ID != a.ID {
		t.Errorf("listed: %+v", list)
	}
	agent.get(path).refused(403, "forbidden")
	admin.post(path+"/approve", `{}`).refused(403, "forbidden")
	agent.post(path+"/approve", `{}`).refused(403, "forbidden")
	boss.post("/v1/admin/approvals/01ARZ3NDEKTSV4RRFFQ69G5FAV/approve", `{}`).refused(404, "not_found")
	done := read[api.Approval](boss.post(path+"/approve", `{"reason":"checked"}`).want(200))
	if done.State != "done" || done.DecidedBy != "jwt:corp:boss" || done.Decision != "checked" {
		t.Errorf("approved: %+v", done)
	}
	if k := read[api.Key](admin.get("/v1/keys/payments").want(200)); k.Versions[1].State != "destroy-scheduled" || k.Versions[1].DestroyAt.IsZero() {
		t.Errorf("the version: %+v", k.Versions[1])
	}
	boss.post(path+"/approve", `{}`).refused(409, "conflict")
	boss.post(path+"/reject", `{}`).refused(409, "conflict")
	if k := read[api.Key](admin.post("/v1/admin/keys/payments/versions/1/restore", `{"reason":"still needed"}`).want(200)); k.Versions[1].State != "deactivated" {
		t.Errorf("restored: %+v", k.Versions[1])
	}
	admin.post("/v1/admin/keys/payments/versions/1/restore", `{}`).refused(409, "version_state")

	// What was used lately stays, unless it is forced.
	agent.post("/v1/keys/orders/encrypt", `{"plaintext":""}`).want(200)
	admin.rotate("orders")
	const used = "/v1/admin/keys/orders/versions/1/destroy"
	if d := admin.post(used, `{}`).refused(409, "version_in_use"); !strings.Contains(d, "jwt:corp:agent") {
		t.Errorf("the detail %q does not say who", d)
	}
	forced := read[api.ActResult](admin.post(used, `{"force":true,"reason":"a leak"}`).want(202))
	if forced.Approval == nil || !forced.Approval.Force {
		t.Fatalf("forced: %+v", forced)
	}
	if r := read[api.Approval](boss.post("/v1/admin/approvals/"+forced.Approval.ID+"/reject", `{"reason":"wait"}`).want(200)); r.State != "rejected" {
		t.Errorf("rejected: %+v", r)
	}
	if list := read[api.ApprovalList](admin.get("/v1/admin/approvals?limit=1").want(200)); len(list.Approvals) != 1 || list.Next == "" ||
		len(read[api.ApprovalList](admin.get("/v1/admin/approvals?before="+list.Next).want(200)).Approvals) != 1 {
		t.Errorf("a page: %+v", list)
	}
}

func TestKeysAreDeletedAndRestored(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		twoPeople []string
		status    int
	}{"two people": {nil, 202}, "one": {[]string{}, 200}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, func(k *kit) { k.gateway.TwoPeople = tt.twoPeople })
			admin := s.as(t, "admin")
			const key = "/v1/admin/keys/payments"
			for _, query := range []string{"?force=yes", "?force=", "?force=1", "?force=true", "?reason=" + strings.Repeat("x", 201), "?reason=%FF"} {
				admin.delete(key+query).refused(422, "invalid_argument")
			}
			admin.delete(key+"?reason=a&reason=b").refused(400, "malformed_request")
			s.as(t, "agent").delete(key).refused(403, "forbidden")
			admin.delete("/v1/admin/keys/nosuch").refused(404, "key_not_found")
			out := read[api.ActResult](admin.delete(key + "?force=false&reason=" + url.QueryEscape("out of use")).want(tt.status))
			if tt.status == 202 {
				done := read[api.Approval](s.as(t, "boss").post("/v1/admin/approvals/"+out.Approval.ID+"/approve", `{}`).want(200))
				if done.State != "done" || done.Reason != "out of use" || done.Action != "delete-key" {
					t.Errorf("approved: %+v", done)
				}
			} else if out.Key == nil || out.Key.DeleteAt.IsZero() {
				t.Errorf("deleted: %+v", out)
			}
			k := read[api.Key](admin.get("/v1/keys/payments").want(200))
			if k.DeleteAt.IsZero() || k.ActiveVersion != 0 {
				t.Errorf("the key: %+v", k)
			}
			if k = read[api.Key](admin.post(key+"/restore", `{"reason":"a mistake"}`).want(200)); !k.DeleteAt.IsZero() || k.ActiveVersion != 1 {
				t.Errorf("restored: %+v", k)
			}
			admin.post(key+"/restore", `{}`).refused(409, "version_state")
			if forced := read[api.ActResult](admin.delete(key + "?force=true&reason=x").want(202)); forced.Approval == nil || !forced.Approval.Force {
				t.Errorf("forced: %+v", forced)
			}
		})
	}
}

func TestWhoUsedWhat(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin, agent := s.as(t, "admin"), s.as(t, "agent")
	agent.post("/v1/keys/payments/sign", `{"payload":"YWJj"}`).want(200)
	admin.rotate("payments")
	u := read[api.KeyUsage](admin.get("/v1/admin/keys/payments/usage").want(200))
	if u.Key != "payments" || len(u.Versions) != 2 {
		t.Fatalf("%+v", u)
	}
	v := u.Versions[1]
	if v.KeyID != "payments.v1" || v.Applied != 1 || v.Operations != 1 || v.LastUsedAt.IsZero() || len(v.Agents) != 1 || v.Agents[0].Principal != "jwt:corp:agent" || v.SafeToDestroy.Safe || len(v.SafeToDestroy.Reasons) == 0 {
		t.Errorf("%+v", v)
	}
	agent.get("/v1/admin/keys/payments/usage").refused(403, "forbidden")
	agent.get("/v1/admin/keys/hidden/usage").refused(404, "key_not_found")
	admin.get("/v1/admin/keys/nosuch/usage").refused(404, "key_not_found")
}

func TestAgentsAreListedAndBlocked(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin, agent := s.as(t, "admin"), s.as(t, "agent")
	agent.put("/v1/subscriptions/payments").want(200)
	agent.post("/v1/keys/payments/versions/1/ack", `{}`).want(200)
	path := "/v1/admin/agents/" + keys.AgentID("jwt:corp:agent")
	eventually(t, "both are seen", func() bool {
		return len(read[api.AgentList](admin.get("/v1/admin/agents").want(200)).Agents) == 2
	})
	got := read[api.Agent](admin.get(path).want(200))
	if got.Principal != "jwt:corp:agent" || got.LastSeenAt.IsZero() || !slices.Equal(got.Subscriptions, []string{"payments"}) || len(got.Acks) != 1 || got.Acks[0].KeyID != "payments.v1" {
		t.Errorf("%+v", got)
	}
	page := read[api.AgentList](admin.get("/v1/admin/agents?limit=1").want(200))
	if len(page.Agents) != 1 || page.Next != "jwt:corp:admin" {
		t.Errorf("a page: %+v", page)
	}
	if rest := read[api.AgentList](admin.get("/v1/admin/agents?after=" + url.QueryEscape(page.Next)).want(200)); len(rest.Agents) != 1 || rest.Agents[0].Principal != got.Principal || rest.Next != "" {
		t.Errorf("the next page: %+v", rest)
	}
	agent.get("/v1/admin/agents").refused(403, "forbidden")
	agent.get(path).refused(403, "forbidden")
	admin.get("/v1/admin/agents/"+strings.Repeat("0", 32)).refused(404, "not_found")
	admin.get("/v1/admin/agents/"+strings.ToUpper(keys.AgentID("jwt:corp:agent"))).refused(404, "not_found")
	agent.post(path+"/block", `{}`).refused(403, "forbidden")
	admin.post(path+"/block", `{"principal":"jwt:corp:other"}`).refused(422, "invalid_argument")
	admin.post("/v1/admin/agents/"+keys.AgentID("mtls:never")+"/block", `{}`).refused(404, "not_found")
	if b := read[api.Agent](admin.post("/v1/admin/agents/"+keys.AgentID("mtls:never")+"/block", `{"principal":"mtls:never"}`).want(200)); b.BlockedAt.IsZero() || !b.LastSeenAt.IsZero() {
		t.Errorf("never seen: %+v", b)
	}
	if b := read[api.Agent](admin.post(path+"/block", `{"reason":"a leak"}`).want(200)); b.BlockedBy != "jwt:corp:admin" || b.BlockReason != "a leak" || b.BlockedAt.IsZero() {
		t.Errorf("blocked: %+v", b)
	}
	for _, res := range []*response{agent.post("/v1/keys/payments/sign", `{"payload":""}`), agent.get("/v1/whoami"), agent.get("/v1/events")} {
		if res.status != 401 && res.status != 403 {
			t.Errorf("blocked, and %s: %d", res.what, res.status)
		}
	}
	if b := read[api.Agent](admin.post(path+"/unblock", `{}`).want(200)); !b.BlockedAt.IsZero() {
		t.Errorf("unblocked: %+v", b)
	}
	agent.post("/v1/keys/payments/sign", `{"payload":""}`).want(200)
}

func TestTriggers(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) {
		k.gateway.Triggers = map[string]gateway.Trigger{
			"alarm": {Keys: []string{"payments", "nosuch", "hidden"}, Reason: keys.ReasonCompromise}, "deploy": {Keys: []string{"orders"}, Reason: keys.ReasonDeployment},
		}
	})
	siem := s.as(t, "siem")
	out := read[api.TriggerResult](siem.post("/v1/admin/triggers/alarm", `{"note":"alert 4711"}`).want(202))
	if out.Trigger != "alarm" || out.Reason != "compromise" || len(out.Results) != 3 {
		t.Fatalf("%+v", out)
	}
	for _, r := range out.Results {
		if r.Key == "nosuch" {
			if r.Error == nil || r.Error.Code != "key_not_found" || r.Rotation != nil {
				t.Errorf("%+v", r)
			}
		} else if r.Rotation == nil || r.Rotation.Phase != "completed" || r.Rotation.Reason != "compromise" || r.Error != nil {
			t.Errorf("%+v", r)
		}
	}
	siem.post("/v1/admin/triggers/deploy", `{}`).refused(403, "forbidden")
	siem.post("/v1/admin/triggers/nosuch", `{}`).refused(403, "forbidden") // it is not told which there are
	s.as(t, "admin").post("/v1/admin/triggers/nosuch", `{}`).refused(404, "not_found")
	siem.post("/v1/admin/triggers/alarm", `{"note":"`+strings.Repeat("x", 201)+`"}`).refused(422, "invalid_argument")
	siem.post("/v1/admin/keys/payments/rotate", `{}`).refused(404, "key_not_found")
}

func TestReconcile(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	for _, body := range []string{`{"dry_run":true}`, `{}`} {
		r := read[api.ReconcileReport](admin.post("/v1/admin/reconcile", body).want(200))
		if r.Versions != 3 || r.Objects < 3 || r.Findings == nil || len(r.Findings) != 0 || r.DryRun != strings.Contains(body, "true") {
			t.Errorf("%s: %+v", body, r)
		}
	}
	s.as(t, "agent").post("/v1/admin/reconcile", `{}`).refused(403, "forbidden")
}

// withHooks configures a webhook "chat".
func withHooks(t *testing.T) func(*kit) {
	return func(k *kit) {
		hooks, err := webhook.New(webhook.Config{
			Hooks: []webhook.Hook{{Name: "chat", URL: "https://chat.example/s3cr3t", SigningKey: "payments"}}, Store: k.store, Log: k.cfg.Log,
			Signer: webhook.Signer{Crypto: k.hsm, Snapshots: k.gateway.Snapshots, Audit: k.gateway.Audit, Usage: k.gateway.Usage},
		})
		must(t, err)
		must(t, hooks.Load(t.Context()))
		k.gateway.Webhooks = hooks
	}
}

func TestWebhooks(t *testing.T) {
	t.Parallel()
	s := start(t, withHooks(t))
	admin := s.as(t, "admin")
	admin.rotate("payments")
	list := read[api.WebhookList](admin.get("/v1/admin/webhooks").want(200))
	if len(list.Webhooks) != 1 || list.Webhooks[0].Name != "chat" || list.Webhooks[0].Host != "chat.example" || list.Webhooks[0].Pending == 0 || list.Webhooks[0].Dead == nil {
		t.Errorf("%+v", list)
	}
	if w := read[api.Webhook](admin.do("POST", "/v1/admin/webhooks/chat/retry", nil).want(200)); w.Name != "chat" {
		t.Errorf("%+v", w)
	}
	admin.post("/v1/admin/webhooks/nosuch/retry", `{}`).refused(404, "not_found")
	s.as(t, "agent").get("/v1/admin/webhooks").refused(403, "forbidden")
	s.as(t, "agent").post("/v1/admin/webhooks/chat/retry", `{}`).refused(403, "forbidden")
	none := start(t).as(t, "admin")
	if list := read[api.WebhookList](none.get("/v1/admin/webhooks").want(200)); len(list.Webhooks) != 0 {
		t.Errorf("none are configured: %+v", list)
	}
	none.post("/v1/admin/webhooks/chat/retry", `{}`).refused(404, "not_found")
}

func TestNodes(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) {
		k.gateway.Instance = "i-1"
		must(t, k.store.Beat(t.Context(), keys.Node{Instance: "i-1", Name: "one", Version: "v1"}, time.Hour))
		must(t, k.store.Beat(t.Context(), keys.Node{Instance: "i-2", Name: "two", Version: "v1"}, time.Microsecond))
	})
	list := read[api.NodeList](s.as(t, "admin").get("/v1/admin/nodes").want(200))
	if len(list.Nodes) != 2 || !list.Nodes[0].Self || !list.Nodes[0].Live || list.Nodes[0].Behind != list.Revision || list.Nodes[1].Self || list.Nodes[1].Live || list.Nodes[1].StoppedAt.IsZero() {
		t.Errorf("%+v", list)
	}
	s.as(t, "agent").get("/v1/admin/nodes").refused(403, "forbidden")
	s.as(t, "admin").get("/v1/admin/nodes?limit=1").refused(400, "malformed_request")
}
