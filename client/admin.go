package client

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"strconv"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// CreateKey makes a key, generates its version 1 and activates it.
func (c *Client) CreateKey(ctx context.Context, req api.CreateKeyRequest) (api.Key, error) {
	return change[api.Key](ctx, c, http.MethodPost, "/v1/admin/keys", nil, req)
}

// UpdateKey changes what is set in req and leaves the rest. A policy that is
// set replaces the whole of the one before.
func (c *Client) UpdateKey(ctx context.Context, key string, req api.UpdateKeyRequest) (api.Key, error) {
	return onKey[api.Key](ctx, c, http.MethodPatch, key, "", req)
}

// DeleteKey orders the destruction of every version; the name is never free
// again. Until the key's DeleteAt RestoreKey undoes it. If the act needs a
// second person the answer holds the approval that it waits for, and nothing
// has happened yet. A version that was used lately makes it keys.ErrInUse
// unless req has Force.
func (c *Client) DeleteKey(ctx context.Context, key string, req api.DestroyRequest) (api.ActResult, error) {
	if err := keys.CheckName(key); err != nil {
		return api.ActResult{}, err
	}
	q := url.Values{}
	if req.Reason != "" {
		q.Set("reason", req.Reason)
	}
	if req.Force {
		q.Set("force", "true")
	}
	return change[api.ActResult](ctx, c, http.MethodDelete, "/v1/admin/keys/"+key, q, nil)
}

// RestoreKey undoes DeleteKey while there still is time.
func (c *Client) RestoreKey(ctx context.Context, key string, req api.VersionActRequest) (api.Key, error) {
	return onKey[api.Key](ctx, c, http.MethodPost, key, "/restore", req)
}

// Usage tells who used which version of a key, how much and when last, and
// what speaks against its destruction. After a crash of the gateway the
// figures may be too high, never too low.
func (c *Client) Usage(ctx context.Context, key string) (api.KeyUsage, error) {
	if err := keys.CheckName(key); err != nil {
		return api.KeyUsage{}, err
	}
	return ask[api.KeyUsage](ctx, c, call{method: http.MethodGet, path: "/v1/admin/keys/" + key + "/usage"}, nil)
}

// Suspend takes a version out of use until Resume.
func (c *Client) Suspend(ctx context.Context, id keys.VersionID, req api.VersionActRequest) (api.Key, error) {
	return onVersion[api.Key](ctx, c, id, "suspend", req)
}

// Resume undoes Suspend.
func (c *Client) Resume(ctx context.Context, id keys.VersionID, req api.VersionActRequest) (api.Key, error) {
	return onVersion[api.Key](ctx, c, id, "resume", req)
}

// Revoke declares a version compromised, for good.
func (c *Client) Revoke(ctx context.Context, id keys.VersionID, req api.VersionActRequest) (api.Key, error) {
	return onVersion[api.Key](ctx, c, id, "revoke", req)
}

// Destroy orders the destruction of a version that is not active: it is out
// of use at once, and can be restored until its DestroyAt. If the act needs
// a second person the answer holds the approval that it waits for, and
// nothing has happened yet. A version that was used lately makes it
// keys.ErrInUse unless req has Force.
func (c *Client) Destroy(ctx context.Context, id keys.VersionID, req api.DestroyRequest) (api.ActResult, error) {
	return onVersion[api.ActResult](ctx, c, id, "destroy", req)
}

// Restore undoes Destroy while there still is time.
func (c *Client) Restore(ctx context.Context, id keys.VersionID, req api.VersionActRequest) (api.Key, error) {
	return onVersion[api.Key](ctx, c, id, "restore", req)
}

func onVersion[Out any](ctx context.Context, c *Client, id keys.VersionID, act string, in any) (Out, error) {
	return onKey[Out](ctx, c, http.MethodPost, id.Key, versionPath(id)+"/"+act, in)
}

func versionPath(id keys.VersionID) string {
	return "/versions/" + strconv.FormatUint(uint64(id.Number), 10)
}

func onKey[Out any](ctx context.Context, c *Client, method, key, act string, in any) (Out, error) {
	if err := keys.CheckName(key); err != nil { // also keeps the path what it looks like
		var none Out
		return none, err
	}
	return change[Out](ctx, c, method, "/v1/admin/keys/"+key+act, nil, in)
}

// change sends an act under a fresh Idempotency-Key: retries within this one
// call act once.
func change[Out any](ctx context.Context, c *Client, method, path string, q url.Values, in any) (Out, error) {
	return ask[Out](ctx, c, call{method: method, path: path, query: q, key: rand.Text()}, in)
}
