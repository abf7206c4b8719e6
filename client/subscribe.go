package client

import (
	"context"
	"net/http"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// Subscribe has the caller counted in a key's acknowledgements from now on.
// To subscribe again changes nothing. The answer tells which versions wait
// for the caller's acknowledgement.
func (c *Client) Subscribe(ctx context.Context, key string) (api.Subscription, error) {
	return subscription[api.Subscription](ctx, c, http.MethodPut, key)
}

// Unsubscribe undoes Subscribe: no rotation waits for the caller any more.
// It is no error if there is no subscription.
func (c *Client) Unsubscribe(ctx context.Context, key string) error {
	_, err := subscription[struct{}](ctx, c, http.MethodDelete, key)
	return err
}

// Subscriptions lists the caller's subscriptions, in order of their keys.
func (c *Client) Subscriptions(ctx context.Context) (api.SubscriptionList, error) {
	return ask[api.SubscriptionList](ctx, c, call{method: http.MethodGet, path: "/v1/subscriptions"}, nil)
}

func subscription[Out any](ctx context.Context, c *Client, method, key string) (Out, error) {
	if err := keys.CheckName(key); err != nil {
		var none Out
		return none, err
	}
	return ask[Out](ctx, c, call{method: method, path: "/v1/subscriptions/" + key}, nil)
}

// Acknowledge says that the caller has a version. To say it again changes
// nothing. Errors: keys.ErrNotSubscribed, keys.ErrVersionState (it was never
// announced, or is gone), keys.ErrVersionNotFound.
func (c *Client) Acknowledge(ctx context.Context, id keys.VersionID) (api.Ack, error) {
	if err := keys.CheckName(id.Key); err != nil {
		return api.Ack{}, err
	}
	return ask[api.Ack](ctx, c, call{method: http.MethodPost, path: "/v1/keys/" + id.Key + versionPath(id) + "/ack"}, nil)
}
