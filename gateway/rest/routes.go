package rest

import (
	"fmt"
	"math"
	"net/http"
	"time"

	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// routes is the table of all endpoints. The router tries them in this order:
// the busiest come first.
func routes(s *gateway.Service) []endpoint {
	operate := func(name, action string, serve func(*call) error) endpoint {
		return endpoint{method: http.MethodPost, template: "/v1/keys/{key}/" + name, action: action, serve: serve}
	}
	batch := func(name, action string, serve func(*call) error) endpoint {
		e := operate(name+"/batch", action, serve)
		e.batch = true
		return e
	}
	get := func(template, action string, serve func(*call) error, query ...string) endpoint {
		return endpoint{method: http.MethodGet, template: template, action: action, query: query, serve: reading(serve)}
	}
	change := func(method, template, action string, status int, serve func(*call) error) endpoint {
		return endpoint{method: method, template: "/v1/admin/" + template, action: action, once: status, serve: serve}
	}
	act := func(template, action string, serve func(*call) error) endpoint {
		return change(http.MethodPost, template, action, http.StatusOK, serve)
	}
	streaming := func(repeated string, e endpoint) endpoint {
		e.stream, e.repeated = true, repeated
		return e
	}
	open := func(a access, e endpoint) endpoint {
		e.access = a
		return e
	}
	const version = "keys/{key}/versions/{version}/"
	return []endpoint{
		operate("sign", authz.ActionSign, onKey(s.Sign)),
		operate("verify", authz.ActionVerify, onKey(s.Verify)),
		operate("encrypt", authz.ActionEncrypt, onKey(s.Encrypt)),
		operate("decrypt", authz.ActionDecrypt, onKey(s.Decrypt)),
		batch("sign", authz.ActionSign, batchOf(s.SignBatch)),
		batch("verify", authz.ActionVerify, batchOf(s.VerifyBatch)),
		batch("encrypt", authz.ActionEncrypt, batchOf(s.EncryptBatch)),
		batch("decrypt", authz.ActionDecrypt, batchOf(s.DecryptBatch)),
		operate("datakey", authz.ActionDataKey, onKey(s.DataKey)),
		operate("rewrap", authz.ActionRewrap, onKey(s.Rewrap)),
		batch("rewrap", authz.ActionRewrap, batchOf(s.RewrapBatch)),
		{method: http.MethodPost, template: "/v1/random", action: authz.ActionRandom, serve: random},

		open(anonymous, get("/v1/jwks.json", authz.ActionJWKS, jwks)),
		open(anonymous, get("/v1/keys/{key}/jwks.json", authz.ActionJWKS, jwks)),
		open(anonymous, get("/v1/status.json", authz.ActionJWKS, status)),
		open(anonymous, get("/v1/keys/{key}/status.json", authz.ActionJWKS, status)),
		get("/v1/keys", authz.ActionRead, listKeys, "after", "limit"),
		get("/v1/keys/{key}", authz.ActionRead, getKey),
		get("/v1/whoami", "whoami", whoami),
		open(public, get("/v1/openapi.yaml", "openapi", openAPI)),

		streaming("key", get("/v1/events", authz.ActionRead, follow, "key", "after")),
		get("/v1/subscriptions", authz.ActionSubscribe, listSubscriptions),
		{method: http.MethodPut, template: "/v1/subscriptions/{key}", action: authz.ActionSubscribe, serve: subscribe},
		{method: http.MethodDelete, template: "/v1/subscriptions/{key}", action: authz.ActionSubscribe, serve: reading(unsubscribe)},
		operate("versions/{version}/ack", authz.ActionSubscribe, acknowledge),

		change(http.MethodPost, "keys", authz.ActionCreateKey, http.StatusCreated, changing(
			func(c *call, in api.CreateKeyRequest) (api.Key, error) { return s.CreateKey(c.ctx, c.req, in) },
			func(k api.Key) string { return "/v1/keys/" + k.Name })),
		change(http.MethodPatch, "keys/{key}", authz.ActionUpdateKey, http.StatusOK, changing(
			func(c *call, in api.UpdateKeyRequest) (api.Key, error) {
				return s.UpdateKey(c.ctx, c.req, c.vars["key"], in)
			}, nil)),
		change(http.MethodPost, "keys/{key}/rotate", authz.ActionRotate, http.StatusAccepted, changing(
			func(c *call, in api.RotateRequest) (api.Rotation, error) {
				return s.Rotate(c.ctx, c.req, c.vars["key"], in)
			},
			func(r api.Rotation) string { return "/v1/admin/rotations/" + r.ID })),
		act(version+"suspend", authz.ActionSuspend, onVersion(s.Suspend)),
		act(version+"resume", authz.ActionResume, onVersion(s.Resume)),
		act(version+"revoke", authz.ActionRevoke, onVersion(s.Revoke)),
		act(version+"destroy", authz.ActionDestroy, destroy),
		act(version+"restore", authz.ActionRestore, onVersion(s.Restore)),
		deleting(change(http.MethodDelete, "keys/{key}", authz.ActionDeleteKey, http.StatusOK, reading(deleteKey))),
		act("keys/{key}/restore", authz.ActionRestore, named("key", s.RestoreKey)),
		get("/v1/admin/keys/{key}/usage", authz.ActionReadUsage, getUsage),

		get("/v1/admin/rotations", authz.ActionListRotations, listRotations, "key", "before", "limit"),
		get("/v1/admin/rotations/{id}", authz.ActionListRotations, getRotation),
		act("rotations/{id}/activate", authz.ActionActivate, named("id", s.ActivateRotation)),
		act("rotations/{id}/abort", authz.ActionAbort, named("id", s.AbortRotation)),

		get("/v1/admin/agents", authz.ActionListAgents, listAgents, "after", "limit"),
		get("/v1/admin/agents/{id}", authz.ActionListAgents, getAgent),
		act("agents/{id}/block", authz.ActionBlockAgent, named("id", s.BlockAgent)),
		act("agents/{id}/unblock", authz.ActionBlockAgent, named("id", s.UnblockAgent)),

		get("/v1/admin/approvals", authz.ActionListApprovals, listApprovals, "state", "before", "limit"),
		get("/v1/admin/approvals/{id}", authz.ActionListApprovals, getApproval),
		act("approvals/{id}/approve", authz.ActionApprove, named("id", s.Approve)),
		act("approvals/{id}/reject", authz.ActionApprove, named("id", s.Reject)),

		change(http.MethodPost, "triggers/{name}", authz.ActionTrigger, http.StatusAccepted, named("name", s.Trigger)),
		act("reconcile", authz.ActionReconcile, changing(
			func(c *call, in api.ReconcileRequest) (api.ReconcileReport, error) {
				return s.Reconcile(c.ctx, c.req, in)
			}, nil)),
		get("/v1/admin/webhooks", authz.ActionListWebhooks, listWebhooks),
		act("webhooks/{name}/retry", authz.ActionRetryWebhook, retryWebhook),

		get("/v1/admin/nodes", authz.ActionListNodes, listNodes),

		get("/v1/admin/audit", authz.ActionReadAudit, listAudit, auditQuery...),
		get("/v1/admin/audit/checkpoint", authz.ActionReadAudit, auditCheckpoint, "fresh"),
		get("/v1/admin/audit/proof/{seq}", authz.ActionReadAudit, auditProof),
		open(public, get("/v1/audit-keys.pem", "audit-keys", auditKeys)),
	}
}

func random(c *call) error {
	var in api.RandomRequest
	if err := c.decode(&in); err != nil {
		return err
	}
	out, err := c.h.service.Random(c.ctx, c.req, in)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &out)
}

