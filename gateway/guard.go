package gateway

import (
	"context"
	"errors"
	"runtime/debug"
	"strconv"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/keys"
)

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
		case errors.Is(err, errBlocked):
			o.rec.Outcome, o.rec.Reason = audit.OutcomeDenied, "blocked"
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
	_, err := s.enter(ctx, recs...)
	return err
}

// enter is record, and returns where in the log the first record is.
func (s *Service) enter(ctx context.Context, recs ...audit.Record) (uint64, error) {
	ctx, cancel := s.detach(ctx)
	defer cancel()
	seq, err := s.audit.Append(ctx, recs...)
	if err != nil && !errors.Is(err, keys.ErrAudit) {
		err = errors.Join(keys.ErrAudit, err)
	}
	return seq, err
}

// detach gives what has begun its own time: a caller that hangs up must not
// leave it half done.
func (s *Service) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), s.auditTimeout)
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
	if errors.Is(err, keys.ErrOverloaded) && o.overloaded() {
		return zero, err
	}
	if rerr := o.s.record(ctx, o.finish(err)); rerr != nil {
		return zero, rerr
	}
	if err != nil {
		return zero, err
	}
	return res, nil
}

// overloaded reports whether the record of an operation that was refused for
// want of room can be left out: the same caller was refused just before, and
// to record each would only add to the load. The next one that is recorded says
// how many were not.
func (o *op) overloaded() bool {
	repeated, others := o.s.limits.Overloaded(o.req.Caller.ID)
	if others > 0 {
		o.detail("not_recorded", strconv.FormatInt(others, 10))
	}
	return repeated
}

// changes runs an act that changes something. may authorises it; nil is
// op.authorise of the operation's key. Who acts records intent and outcome,
// the lifecycle or own; here a request that fails is recorded, for whatever
// reason.
func changes[R any](ctx context.Context, o *op, may func(context.Context, *op) error, act func(context.Context, *op) (R, error)) (R, error) {
	var zero R
	refuse := func(err error) (R, error) {
		if rerr := o.s.record(ctx, o.finish(err)); rerr != nil {
			return zero, rerr
		}
		return zero, err
	}
	release, err := o.s.place(&o.req, o.rec.Action)
	if err != nil {
		return refuse(err)
	}
	defer release()
	if may == nil {
		may = func(_ context.Context, o *op) error { return o.authorise(o.rec.Version) }
	}
	if err := may(ctx, o); err != nil {
		return refuse(err)
	}
	out, err := safely(ctx, o, func(ctx context.Context, o *op) (R, error) { return once(ctx, o, act) })
	if err != nil {
		return refuse(err)
	}
	return out, nil
}

// own runs an act of the gateway itself between its intent and its outcome.
// Without a durable intent nothing is done. The outcome of one that fails is
// recorded by changes.
func own[R any](ctx context.Context, o *op, act func(context.Context) (R, error)) (R, error) {
	var zero R
	intent := o.rec
	intent.Outcome = audit.OutcomeIntent
	seq, err := o.s.enter(ctx, intent)
	if err != nil {
		return zero, err
	}
	o.rec.Intent = &seq
	ctx, cancel := o.s.detach(ctx)
	defer cancel()
	out, err := act(ctx)
	if err != nil {
		return zero, err
	}
	if err := o.s.record(ctx, o.finish(nil)); err != nil {
		return zero, err
	}
	return out, nil
}

// onGateway authorises an act that concerns no key.
func onGateway(_ context.Context, o *op) error { return o.decide(gatewayResource, "") }
