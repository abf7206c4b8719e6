package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"keyhole/gateway/api"
)

// AuditPage returns one page of the audit log, newest first. A page may be
// empty and have a Next all the same: then so many records were looked
// through in vain.
func (c *Client) AuditPage(ctx context.Context, q api.AuditQuery) (api.AuditList, error) {
	query := url.Values{}
	for _, p := range []struct{ name, value string }{
		{"key", q.Key}, {"kid", q.KeyID}, {"principal", q.Principal}, {"action", q.Action}, {"outcome", q.Outcome}, {"request", q.RequestID},
	} {
		if p.value != "" {
			query.Set(p.name, p.value)
		}
	}
	for _, p := range []struct {
		name string
		at   api.Time
	}{{"since", q.Since}, {"until", q.Until}} {
		if !p.at.IsZero() {
			query.Set(p.name, p.at.UTC().Format(time.RFC3339Nano))
		}
	}
	if q.Before != 0 {
		query.Set("before", strconv.FormatUint(q.Before, 10))
	}
	if q.Limit != 0 {
		query.Set("limit", strconv.Itoa(q.Limit))
	}
	return ask[api.AuditList](ctx, c, call{method: http.MethodGet, path: "/v1/admin/audit", query: query}, nil)
}

// AuditRecords ranges over the records of the audit log that q means, newest
// first, page by page. q.Limit is that of a page. An error ends it.
func (c *Client) AuditRecords(ctx context.Context, q api.AuditQuery) iter.Seq2[api.AuditRecord, error] {
	return pages(func(cursor string) ([]api.AuditRecord, string, error) {
		if cursor != "" {
			before, err := strconv.ParseUint(cursor, 10, 64)
			if err != nil {
				return nil, "", err
			}
			q.Before = before
		}
		list, err := c.AuditPage(ctx, q)
		if err != nil || list.Next == 0 {
			return list.Records, "", err
		}
		return list.Records, strconv.FormatUint(list.Next, 10), nil
	})
}

// AuditCheckpoint returns the last checkpoint of the audit log, a signed
// note; with fresh the log is signed as it is now.
func (c *Client) AuditCheckpoint(ctx context.Context, fresh bool) ([]byte, error) {
	in := call{method: http.MethodGet, path: "/v1/admin/audit/checkpoint", media: api.TypeText}
	if fresh {
		in.query = url.Values{"fresh": {"true"}}
	}
	return c.document(ctx, in)
}

// AuditProof returns a file that proves by the public audit keys alone that
// the record seq is in the audit log. While no checkpoint vouches for it, it
// is keys.ErrNotFound: ask for a fresh one first.
func (c *Client) AuditProof(ctx context.Context, seq uint64) ([]byte, error) {
	return c.document(ctx, call{method: http.MethodGet, path: "/v1/admin/audit/proof/" + strconv.FormatUint(seq, 10), media: api.TypeText})
}

// AuditKeys returns the file of the public audit keys. Nothing vouches for it
// but TLS: keep the file that you once had from somebody you trust.
func (c *Client) AuditKeys(ctx context.Context) ([]byte, error) {
	return c.document(ctx, call{method: http.MethodGet, path: "/v1/audit-keys.pem", media: api.TypePEM})
}

func (c *Client) document(ctx context.Context, in call) ([]byte, error) {
	a, err := c.do(ctx, in)
	if err != nil {
		return nil, err
	}
	return a.body, nil
}
