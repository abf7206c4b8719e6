package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/rotation"
)

// Service is the guarded core. Its methods are safe for concurrent use. They
// take and return the bodies of package api; errors carry a sentinel of
// package keys.
type Service struct {
	crypto        Crypto
	snapshots     Snapshots
	audit         Auditor
	policy        Decider
	authenticator Authenticator
	lifecycle     Lifecycle
	attempts      Attempts
	limits        *authz.Limiter
	now           func() time.Time
	log           *slog.Logger
	parallel      int
	auditTimeout  time.Duration

	mu      sync.Mutex
	running map[attemptID]string // fingerprints of the idempotent requests at work in this process
}

// New returns a Service.
func New(c Config) *Service {
	s := &Service{
		crypto: c.Crypto, snapshots: c.Snapshots, audit: c.Audit, policy: c.Policy, authenticator: c.Authenticator,
		lifecycle: c.Lifecycle, attempts: c.Attempts, limits: c.Limits, now: c.Now, log: c.Log, parallel: c.Parallel, auditTimeout: c.AuditTimeout,
		running: map[attemptID]string{},
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.parallel <= 0 {
		s.parallel = 4
	}
	if s.auditTimeout <= 0 {
		s.auditTimeout = 10 * time.Second
	}
	return s
}

// Request is who asks, and what of the transport belongs in the record.
type Request struct {
	ID     string     // request id
	Source netip.Addr // of the connection
	Caller authz.Principal
	Once   *Once // set on a request that changes keys and shall do so once; see Once

	admitted bool // by Admit: its place in flight is taken
}

func (r Request) actor() rotation.Actor {
	return rotation.Actor{Principal: r.Caller.ID, AuthMethod: r.Caller.Method, Source: r.Source.String(), RequestID: r.ID}
}

// op is one operation under way: what was found out about it so far.
type op struct {
	s     *Service
	req   Request
	start time.Time
	rec   audit.Record
	key   *keys.Key // set by authorise
	now   time.Time // the one moment at which the timeline is read
	first string    // request id of an earlier attempt that this one goes on with
}

func (s *Service) open(req Request, action, key string, size int) *op {
	now := s.now()
	return &op{s: s, req: req, start: now, now: now, rec: audit.Record{
		RequestID: req.ID, Principal: req.Caller.ID, AuthMethod: req.Caller.Method, Source: req.Source.String(),
		Action: action, Key: clip(key), Size: int64(size), // a clipped name is no name: it has dots
	}}
}

// notFound is the one answer about a key that is not there and about one
// that the caller may not see.
func notFound(name string) error {
	return keys.Errorf(keys.ErrKeyNotFound, "there is no key %q here, or you may not see it", clip(name))
}

// clip bounds a caller's own text before it is shown back or recorded.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// authorise finds the operation's key and asks the policy. version is the
// one the request names; 0 means the active one. Errors: ErrStale,
// ErrKeyNotFound, ErrForbidden.
func (o *op) authorise(version uint32) error {
	k, err := o.find()
	if err != nil {
		return err
	}
	if err := o.decide(resourceOf(k), o.stateOf(k, version)); err != nil {
		return err
	}
	o.key, o.rec.Purpose = k, string(k.Purpose)
	return nil
}

// authoriseSome is authorise for a batch as a whole, whose items may name
// versions in any state: it passes if the policy lets the caller act on one.
func (o *op) authoriseSome() error {
	k, err := o.find()
	if err != nil {
		return err
	}
	active := o.stateOf(k, 0)
	asked := map[string]bool{active: true}
	for _, v := range k.Versions {
		if state := string(k.StateAt(v, o.now)); !asked[state] {
			asked[state] = true
			if o.ask(o.rec.Action, resourceOf(k), state).Allowed {
				return nil
			}
		}
	}
	return o.decide(resourceOf(k), active)
}

// find returns the operation's key. Errors: ErrStale, ErrKeyNotFound.
func (o *op) find() (*keys.Key, error) {
	snap, err := o.s.snapshots.Snapshot()
	if err != nil {
		return nil, err
	}
	k, ok := snap.Key(o.rec.Key)
	if !ok || !visible(k) {
		// The policy is asked all the same: the time taken must not tell a
		// key that is not there from one that the caller may not see.
		absent := authz.Resource{Type: authz.TypeKey, Name: o.rec.Key}
		if !o.ask(o.rec.Action, absent, "").Allowed {
			o.ask(authz.ActionRead, absent, "")
		}
		return nil, notFound(o.rec.Key)
	}
	return k, nil
}

// stateOf returns the state of version n, or with 0 of the active one; "" if
// there is none.
func (o *op) stateOf(k *keys.Key, n uint32) string {
	v := k.ActiveAt(o.now)
	if n != 0 {
		v, _ = k.Version(n) // nil with the error
	}
	if v == nil {
		return ""
	}
	return string(k.StateAt(v, o.now))
}

// version returns a version that was generated, or ErrVersionNotFound.
func (o *op) version(n uint32) (*keys.Version, error) {
	v, err := o.key.Version(n)
	if err != nil {
		return nil, err
	}
	if v.CreatedAt.IsZero() {
		return nil, keys.Errorf(keys.ErrVersionNotFound, "key %q has no version %d", o.key.Name, n)
	}
	return v, nil
}

// decide asks the policy about the operation's action on a resource. A
// caller who may not even read the key is told that there is none.
func (o *op) decide(res authz.Resource, state string) error {
	d := o.ask(o.rec.Action, res, state)
	o.rec.Policies = d.Policies
	if d.Allowed {
		return nil
	}
	forbidden := keys.Errorf(keys.ErrForbidden, "policy does not let %s %s %s", clip(o.req.Caller.ID), o.rec.Action, res.Name)
	o.rec.Outcome, o.rec.Reason = audit.OutcomeDenied, "forbidden"
	if res.Type == authz.TypeKey && o.rec.Action != authz.ActionRead && o.rec.Action != authz.ActionCreateKey &&
		o.ask(authz.ActionRead, res, state).Allowed {
		return forbidden
	}
	if res.Type == authz.TypeKey && o.rec.Action != authz.ActionCreateKey {
		return notFound(res.Name)
	}
	return forbidden
}

func (o *op) ask(action string, res authz.Resource, state string) authz.Decision {
	return o.s.policy.Decide(authz.Request{
		Principal: o.req.Caller, Action: action, Resource: res,
		Context: authz.Context{Method: o.req.Caller.Method, SourceIP: o.req.Source, VersionState: state, PayloadSize: o.rec.Size},
	})
}

// mayRecover reports whether the caller may process with a version that is
// out of use, and says in the record that this was done.
func (o *op) mayRecover(v *keys.Version) bool {
	state := string(o.key.StateAt(v, o.now))
	d := o.ask(authz.ActionRecover, resourceOf(o.key), state)
	if d.Allowed {
		o.rec.Policies = slices.Concat(o.rec.Policies, d.Policies)
		o.rec.Details = map[string]string{"recovered_from": state}
	}
	return d.Allowed
}

func resourceOf(k *keys.Key) authz.Resource {
	return authz.Resource{Type: authz.TypeKey, Name: k.Name, Purpose: string(k.Purpose), Tags: k.Tags}
}

// gatewayResource stands for acts that concern no key.
var gatewayResource = authz.Resource{Type: authz.TypeGateway, Name: "keyhole"}

// visible reports whether a key exists for the outside: its first version
// has been generated.
func visible(k *keys.Key) bool {
	for _, v := range k.Versions {
		if !v.CreatedAt.IsZero() {
			return true
		}
	}
	return false
}

// use names the version in the record and checks that its state serves u.
func (o *op) use(v *keys.Version, u keys.Use) error {
	o.name(v)
	return o.key.StateAt(v, o.now).CheckUse(u)
}

func (o *op) name(v *keys.Version) {
	o.rec.Version, o.rec.KeyID, o.rec.Algorithm = v.Number, o.key.ID(v).String(), string(v.Algorithm)
}

// active returns the version that signs and encrypts now.
func (o *op) active() (*keys.Version, error) {
	v := o.key.ActiveAt(o.now)
	if v == nil {
		return nil, keys.Errorf(keys.ErrNoActiveVersion, "key %q has no active version: it is suspended or revoked; rotate it or resume a version", o.key.Name)
	}
	o.name(v)
	return v, nil
}

// purpose refuses a request that the key is not for.
func (o *op) purpose(p keys.Purpose) error {
	if o.key.Purpose == p {
		return nil
	}
	return keys.Errorf(keys.ErrWrongPurpose, "key %q (%s) has the purpose %q; it cannot %s", o.key.Name, o.key.Algorithm, o.key.Purpose, o.rec.Action)
}

// finish completes the record by the operation's result.
func (o *op) finish(err error) audit.Record {
	o.rec.Duration = o.s.now().Sub(o.start)
	switch {
	case err == nil:
		if o.rec.Outcome == "" {
			o.rec.Outcome = audit.OutcomeOK
		}
	default:
		switch {
		case o.rec.Outcome != "":
		case errors.Is(err, keys.ErrUnauthenticated):
			o.rec.Outcome = audit.OutcomeDenied
		default:
			o.rec.Outcome = audit.OutcomeError
		}
		if o.rec.Reason == "" {
			o.rec.Reason = api.CodeOf(err)
		}
	}
	return o.rec
}

// record makes records durable, whether or not the caller still waits.
func (s *Service) record(ctx context.Context, recs ...audit.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.auditTimeout)
	defer cancel()
	if _, err := s.audit.Append(ctx, recs...); err != nil {
		if errors.Is(err, keys.ErrAudit) {
			return err
		}
		return errors.Join(keys.ErrAudit, err)
	}
	return nil
}

// safely runs act and makes keys.ErrInternal of a panic: whatever happens in
// an operation is recorded, and harms no other one.
func safely[R any](ctx context.Context, o *op, act func(ctx context.Context, o *op) (R, error)) (res R, err error) {
	defer func() {
		if p := recover(); p != nil {
			o.s.log.ErrorContext(ctx, "panic in an operation", "action", o.rec.Action, "request_id", o.req.ID, "panic", p, "stack", string(debug.Stack()))
			var zero R
			res, err = zero, keys.ErrInternal
		}
	}()
	return act(ctx, o)
}

// guarded runs one recorded operation. act authorises first.
func guarded[R any](ctx context.Context, o *op, act func(ctx context.Context, o *op) (R, error)) (R, error) {
	var zero R
	release, err := o.s.place(&o.req, o.rec.Action)
	if err != nil {
		return zero, errors.Join(err, o.s.record(ctx, o.finish(err)))
	}
	defer release()
	res, err := safely(ctx, o, act)
	o.s.noteFailure(o, err)
	if rerr := o.s.record(ctx, o.finish(err)); rerr != nil {
		return zero, rerr
	}
	if err != nil {
		return zero, err
	}
	return res, nil
}
