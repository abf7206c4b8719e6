package client

import (
	"context"
	"iter"
	"net/http"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// ApprovalsPage returns up to limit approvals (0: the gateway's default),
// newest first, from before the id given, in one state or with "" in any.
func (c *Client) ApprovalsPage(ctx context.Context, state keys.ApprovalState, before string, limit int) (api.ApprovalList, error) {
	q := page("before", before, limit)
	if state != "" {
		q.Set("state", string(state))
	}
	return ask[api.ApprovalList](ctx, c, call{method: http.MethodGet, path: "/v1/admin/approvals", query: q}, nil)
}

// Approvals ranges over the approvals in one state, or with "" in any,
// newest first, page by page. An error ends it.
func (c *Client) Approvals(ctx context.Context, state keys.ApprovalState) iter.Seq2[api.Approval, error] {
	return pages(func(before string) ([]api.Approval, string, error) {
		list, err := c.ApprovalsPage(ctx, state, before, 0)
		return list.Approvals, list.Next, err
	})
}

// Approval describes one approval.
func (c *Client) Approval(ctx context.Context, id string) (api.Approval, error) {
	path, err := approvalPath(id)
	if err != nil {
		return api.Approval{}, err
	}
	return ask[api.Approval](ctx, c, call{method: http.MethodGet, path: path}, nil)
}

// Approve has the act done that another person asked for. Whoever asked for
// it is refused, by whatever credentials: keys.ErrForbidden.
func (c *Client) Approve(ctx context.Context, id string, req api.DecisionRequest) (api.Approval, error) {
	return c.decide(ctx, id, "/approve", req)
}

// Reject ends an approval without the act. Whoever asked for it may take it
// back like this.
func (c *Client) Reject(ctx context.Context, id string, req api.DecisionRequest) (api.Approval, error) {
	return c.decide(ctx, id, "/reject", req)
}

func (c *Client) decide(ctx context.Context, id, act string, req api.DecisionRequest) (api.Approval, error) {
	path, err := approvalPath(id)
	if err != nil {
		return api.Approval{}, err
	}
	return change[api.Approval](ctx, c, http.MethodPost, path+act, nil, req)
}

func approvalPath(id string) (string, error) {
	if !plainID(id) {
		return "", keys.Errorf(keys.ErrInvalid, "that is no id of an approval; take one from the list of approvals")
	}
	return "/v1/admin/approvals/" + id, nil
}
