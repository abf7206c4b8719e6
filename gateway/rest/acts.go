package rest

import (
	"context"
	"net/http"

	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// named adapts an act on what a path parameter names.
func named[In, Out any](param string, act func(context.Context, gateway.Request, string, In) (Out, error)) func(*call) error {
	return changing(func(c *call, in In) (Out, error) { return act(c.ctx, c.req, c.vars[param], in) }, nil)
}

func destroy(c *call) error {
	var in api.DestroyRequest
	if err := c.decode(&in); err != nil {
		return err
	}
	n, err := c.version()
	if err != nil {
		return err
	}
	out, err := c.h.service.Destroy(c.ctx, c.req, c.vars["key"], n, in)
	if err != nil {
		return err
	}
	return c.approved(out)
}

// deleting gives an endpoint the query in place of a DestroyRequest: DELETE
// has no body that all in between would let pass.
func deleting(e endpoint) endpoint {
	e.query = []string{"reason", "force"}
	return e
}

func deleteKey(c *call) error {
	query := c.r.URL.Query()
	in := api.DestroyRequest{Reason: query.Get("reason")}
	if query.Has("force") {
		switch query.Get("force") {
		case "true":
			in.Force = true
		case "false":
		default:
			return c.refuse(keys.Errorf(keys.ErrInvalid, "\"force\" must be true or false"))
		}
	}
	if err := c.bodiless(); err != nil {
		return err
	}
	out, err := c.h.service.DeleteKey(c.ctx, c.req, c.vars["key"], in)
	if err != nil {
		return err
	}
	return c.approved(out)
}

func getUsage(c *call) error {
	out, err := c.h.service.Usage(c.ctx, c.req, c.vars["key"])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &out)
}

// maxPrincipal is longer than the name of any caller, in bytes.
const maxPrincipal = 1024

func listAgents(c *call) error {
	after, limit, err := c.page("after", func(s string) bool { return s != "" && len(s) <= maxPrincipal })
	if err != nil {
		return err
	}
	list, err := c.h.service.Agents(c.ctx, c.req, after, limit)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &list)
}

func getAgent(c *call) error {
	out, err := c.h.service.Agent(c.ctx, c.req, c.vars["id"])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &out)
}

func listApprovals(c *call) error {
	before, limit, err := c.page("before", isID)
	if err != nil {
		return err
	}
	query := c.r.URL.Query()
	state := query.Get("state")
	if query.Has("state") && state == "" {
		return c.refuse(keys.Errorf(keys.ErrInvalid, "\"state\" must be pending, approved, done, failed, rejected or expired"))
	}
	list, err := c.h.service.Approvals(c.ctx, c.req, state, before, limit)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &list)
}

func getApproval(c *call) error {
	out, err := c.h.service.Approval(c.ctx, c.req, c.vars["id"])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &out)
}

func listWebhooks(c *call) error {
	out, err := c.h.service.Webhooks(c.ctx, c.req)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &out)
}

func retryWebhook(c *call) error {
	if err := c.nothing(); err != nil {
		return err
	}
	out, err := c.h.service.RetryWebhook(c.ctx, c.req, c.vars["name"])
	if err != nil {
		return err
	}
	return c.changed(http.StatusOK, &out)
}
