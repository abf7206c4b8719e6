package client_test

import (
	"context"
	"net/http"
	"slices"
	"testing"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// The calls about the life of keys send what the contract asks for, acts
// under an Idempotency-Key each.
func TestLifeCycleCalls(t *testing.T) {
	t.Parallel()
	v3 := keys.VersionID{Key: "payments", Number: 3}
	till := keys.AgentID("mtls:till/7")
	sends(t, []sent{
		{`POST /v1/admin/rotations/01JABC/activate {"reason":"why"} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.ActivateRotation(ctx, "01JABC", api.RotationActRequest{Reason: "why"})
		}},
		{`POST /v1/admin/rotations/01JABC/abort {} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.AbortRotation(ctx, "01JABC", api.RotationActRequest{})
		}},
		{`POST /v1/admin/keys/payments/versions/3/destroy {"reason":"why","force":true} +`, `{"approval":{}}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Destroy(ctx, v3, api.DestroyRequest{Reason: "why", Force: true})
		}},
		{`POST /v1/admin/keys/payments/versions/3/restore {} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Restore(ctx, v3, api.VersionActRequest{})
		}},
		{`DELETE /v1/admin/keys/payments?force=true&reason=a+%26+b  +`, `{"key":{}}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.DeleteKey(ctx, "payments", api.DestroyRequest{Reason: "a & b", Force: true})
		}},
		{`DELETE /v1/admin/keys/payments  +`, `{"key":{}}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.DeleteKey(ctx, "payments", api.DestroyRequest{})
		}},
		{`POST /v1/admin/keys/payments/restore {"reason":"why"} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.RestoreKey(ctx, "payments", api.VersionActRequest{Reason: "why"})
		}},
		{`GET /v1/admin/keys/payments/usage `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Usage(ctx, "payments") }},
		{`GET /v1/admin/agents?after=mtls%3Aa&limit=3 `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.AgentsPage(ctx, "mtls:a", 3) }},
		{`GET /v1/admin/agents/` + till + ` `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Agent(ctx, "mtls:till/7") }},
		{`GET /v1/admin/agents/` + till + ` `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Agent(ctx, till) }},
		{`POST /v1/admin/agents/` + till + `/block {"principal":"mtls:till/7","reason":"why"} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.BlockAgent(ctx, "mtls:till/7", "why")
		}},
		{`POST /v1/admin/agents/` + till + `/unblock {} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.UnblockAgent(ctx, till, "") }},
		{`GET /v1/admin/approvals?before=01&limit=2&state=pending `, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.ApprovalsPage(ctx, keys.ApprovalPending, "01", 2)
		}},
		{`GET /v1/admin/approvals/01JABC `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Approval(ctx, "01JABC") }},
		{`POST /v1/admin/approvals/01JABC/approve {"reason":"why"} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Approve(ctx, "01JABC", api.DecisionRequest{Reason: "why"})
		}},
		{`POST /v1/admin/approvals/01JABC/reject {} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Reject(ctx, "01JABC", api.DecisionRequest{})
		}},
		{`POST /v1/admin/triggers/siem.alert {"note":"why"} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Trigger(ctx, "siem.alert", api.TriggerRequest{Note: "why"})
		}},
		{`POST /v1/admin/reconcile {"dry_run":true} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) {
			return c.Reconcile(ctx, api.ReconcileRequest{DryRun: true})
		}},
		{`GET /v1/admin/nodes `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Nodes(ctx) }},
		{`GET /v1/admin/webhooks `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Webhooks(ctx) }},
		{`POST /v1/admin/webhooks/siem/retry {} +`, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.RetryWebhook(ctx, "siem") }},
		{`PUT /v1/subscriptions/payments `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Subscribe(ctx, "payments") }},
		{`DELETE /v1/subscriptions/payments `, ``, func(ctx context.Context, c *client.Client) (any, error) { return nil, c.Unsubscribe(ctx, "payments") }},
		{`GET /v1/subscriptions `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Subscriptions(ctx) }},
		{`POST /v1/keys/payments/versions/3/ack `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Acknowledge(ctx, v3) }},
		{`GET /v1/status.json `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Status(ctx, "") }},
		{`GET /v1/keys/payments/status.json `, `{}`, func(ctx context.Context, c *client.Client) (any, error) { return c.Status(ctx, "payments") }},
	})
}

// The ranges over agents and approvals go on from page to page.
func TestMorePages(t *testing.T) {
	t.Parallel()
	var asked []string
	answers := map[string]any{
		"/v1/admin/agents":                            api.AgentList{Agents: []api.Agent{{Principal: "a"}}, Next: "a"},
		"/v1/admin/agents?after=a":                    api.AgentList{Agents: []api.Agent{{Principal: "b"}}},
		"/v1/admin/approvals?state=pending":           api.ApprovalList{Approvals: []api.Approval{{ID: "02"}}, Next: "02"},
		"/v1/admin/approvals?before=02&state=pending": api.ApprovalList{Approvals: []api.Approval{{ID: "01"}}},
	}
	s, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RequestURI())
		reply(w, 200, answers[r.URL.RequestURI()])
	})
	c := connect(t, s, ca)
	var got []string
	for a, err := range c.Agents(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.Principal)
	}
	for a, err := range c.Approvals(t.Context(), keys.ApprovalPending) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.ID)
	}
	if want := []string{"a", "b", "02", "01"}; !slices.Equal(got, want) || len(asked) != len(answers) {
		t.Errorf("%v over %v, want %v", got, asked, want)
	}
}
