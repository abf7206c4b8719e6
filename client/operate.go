package client

import (
	"context"
	"net/http"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// Trigger begins the rotations that a named trigger of the gateway's
// configuration stands for. The failure of one key is in its result and
// fails no other.
func (c *Client) Trigger(ctx context.Context, name string, req api.TriggerRequest) (api.TriggerResult, error) {
	if !configuredName(name) {
		return api.TriggerResult{}, keys.Errorf(keys.ErrInvalid, "that is no name of a trigger; the gateway's configuration names them")
	}
	return change[api.TriggerResult](ctx, c, http.MethodPost, "/v1/admin/triggers/"+name, nil, req)
}

// Reconcile compares the tokens with the store and, without DryRun, repairs
// what is safe to repair.
func (c *Client) Reconcile(ctx context.Context, req api.ReconcileRequest) (api.ReconcileReport, error) {
	return change[api.ReconcileReport](ctx, c, http.MethodPost, "/v1/admin/reconcile", nil, req)
}

// Webhooks tells where the delivery of events to the webhooks stands.
func (c *Client) Webhooks(ctx context.Context) (api.WebhookList, error) {
	return ask[api.WebhookList](ctx, c, call{method: http.MethodGet, path: "/v1/admin/webhooks"}, nil)
}

// RetryWebhook has a webhook's events delivered now, also those that were
// given up.
func (c *Client) RetryWebhook(ctx context.Context, name string) (api.Webhook, error) {
	if !configuredName(name) {
		return api.Webhook{}, keys.Errorf(keys.ErrInvalid, "that is no name of a webhook; the list of webhooks has them")
	}
	return change[api.Webhook](ctx, c, http.MethodPost, "/v1/admin/webhooks/"+name+"/retry", nil, struct{}{})
}

// Nodes lists the gateways that share the store of the one that answers.
func (c *Client) Nodes(ctx context.Context) (api.NodeList, error) {
	return ask[api.NodeList](ctx, c, call{method: http.MethodGet, path: "/v1/admin/nodes"}, nil)
}

// configuredName reports whether name can stand in a configuration, and in a
// path.
func configuredName(name string) bool {
	for i := range len(name) {
		ch := name[i]
		alnum := ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch >= '0' && ch <= '9'
		if !alnum && (i == 0 || ch != '-' && ch != '_' && ch != '.') {
			return false
		}
	}
	return name != "" && len(name) <= 64
}
