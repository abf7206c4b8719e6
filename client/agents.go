package client

import (
	"context"
	"encoding/hex"
	"iter"
	"net/http"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// AgentsPage returns up to limit agents (0: the gateway's default) behind
// the principal after, in order of their principals.
func (c *Client) AgentsPage(ctx context.Context, after string, limit int) (api.AgentList, error) {
	return ask[api.AgentList](ctx, c, call{method: http.MethodGet, path: "/v1/admin/agents", query: page("after", after, limit)}, nil)
}

// Agents ranges over all agents that were seen, subscribed or blocked, in
// order of their principals, page by page. An error ends it.
func (c *Client) Agents(ctx context.Context) iter.Seq2[api.Agent, error] {
	return pages(func(after string) ([]api.Agent, string, error) {
		list, err := c.AgentsPage(ctx, after, 0)
		return list.Agents, list.Next, err
	})
}

// Agent describes one agent, by its principal or its id.
func (c *Client) Agent(ctx context.Context, who string) (api.Agent, error) {
	id, _, err := agentID(who)
	if err != nil {
		return api.Agent{}, err
	}
	return ask[api.Agent](ctx, c, call{method: http.MethodGet, path: "/v1/admin/agents/" + id}, nil)
}

// BlockAgent has every gateway refuse a principal at once, whatever its
// credentials say. who is its principal, which need never have been seen, or
// its id.
func (c *Client) BlockAgent(ctx context.Context, who, reason string) (api.Agent, error) {
	return c.onAgent(ctx, who, "/block", reason)
}

// UnblockAgent undoes BlockAgent.
func (c *Client) UnblockAgent(ctx context.Context, who, reason string) (api.Agent, error) {
	return c.onAgent(ctx, who, "/unblock", reason)
}

func (c *Client) onAgent(ctx context.Context, who, act, reason string) (api.Agent, error) {
	id, principal, err := agentID(who)
	if err != nil {
		return api.Agent{}, err
	}
	return change[api.Agent](ctx, c, http.MethodPost, "/v1/admin/agents/"+id+act, nil, api.BlockRequest{Principal: principal, Reason: reason})
}

// agentID returns the id of an agent, and its principal if that was given.
func agentID(who string) (id, principal string, err error) {
	if who == "" {
		return "", "", keys.Errorf(keys.ErrInvalid, "the agent is empty: name it by its principal, such as mtls:till-7, or by its id")
	}
	if b, err := hex.DecodeString(who); err == nil && len(b) == 16 && hex.EncodeToString(b) == who {
		return who, "", nil
	}
	return keys.AgentID(who), who, nil
}