// revalidate lets a caller keep an answer and ask whether it still holds.
const revalidate = "private, no-cache"

func getKey(c *call) error {
	k, err := c.h.service.Key(c.ctx, c.req, c.vars["key"])
	if err != nil {
		return err
	}
	return c.conditional(typeJSON, revalidate, &k)
}

func listKeys(c *call) error {
	after, limit, err := c.page("after", func(s string) bool { return keys.CheckName(s) == nil })
	if err != nil {
		return err
	}
	list, err := c.h.service.Keys(c.ctx, c.req, after, limit)
	if err != nil {
		return err
	}
	return c.conditional(typeJSON, revalidate, &list)
}

// jwksAge is how long a JWKS may be kept without asking.
const jwksAge = time.Minute

func jwks(c *call) error {
	set, err := c.h.service.JWKS(c.ctx, c.req, c.vars["key"])
	if err != nil {
		return err
	}
	age := jwksAge
	if next := c.h.service.UntilSwitch(c.vars["key"]); next > 0 {
		age = min(age, next)
	}
	return c.conditional(typeJWKS, fmt.Sprintf("%s, max-age=%d", c.scope(), int(math.Floor(age.Seconds()))), &set)
}

// scope says who may keep an answer.
func (c *call) scope() string {
	if c.anonymous() {
		return "public"
	}
	return "private"
}

func status(c *call) error {
	set, err := c.h.service.Status(c.ctx, c.req, c.vars["key"])
	if err != nil {
		return err
	}
	return c.conditional(typeJSON, c.scope()+", no-cache", &set) // a revocation is told at once
}

func whoami(c *call) error {
	out := c.h.service.WhoAmI(c.req)
	return c.answer(http.StatusOK, &out)
}

func openAPI(c *call) error {
	spec := []byte(api.OpenAPI())
	c.validated(typeYAML, "public, no-cache", etag(spec), spec)
	return nil
}

func listRotations(c *call) error {
	before, limit, err := c.page("before", isID)
	if err != nil {
		return err
	}
	query := c.r.URL.Query()
	key := query.Get("key")
	if query.Has("key") {
		if err := keys.CheckName(key); err != nil {
			return c.refuse(err)
		}
	}
	list, err := c.h.service.Rotations(c.ctx, c.req, key, before, limit)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &list)
}

func getRotation(c *call) error {
	r, err := c.h.service.Rotation(c.ctx, c.req, c.vars["id"])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &r)
}
