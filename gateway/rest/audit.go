package rest

import (
	"net/http"
	"strconv"
	"time"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// auditQuery are the parameters of a search in the audit log.
var auditQuery = []string{"key", "kid", "principal", "action", "outcome", "request", "since", "until", "before", "limit"}

// maxTerm bounds what is searched for, in bytes: no record holds more of it.
const maxTerm = 1024

func listAudit(c *call) error {
	q, err := c.auditSearch()
	if err != nil {
		return c.refuse(err)
	}
	list, err := c.h.service.AuditRecords(c.ctx, c.req, q)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &list)
}

func (c *call) auditSearch() (q api.AuditQuery, err error) {
	query := c.r.URL.Query()
	for _, p := range []struct {
		name string
		to   *string
	}{
		{"key", &q.Key}, {"kid", &q.KeyID}, {"principal", &q.Principal}, {"action", &q.Action}, {"outcome", &q.Outcome}, {"request", &q.RequestID},
	} {
		if *p.to = query.Get(p.name); query.Has(p.name) && (*p.to == "" || len(*p.to) > maxTerm) {
			return q, keys.Errorf(keys.ErrInvalid, "%q must have 1 to %d bytes", p.name, maxTerm)
		}
	}
	for _, p := range []struct {
		name string
		to   *api.Time
	}{{"since", &q.Since}, {"until", &q.Until}} {
		if query.Has(p.name) {
			if p.to.Time, err = time.Parse(time.RFC3339, query.Get(p.name)); err != nil {
				return q, keys.Errorf(keys.ErrInvalid, "%q must be a time such as 2026-01-31T12:00:00Z", p.name)
			}
		}
	}
	if query.Has("before") {
		if q.Before, err = strconv.ParseUint(query.Get("before"), 10, 63); err != nil || q.Before == 0 {
			return q, keys.Errorf(keys.ErrInvalid, "\"before\" must be a record's \"seq\" above 0, or what \"next\" of a page was")
		}
	}
	q.Limit, err = limitOf(query)
	return q, err
}

func auditCheckpoint(c *call) error {
	query := c.r.URL.Query()
	fresh := query.Get("fresh")
	if query.Has("fresh") && fresh != "true" && fresh != "false" {
		return c.refuse(keys.Errorf(keys.ErrInvalid, "\"fresh\" must be true or false"))
	}
	signed, err := c.h.service.AuditCheckpoint(c.ctx, c.req, fresh == "true")
	if err != nil {
		return err
	}
	c.write(http.StatusOK, typeText, signed)
	return nil
}

func auditProof(c *call) error {
	seq, err := strconv.ParseUint(c.vars["seq"], 10, 63)
	if err != nil {
		return c.refuse(keys.Errorf(keys.ErrNotFound, "there is no record %s", c.vars["seq"]))
	}
	file, err := c.h.service.AuditProof(c.ctx, c.req, seq)
	if err != nil {
		return err
	}
	c.write(http.StatusOK, typeText, file)
	return nil
}

func auditKeys(c *call) error {
	file, err := c.h.service.AuditKeys()
	if err != nil {
		return err
	}
	c.validated(api.TypePEM, "public, no-cache", etag(file), file)
	return nil
}

// typeText is what checkpoints and proofs are sent as.
const typeText = api.TypeText + "; charset=utf-8"
