package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Authenticate finds out who calls. A failure is recorded with its precise
// reason and answered with a general one.
//
// From a source that failed too often, further failures are turned away
// without a record: those before are in the log, and a flood must not fill
// it. Good credentials are served all the same, so that one bad caller does
// not lock out the others behind the same proxy.
func (s *Service) Authenticate(ctx context.Context, id string, source netip.Addr, c authz.Credentials) (Request, error) {
	req := Request{ID: id, Source: source}
	var err error
	if req.Caller, err = s.authenticator.Authenticate(ctx, c); err == nil {
		now := s.now()
		for _, who := range req.Caller.Identities() {
			s.usage.Seen(who, now)
		}
		return req, nil
	}
	if limited := s.limits.LoginAllowed(source); limited != nil {
		return req, limited
	}
	return req, s.loginFailed(ctx, req, err)
}

// RefuseLogin is Authenticate for credentials that a transport could not even
// read.
func (s *Service) RefuseLogin(ctx context.Context, id string, source netip.Addr, failure *authz.Failure) error {
	if err := s.limits.LoginAllowed(source); err != nil {
		return err
	}
	return s.loginFailed(ctx, Request{ID: id, Source: source}, failure)
}

// loginFailed records and counts a failed authentication and returns err, or
// keys.ErrAudit.
func (s *Service) loginFailed(ctx context.Context, req Request, err error) error {
	rec := s.open(req, authz.ActionAuthenticate, "", 0).rec
	rec.Outcome, rec.Reason = audit.OutcomeDenied, api.CodeOf(err)
	var failure *authz.Failure
	if errors.As(err, &failure) {
		rec.Reason = failure.Reason
		s.limits.LoginFailed(req.Source)
	}
	if rerr := s.record(ctx, rec); rerr != nil {
		return rerr
	}
	return err
}

// Anonymous is a request without credentials, for what the policy opens to
// everybody.
func (s *Service) Anonymous(id string, source netip.Addr) Request {
	return Request{ID: id, Source: source, Caller: authz.Anonymous()}
}

// Refuse records a request that a transport turned away before it reached
// an operation: an unknown route, a body too large or malformed. It returns
// err, or keys.ErrAudit.
func (s *Service) Refuse(ctx context.Context, req Request, action, key string, err error) error {
	o := s.open(req, action, clip(key), 0)
	if rerr := s.record(ctx, o.finish(err)); rerr != nil {
		return rerr
	}
	return err
}

// WhoAmI tells callers how the gateway sees them.
func (s *Service) WhoAmI(req Request) api.WhoAmI {
	groups := req.Caller.Groups
	if groups == nil {
		groups = []string{}
	}
	return api.WhoAmI{Principal: req.Caller.ID, Groups: groups, Method: req.Caller.Method, ExpiresAt: api.At(req.Caller.ExpiresAt)}
}

// Admit takes the caller's place among the requests in flight before the
// transport reads what the request brings: callers who send slowly hold their
// own places, not everybody's. The operation takes no second one when it gets
// the Request returned. release gives the place back and must be called once.
// A refusal has been recorded, unless nobody in particular asks, or the same
// caller was refused just before.
func (s *Service) Admit(ctx context.Context, req Request, action, key string) (_ Request, release func(), err error) {
	if release, err = s.place(&req, action); err == nil {
		req.admitted = true
		return req, release, nil
	}
	o := s.open(req, action, key, 0)
	if limited, ok := errors.AsType[*authz.RateLimited](err); ok && limited.Repetitions > 0 {
		o.rec.Details = map[string]string{"not_recorded": strconv.FormatInt(limited.Repetitions, 10)}
	} else if ok && limited.Repeated {
		return req, nil, err
	}
	if req.Caller.Method != authz.MethodAnonymous {
		if rerr := s.record(ctx, o.finish(err)); rerr != nil {
			return req, nil, rerr
		}
	}
	return req, nil, err
}

// place takes the caller's place among the requests in flight, unless Admit
// has done so. Who has no name gets none, whatever the policy says: but for
// public keys, every operation needs an authenticated caller. Who is blocked
// gets none either: every operation comes by here, so that no credential and
// no place taken before helps.
func (s *Service) place(req *Request, action string) (release func(), err error) {
	anonymous := req.Caller.Method == authz.MethodAnonymous
	switch {
	case req.Caller.ID == "" || anonymous && action != authz.ActionJWKS:
		return nil, keys.Errorf(keys.ErrUnauthenticated, "this needs credentials: a bearer token or a client certificate")
	case anonymous: // not all of them together: one could keep out the others
		if req.admitted {
			return func() {}, nil
		}
		return s.limits.AdmitAnonymous(req.Source)
	case req.admitted:
		release = func() {}
	default:
		if release, err = s.limits.Admit(req.Caller.ID); err != nil {
			return nil, err
		}
	}
	if err := s.blocked(req.Caller); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// errBlocked marks the refusal of a caller who is blocked.
var errBlocked = errors.New("blocked")

// blocked refuses a caller who is blocked under any of their identities.
// Errors: keys.ErrForbidden, and keys.ErrStale, when nobody can tell.
func (s *Service) blocked(who authz.Principal) error {
	snap, err := s.snapshots.Snapshot()
	if err != nil {
		return err
	}
	if snap.Blocked(who.ID) || who.Also != "" && snap.Blocked(who.Also) {
		return fmt.Errorf("%w: %w", errBlocked, keys.Errorf(keys.ErrForbidden, "this caller is blocked; ask the administrators of the gateway"))
	}
	return nil
}

// noteFailure counts what an attacker would produce many of: ciphertexts
// that do not open.
func (s *Service) noteFailure(o *op, err error) {
	if errors.Is(err, keys.ErrDecrypt) {
		s.limits.OperationFailed(o.req.Caller.ID)
	}
}
