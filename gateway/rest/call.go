package rest

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/keys"
)

// unmatched is the route of requests that are for no endpoint, and their
// action in the audit log.
const unmatched = "unmatched"

// call is one request under way.
type call struct {
	h         *handler
	w         http.ResponseWriter
	r         *http.Request
	ctx       context.Context // of the request, with its deadline
	id        string
	source    netip.Addr
	start     time.Time
	endpoint  *endpoint         // nil: there is none
	vars      map[string]string // path parameters
	req       gateway.Request   // set by authenticate
	status    int               // of the answer; 0: not begun
	size      int
	bodyRead  bool   // or tried to
	sentToken bool   // an Authorization header was there
	release   func() // gives the caller's place in flight back before the end; set for streams
}

// Shared header values. net/http does not change them.
var (
	noStore = []string{"no-store"}
	noSniff = []string{"nosniff"}
)

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var receipt *receipts
	if prefer := r.Header["Prefer"]; prefer != nil && prefersReceipt(prefer) {
		receipt, r = newReceipts(w, r)
		w = receipt
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.cfg.Timeout)
	defer cancel()
	// The id is always our own: it ties the audit log together, and a
	// caller's could repeat.
	c := &call{h: h, w: w, r: r, ctx: ctx, id: rand.Text(), source: source(r), start: time.Now()}
	if receipt != nil {
		receipt.c = c
	}
	header := w.Header()
	if len(r.TransferEncoding) > 0 {
		// A length beside it is gone here, and whoever handed the request on
		// may have believed it: nothing behind the body is read (RFC 9112, 6.1).
		header["Connection"] = []string{"close"}
	}
	header["X-Request-Id"] = []string{c.id}
	header["X-Content-Type-Options"] = noSniff
	header["Cache-Control"] = noStore
	defer c.end()
	if h.inFlight.Add(1) > int64(h.cfg.MaxInFlight) {
		h.inFlight.Add(-1)
		c.problem(keys.Errorf(keys.ErrOverloaded, "the gateway is at its limit of %d requests at one time", h.cfg.MaxInFlight))
		return
	}
	defer h.inFlight.Add(-1)
	c.serve()
}

func (c *call) serve() {
	e, vars, unfound := c.h.router.find(c.r)
	c.endpoint, c.vars = e, vars
	if e != nil && e.access == public {
		if err := c.checkQuery(); err != nil {
			c.problem(err)
			return
		}
		if err := e.serve(c); err != nil {
			c.problem(err)
		}
		return
	}
	if err := c.authenticate(); err != nil {
		c.problem(err)
		return
	}
	req, release, err := c.h.service.Admit(c.ctx, c.req, c.action(), c.vars["key"])
	if err != nil {
		c.problem(err)
		return
	}
	if e != nil && e.stream {
		release = sync.OnceFunc(release)
		c.release = release
	}
	defer release()
	c.req = req
	if err = unfound; err == nil {
		err = c.checkQuery()
	}
	if err != nil {
		c.problem(c.refuse(err))
		return
	}
	if e.batch {
		if err := c.h.batches.take(c.req.Caller.ID); err != nil {
			c.problem(c.refuse(err))
			return
		}
		defer c.h.batches.give(c.req.Caller.ID)
	}
	if err := e.serve(c); err != nil {
		c.problem(err)
	}
}

// authenticate finds out who calls. The Service records a failure.
func (c *call) authenticate() error {
	creds, failure := credentials(c.r)
	c.sentToken = failure != nil || creds.Token != ""
	var err error
	switch {
	case failure != nil:
		return c.h.service.RefuseLogin(c.ctx, c.id, c.source, failure)
	case creds.Token == "" && creds.Chain == nil && c.endpoint != nil && c.endpoint.access == anonymous:
		c.req = c.h.service.Anonymous(c.id, c.source)
	default:
		c.req, err = c.h.service.Authenticate(c.ctx, c.id, c.source, creds)
	}
	return err
}

// refuse records a request that does not reach its operation. It returns
// err, or what kept it from being recorded. What nobody in particular asks
// is not recorded: there would be no end of it.
func (c *call) refuse(err error) error {
	if c.req.ID == "" || c.anonymous() {
		return err
	}
	return c.h.service.Refuse(c.ctx, c.req, c.action(), c.vars["key"], err)
}

// anonymous reports whether the caller showed no credentials.
func (c *call) anonymous() bool { return c.req.Caller.Method == authz.MethodAnonymous }

func (c *call) action() string {
	if c.endpoint == nil {
		return unmatched
	}
	return c.endpoint.action
}

// end is the last thing that happens to a request: what panicked is
// answered, and the answer is counted.
func (c *call) end() {
	fault := recover()
	if err, ok := fault.(error); fault != nil && (!ok || !errors.Is(err, http.ErrAbortHandler)) {
		c.h.cfg.Log.ErrorContext(c.ctx, "panic while serving a request", "request_id", c.id, "route", c.route(), "panic", fault, "stack", string(debug.Stack()))
		fault = http.ErrAbortHandler // half an answer must not look like a whole one
		refused := c.h.service.Refuse(c.ctx, c.identified(), c.action(), c.vars["key"], keys.ErrInternal)
		if c.status == 0 {
			c.problem(refused)
			fault = nil
		}
	}
	took := time.Since(c.start)
	c.h.cfg.Observe(c.route(), c.method(), c.status, took)
	if c.h.cfg.Access != nil {
		c.h.cfg.Access.LogAttrs(c.ctx, slog.LevelInfo, "request", slog.String("request_id", c.id), slog.String("method", c.method()),
			slog.String("route", c.route()), slog.String("key", c.vars["key"]), slog.String("principal", c.req.Caller.ID),
			slog.String("source", c.source.String()), slog.Int("status", c.status), slog.Int("bytes", c.size), slog.Duration("took", took))
	}
	if fault != nil {
		panic(fault)
	}
}

// identified is the request for the record, also before authentication.
func (c *call) identified() gateway.Request {
	if c.req.ID == "" {
		return gateway.Request{ID: c.id, Source: c.source}
	}
	return c.req
}

func (c *call) route() string {
	if c.endpoint == nil {
		return unmatched
	}
	return c.endpoint.template
}

// method is the request's, of a bounded number.
func (c *call) method() string {
	if slices.Contains(methods, c.r.Method) {
		return c.r.Method
	}
	return "other"
}
