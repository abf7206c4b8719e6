package client

import (
	"context"
	"crypto/rand"
	"iter"
	"net/http"
	"strconv"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// CreateKey makes a key, generates its version 1 and activates it.
func (c *Client) CreateKey(ctx context.Context, req api.CreateKeyRequest) (api.Key, error) {
	return change[api.Key](ctx, c, http.MethodPost, "", "", req)
}

// UpdateKey changes what is set in req and leaves the rest.
func (c *Client) UpdateKey(ctx context.Context, key string, req api.UpdateKeyRequest) (api.Key, error) {
	return change[api.Key](ctx, c, http.MethodPatch, key, "", req)
}

// Rotate makes and activates the key's next version. While a rotation runs,
// another one is keys.ErrRotationRunning.
func (c *Client) Rotate(ctx context.Context, key string, req api.RotateRequest) (api.Rotation, error) {
	return change[api.Rotation](ctx, c, http.MethodPost, key, "/rotate", req)
}

// Suspend takes a version out of use until Resume.
func (c *Client) Suspend(ctx context.Context, id keys.VersionID, req api.VersionActRequest) (api.Key, error) {
	return c.versionAct(ctx, id, "suspend", req)
}

// Resume undoes Suspend.
func (c *Client) Resume(ctx context.Context, id keys.VersionID, req api.VersionActRequest) (api.Key, error) {
	return c.versionAct(ctx, id, "resume", req)
}

// Revoke declares a version compromised, for good.
func (c *Client) Revoke(ctx context.Context, id keys.VersionID, req api.VersionActRequest) (api.Key, error) {
	return c.versionAct(ctx, id, "revoke", req)
}

func (c *Client) versionAct(ctx context.Context, id keys.VersionID, act string, req api.VersionActRequest) (api.Key, error) {
	return change[api.Key](ctx, c, http.MethodPost, id.Key, "/versions/"+strconv.FormatUint(uint64(id.Number), 10)+"/"+act, req)
}

// Rotation describes one rotation.
func (c *Client) Rotation(ctx context.Context, id string) (api.Rotation, error) {
	for i := range len(id) {
		if ch := id[i]; ch < '0' || ch > '9' && ch < 'A' || ch > 'Z' && ch < 'a' || ch > 'z' {
			id = ""
			break
		}
	}
	if id == "" {
		return api.Rotation{}, keys.Errorf(keys.ErrInvalid, "that is no id of a rotation; take one from the list of rotations")
	}
	return ask[api.Rotation](ctx, c, call{method: http.MethodGet, path: "/v1/admin/rotations/" + id}, nil)
}

// RotationsPage returns up to limit rotations (0: the gateway's default),
// newest first, from before the id given, of one key or with "" of all.
func (c *Client) RotationsPage(ctx context.Context, key, before string, limit int) (api.RotationList, error) {
	q := page("before", before, limit)
	if key != "" {
		if err := keys.CheckName(key); err != nil {
			return api.RotationList{}, err
		}
		q.Set("key", key)
	}
	return ask[api.RotationList](ctx, c, call{method: http.MethodGet, path: "/v1/admin/rotations", query: q}, nil)
}

// Rotations ranges over the rotations of one key, or with "" of all that the
// caller may see, newest first, page by page. An error ends it.
func (c *Client) Rotations(ctx context.Context, key string) iter.Seq2[api.Rotation, error] {
	return pages(func(before string) ([]api.Rotation, string, error) {
		list, err := c.RotationsPage(ctx, key, before, 0)
		return list.Rotations, list.Next, err
	})
}

// change sends an act on keys under a fresh Idempotency-Key: retries within
// this one call act once.
func change[Out any](ctx context.Context, c *Client, method, key, act string, in any) (Out, error) {
	path := "/v1/admin/keys"
	if key != "" || act != "" || method == http.MethodPatch {
		if err := keys.CheckName(key); err != nil {
			var none Out
			return none, err
		}
		path += "/" + key + act
	}
	return ask[Out](ctx, c, call{method: method, path: path, key: rand.Text()}, in)
}
