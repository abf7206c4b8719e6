package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// WhoAmI returns who the caller is to the gateway.
func (c *Client) WhoAmI(ctx context.Context) (api.WhoAmI, error) {
	return ask[api.WhoAmI](ctx, c, call{method: http.MethodGet, path: "/v1/whoami"}, nil)
}

// OpenAPI returns the gateway's own description of its API, OpenAPI in YAML.
func (c *Client) OpenAPI(ctx context.Context) (string, error) {
	a, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/openapi.yaml", media: "application/yaml"})
	if err != nil {
		return "", err
	}
	return string(a.body), nil
}

// Key describes one key. A key that the caller may not see is
// keys.ErrKeyNotFound like one that does not exist.
func (c *Client) Key(ctx context.Context, name string) (api.Key, error) {
	if err := keys.CheckName(name); err != nil {
		return api.Key{}, err
	}
	return ask[api.Key](ctx, c, call{method: http.MethodGet, path: "/v1/keys/" + name}, nil)
}

// KeysPage returns up to limit keys (0: the gateway's default) behind the
// name after, in order of their names.
func (c *Client) KeysPage(ctx context.Context, after string, limit int) (api.KeyList, error) {
	return ask[api.KeyList](ctx, c, call{method: http.MethodGet, path: "/v1/keys", query: page("after", after, limit)}, nil)
}

// Keys ranges over all keys that the caller may see, in order of their
// names, page by page. An error ends it.
func (c *Client) Keys(ctx context.Context) iter.Seq2[api.Key, error] {
	return pages(func(after string) ([]api.Key, string, error) {
		list, err := c.KeysPage(ctx, after, 0)
		return list.Keys, list.Next, err
	})
}

// JWKS returns the published public keys: of one key, or with "" of all that
// the caller may see. What the client has is sent as If-None-Match, so that
// polling costs little.
func (c *Client) JWKS(ctx context.Context, key string) (api.JWKS, error) {
	return published[api.JWKS](ctx, c, key, "jwks.json")
}

// Status tells what has become of each version that was ever published: of
// one key, or with "" of all that the caller may see. It stands beside the
// JWKS, from which versions are missing that may not be trusted any more.
// Polling costs little, as with JWKS.
func (c *Client) Status(ctx context.Context, key string) (api.StatusSet, error) {
	return published[api.StatusSet](ctx, c, key, "status.json")
}

// maxCached bounds the documents that a client remembers.
const maxCached = 256

// published reads one of the documents that change seldom.
func published[Out any](ctx context.Context, c *Client, key, name string) (Out, error) {
	var out Out
	in := call{method: http.MethodGet, path: "/v1/" + name}
	if key != "" {
		if err := keys.CheckName(key); err != nil {
			return out, err
		}
		in.path = "/v1/keys/" + key + "/" + name
	}
	c.mu.Lock()
	old, ok := c.cache[in.path]
	c.mu.Unlock()
	in.etag = old.etag
	a, err := c.do(ctx, in)
	switch {
	case err != nil:
		return out, err
	case ok && a.status == http.StatusNotModified:
		a.body = old.body
	}
	if err := json.Unmarshal(a.body, &out); err != nil {
		return out, fmt.Errorf("GET %s: %w", in.path, badAnswer(err))
	}
	if a.status == http.StatusNotModified {
		return out, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.cache, in.path)
	if a.etag != "" && len(c.cache) < maxCached {
		c.cache[in.path] = document{etag: a.etag, body: a.body}
	}
	return out, nil
}

func page(cursor, at string, limit int) url.Values {
	q := url.Values{}
	if at != "" {
		q.Set(cursor, at)
	}
	if limit != 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return q
}

// pages ranges over the items of all pages.
func pages[T any](fetch func(cursor string) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		seen := map[string]bool{}
		for cursor := ""; ; {
			items, next, err := fetch(cursor)
			if err == nil && seen[next] {
				err = keys.Errorf(keys.ErrInternal, "the gateway's pages go in a circle at %.60q", next)
			}
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			seen[next], cursor = true, next
		}
	}
}
