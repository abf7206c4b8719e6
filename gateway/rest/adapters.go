package rest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/gateway/rest/internal/strictjson"
	"keyhole/keys"
)

// decode reads the request's body into in. What is wrong with it has been
// recorded when it returns.
func (c *call) decode(in any) error {
	if err := c.read(in); err != nil {
		return c.refuse(err)
	}
	return nil
}

func (c *call) read(in any) error {
	limit := c.h.cfg.MaxBody
	if c.endpoint.batch {
		limit = c.h.cfg.MaxBatchBody
	}
	if err := checkMedia(c.r.Header); err != nil {
		return err
	}
	b := newBuffer()
	defer freeBuffer(b)
	c.bodyRead = true
	if err := readBody(c.w, c.r, b, limit); err != nil {
		return err
	}
	if err := strictjson.Decode(b.Bytes(), in); err != nil {
		return err
	}
	if c.endpoint.once != 0 {
		return c.once(b.Bytes())
	}
	return nil
}

// once takes up the Idempotency-Key. The request is what its method, path,
// query and body are, to the byte.
func (c *call) once(body []byte) error {
	values := c.r.Header["Idempotency-Key"]
	switch len(values) {
	case 0:
		return nil
	case 1:
	default:
		return keys.Errorf(keys.ErrMalformed, "there are several Idempotency-Key headers; send one")
	}
	sum := sha256.New()
	target := c.r.URL.Path
	if c.r.URL.RawQuery != "" {
		target += "?" + c.r.URL.RawQuery
	}
	sum.Write([]byte(c.r.Method + " " + target + "\n"))
	sum.Write(body)
	c.req.Once = &gateway.Once{Key: values[0], Fingerprint: hex.EncodeToString(sum.Sum(nil)), Status: c.endpoint.once}
	return nil
}

// onKey adapts an operation with a key.
func onKey[In, Out any](act func(context.Context, gateway.Request, string, In) (Out, error)) func(*call) error {
	return func(c *call) error {
		in := new(In)
		if err := c.decode(in); err != nil {
			return err
		}
		out, err := act(c.ctx, c.req, c.vars["key"], *in)
		if err != nil {
			return err
		}
		return c.answer(http.StatusOK, &out)
	}
}

// batchOf adapts an operation on many items.
func batchOf[In, Out any](act func(context.Context, gateway.Request, string, []In) ([]api.BatchItem[Out], error)) func(*call) error {
	return func(c *call) error {
		var in struct {
			Items strictjson.Items[In] `json:"items"`
		}
		if err := c.decode(&in); err != nil {
			return err
		}
		out, err := act(c.ctx, c.req, c.vars["key"], in.Items)
		if err != nil {
			return err
		}
		return c.answer(http.StatusOK, &api.BatchResponse[Out]{Items: out})
	}
}

// changing adapts an act that changes keys. location, if not nil, is where
// its result is found.
func changing[In, Out any](act func(*call, In) (Out, error), location func(Out) string) func(*call) error {
	return func(c *call) error {
		in := new(In)
		if err := c.decode(in); err != nil {
			return err
		}
		out, err := act(c, *in)
		if err != nil {
			return err
		}
		if location != nil {
			c.w.Header()["Location"] = []string{location(out)}
		}
		return c.changed(c.endpoint.once, &out)
	}
}

// changed answers a request that may carry an Idempotency-Key.
func (c *call) changed(status int, out any) error {
	if c.req.Once != nil && c.req.Once.Replayed {
		c.w.Header()["Idempotency-Replayed"] = []string{"true"}
	}
	return c.answer(status, out)
}

// approved answers an act that may need two people: 200 if it is done, 202
// while it waits for the second one.
func (c *call) approved(out api.ActResult) error {
	if out.Key != nil || out.Approval == nil {
		return c.changed(http.StatusOK, &out)
	}
	c.w.Header()["Location"] = []string{"/v1/admin/approvals/" + out.Approval.ID}
	return c.changed(http.StatusAccepted, &out)
}

// nothing takes a body that is empty or {}.
func (c *call) nothing() error {
	if c.r.ContentLength != 0 {
		return c.decode(&struct{}{})
	}
	return c.bodiless()
}

// bodiless takes up the Idempotency-Key of a request that has no body.
func (c *call) bodiless() error {
	if c.endpoint.once != 0 {
		if err := c.once(nil); err != nil {
			return c.refuse(err)
		}
	}
	return nil
}

// version is the number in the path. What is wrong with it has been recorded.
func (c *call) version() (uint32, error) {
	n, err := strconv.ParseUint(c.vars["version"], 10, 32)
	if err != nil {
		return 0, c.refuse(keys.Errorf(keys.ErrVersionNotFound, "there is no version %s: the highest number is 4294967295", c.vars["version"]))
	}
	return uint32(n), nil
}

// onVersion adapts an act on one version.
func onVersion(act func(context.Context, gateway.Request, string, uint32, api.VersionActRequest) (api.Key, error)) func(*call) error {
	return changing(func(c *call, in api.VersionActRequest) (api.Key, error) {
		n, err := c.version()
		if err != nil {
			return api.Key{}, err
		}
		return act(c.ctx, c.req, c.vars["key"], n, in)
	}, nil)
}

// reading adapts what takes no body.
func reading(act func(*call) error) func(*call) error {
	return func(c *call) error {
		if c.r.ContentLength != 0 {
			return c.refuse(keys.Errorf(keys.ErrMalformed, "this call takes no body"))
		}
		return act(c)
	}
}

// checkQuery refuses query parameters that the endpoint does not have, and
// any that come twice. Names are shown, values never: one could be a token.
func (c *call) checkQuery() error {
	raw := c.r.URL.RawQuery
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil || strings.ContainsRune(raw, ';') {
		return keys.Errorf(keys.ErrMalformed, "the query is not \"name=value\" joined by \"&\"")
	}
	for name, values := range query {
		if !slices.Contains(c.endpoint.query, name) {
			return keys.Errorf(keys.ErrMalformed, "the query parameter %+.64q is unknown here", name)
		}
		if len(values) > 1 && name != c.endpoint.repeated {
			return keys.Errorf(keys.ErrMalformed, "the query parameter %q appears twice", name)
		}
	}
	return nil
}

// page reads the parameters of a list: where it goes on, and how far.
func (c *call) page(cursor string, valid func(string) bool) (at string, limit int, err error) {
	query := c.r.URL.Query()
	if at = query.Get(cursor); query.Has(cursor) && !valid(at) {
		return "", 0, c.refuse(keys.Errorf(keys.ErrInvalid, "%q must be what \"next\" of a page was", cursor))
	}
	if limit, err = limitOf(query); err != nil {
		return "", 0, c.refuse(err)
	}
	return at, limit, nil
}

// limitOf reads how long a page may be; 0: it does not say.
func limitOf(query url.Values) (int, error) {
	if !query.Has("limit") {
		return 0, nil
	}
	limit, err := strconv.Atoi(query.Get("limit"))
	if err != nil || limit < 1 || limit > gateway.MaxPage {
		return 0, keys.Errorf(keys.ErrInvalid, "\"limit\" must be an integer from 1 to %d", gateway.MaxPage)
	}
	return limit, nil
}

// isID is as lax as the routes that have an id.
func isID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}
