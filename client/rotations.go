package client

import (
	"context"
	"iter"
	"net/http"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// Rotate begins the rotation to the key's next version. Where nothing is
// waited for (no announcement, acknowledgements or coordinated moment, by
// the policy or req) the version is active when this returns; else the
// gateway goes on by itself, and Rotation tells how far it is. While a
// rotation runs, another one is keys.ErrRotationRunning.
func (c *Client) Rotate(ctx context.Context, key string, req api.RotateRequest) (api.Rotation, error) {
	return onKey[api.Rotation](ctx, c, http.MethodPost, key, "/rotate", req)
}

// Rotation describes one rotation: how far it is, who has acknowledged, and
// what happens next.
func (c *Client) Rotation(ctx context.Context, id string) (api.Rotation, error) {
	path, err := rotationPath(id)
	if err != nil {
		return api.Rotation{}, err
	}
	return ask[api.Rotation](ctx, c, call{method: http.MethodGet, path: path}, nil)
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

// ActivateRotation orders a rotation's switch now, whoever has not
// acknowledged. Behind the switch it is keys.ErrVersionState.
func (c *Client) ActivateRotation(ctx context.Context, id string, req api.RotationActRequest) (api.Rotation, error) {
	return c.onRotation(ctx, id, "/activate", req)
}

// AbortRotation gives a rotation up: the new version is destroyed, the old
// one stays active. Behind the switch it is keys.ErrVersionState.
func (c *Client) AbortRotation(ctx context.Context, id string, req api.RotationActRequest) (api.Rotation, error) {
	return c.onRotation(ctx, id, "/abort", req)
}

func (c *Client) onRotation(ctx context.Context, id, act string, req api.RotationActRequest) (api.Rotation, error) {
	path, err := rotationPath(id)
	if err != nil {
		return api.Rotation{}, err
	}
	return change[api.Rotation](ctx, c, http.MethodPost, path+act, nil, req)
}

func rotationPath(id string) (string, error) {
	if !plainID(id) {
		return "", keys.Errorf(keys.ErrInvalid, "that is no id of a rotation; take one from the list of rotations")
	}
	return "/v1/admin/rotations/" + id, nil
}

// plainID reports whether id can be the id of a rotation or an approval, and
// a part of a path.
func plainID(id string) bool {
	for i := range len(id) {
		if ch := id[i]; ch < '0' || ch > '9' && ch < 'A' || ch > 'Z' && ch < 'a' || ch > 'z' {
			return false
		}
	}
	return id != "" && len(id) <= 64
}
