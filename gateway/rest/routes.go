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
		return endpoint{method: method, template: "/v1/admin/keys" + template, action: action, once: status, serve: serve}
	}
	open := func(a access, e endpoint) endpoint {
		e.access = a
		return e
	}
	const version = "/{key}/versions/{version}/"
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
		get("/v1/keys", authz.ActionRead, listKeys, "after", "limit"),
		get("/v1/keys/{key}", authz.ActionRead, getKey),
		get("/v1/whoami", "whoami", whoami),
		open(public, get("/v1/openapi.yaml", "openapi", openAPI)),

		change(http.MethodPost, "", authz.ActionCreateKey, http.StatusCreated, changing(
			func(c *call, in api.CreateKeyRequest) (api.Key, error) { return s.CreateKey(c.ctx, c.req, in) },
			func(k api.Key) string { return "/v1/keys/" + k.Name })),
		change(http.MethodPatch, "/{key}", authz.ActionUpdateKey, http.StatusOK, changing(
			func(c *call, in api.UpdateKeyRequest) (api.Key, error) {
				return s.UpdateKey(c.ctx, c.req, c.vars["key"], in)
			}, nil)),
		change(http.MethodPost, "/{key}/rotate", authz.ActionRotate, http.StatusAccepted, changing(
			func(c *call, in api.RotateRequest) (api.Rotation, error) {
				return s.Rotate(c.ctx, c.req, c.vars["key"], in)
			},
			func(r api.Rotation) string { return "/v1/admin/rotations/" + r.ID })),
		change(http.MethodPost, version+"suspend", authz.ActionSuspend, http.StatusOK, onVersion(s.Suspend)),
		change(http.MethodPost, version+"resume", authz.ActionResume, http.StatusOK, onVersion(s.Resume)),
		change(http.MethodPost, version+"revoke", authz.ActionRevoke, http.StatusOK, onVersion(s.Revoke)),
		get("/v1/admin/rotations", authz.ActionListRotations, listRotations, "key", "before", "limit"),
		get("/v1/admin/rotations/{id}", authz.ActionListRotations, getRotation),
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
	scope := "private"
	if c.anonymous() {
		scope = "public"
	}
	return c.conditional(typeJWKS, fmt.Sprintf("%s, max-age=%d", scope, int(math.Floor(age.Seconds()))), &set)
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
	before, limit, err := c.page("before", isRotationID)
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
