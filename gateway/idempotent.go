package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/rotation/lease"
	"keyhole/store"
)

// AttemptLife is how long an Idempotency-Key is remembered.
const AttemptLife = 24 * time.Hour

// maxOnceKey is the longest Idempotency-Key, in bytes.
const maxOnceKey = 255

// Once asks that a request that changes keys is done once, however often it
// is sent within AttemptLife by the same principal:
//
//   - When it was done, the answer of then comes again (Replayed).
//   - While it is being done, on whatever gateway, the others get
//     keys.ErrConflict.
//   - When it was refused and nothing was done, nothing is remembered: it is
//     judged anew.
//   - When nobody knows (the process died, or the HSM, the store or the audit
//     log failed on the way), the next one looks at what stands. A rotation
//     that the first one began counts as its answer, unless it was undone; a
//     version, a key or an approval that is already as asked for is left as
//     it is; what is not there is done now.
//   - Another request under the same Key is keys.ErrInvalid.
//
// Policy is asked each time, before anything is remembered or answered.
//
// A gateway works on an attempt under a lease. When it dies, the next one is
// told for as long as the lease lasts that it is still at work.
type Once struct {
	Key         string // the Idempotency-Key: 1 to 255 visible ASCII characters
	Fingerprint string // of everything that makes the request what it is
	Status      int    // of a success, as the transport answers it
	Replayed    bool   // set by the Service
}

type attemptID struct{ principal, key string }

// lease is the name of the lease under which an attempt is worked on.
func (id attemptID) lease() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", id.principal, id.key))
	return "attempt/" + hex.EncodeToString(sum[:16])
}

// once runs an authorised act under the request's Once, if it has one.
func once[R any](ctx context.Context, o *op, act func(context.Context, *op) (R, error)) (R, error) {
	var zero R
	on, s := o.req.Once, o.s
	if on == nil {
		return act(ctx, o)
	}
	if err := checkOnceKey(on.Key); err != nil {
		return zero, err
	}
	id := attemptID{o.req.Caller.ID, on.Key}
	if err := s.claim(id, on.Fingerprint); err != nil {
		return zero, err
	}
	defer s.release(id)
	held, done, err := s.leases.TryToEnd(ctx, id.lease())
	if errors.Is(err, lease.ErrTaken) {
		return zero, errAtWork()
	}
	if err != nil {
		return zero, err
	}
	defer done()
	earlier, err := s.beginAttempt(ctx, id, o)
	switch {
	case err != nil:
		return zero, err
	case earlier == nil:
	case earlier.Fingerprint != on.Fingerprint:
		return zero, errOtherRequest()
	case earlier.Status != 0:
		var out R
		if err := json.Unmarshal(earlier.Body, &out); err != nil {
			return zero, errors.Join(keys.ErrInternal, err)
		}
		on.Replayed = true
		return out, s.record(ctx, o.again("replayed", earlier.RequestID))
	default:
		o.first = earlier.RequestID
	}
	if lease.Check(held) != nil { // this process stood still, and another may be at it
		return zero, errAtWork()
	}
	out, err := act(ctx, o)
	// What is remembered must not depend on whether the caller still waits.
	keep, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.auditTimeout)
	defer cancel()
	if err != nil {
		if lease.Check(held) == nil && s.undone(keep, o, err) {
			// Should this fail, the next one finds out the same by itself.
			_ = s.store.ForgetAttempt(keep, id.principal, id.key)
		}
		return zero, err
	}
	body, err := json.Marshal(out)
	if err != nil {
		return zero, errors.Join(keys.ErrInternal, err)
	}
	// The act stands. Should this fail, the next one finds it done.
	_ = s.store.FinishAttempt(keep, id.principal, id.key, on.Status, body)
	if o.first != "" {
		return out, s.record(ctx, o.again("resumed", o.first))
	}
	return out, nil
}

func checkOnceKey(key string) error {
	bad := key == "" || len(key) > maxOnceKey
	for i := range len(key) {
		bad = bad || key[i] <= ' ' || key[i] > '~'
	}
	if bad {
		return keys.Errorf(keys.ErrInvalid, "an Idempotency-Key has 1 to %d visible ASCII characters", maxOnceKey)
	}
	return nil
}

func errOtherRequest() error {
	return keys.Errorf(keys.ErrInvalid, "this Idempotency-Key was used for another request; use a new one for each act")
}

func errAtWork() error {
	return keys.Errorf(keys.ErrConflict, "the first request with this Idempotency-Key is still at work; ask again in a moment")
}

// claim makes sure that an attempt is worked on once in this process.
func (s *Service) claim(id attemptID, fingerprint string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch running, ok := s.running[id]; {
	case ok && running != fingerprint:
		return errOtherRequest()
	case ok:
		return errAtWork()
	}
	s.running[id] = fingerprint
	return nil
}

func (s *Service) release(id attemptID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, id)
}

// beginAttempt enters the attempt and returns an earlier one that is still
// remembered.
func (s *Service) beginAttempt(ctx context.Context, id attemptID, o *op) (*store.Attempt, error) {
	a := store.Attempt{
		Principal: id.principal, Key: id.key, Fingerprint: o.req.Once.Fingerprint, RequestID: o.req.ID, StartedAt: o.start,
	}
	earlier, err := s.store.BeginAttempt(ctx, a)
	if err != nil || earlier == nil || o.start.Sub(earlier.StartedAt) < AttemptLife {
		return earlier, err
	}
	if err := s.store.ForgetAttempt(ctx, id.principal, id.key); err != nil {
		return nil, err
	}
	return s.store.BeginAttempt(ctx, a)
}

// undone reports whether an act that failed is certain to have left nothing
// behind: a refusal, without a rotation that may still come to an end.
func (s *Service) undone(ctx context.Context, o *op, err error) bool {
	if api.ProblemOf(err).Status >= 500 {
		return false
	}
	r, err := s.store.RotationByRequest(ctx, o.actor().RequestID)
	if err != nil {
		return errors.Is(err, keys.ErrNotFound)
	}
	return r.Phase == keys.PhaseAborted
}

// again is the record of an answer to an act that was done before.
func (o *op) again(reason, first string) audit.Record {
	rec := o.finish(nil)
	rec.Reason = reason
	rec.Details = map[string]string{"first_request": first}
	return rec
}

// actor is on whose behalf the lifecycle acts: under the request id of the
// attempt that began it.
func (o *op) actor() rotation.Actor {
	a := o.req.actor()
	if o.first != "" {
		a.RequestID = o.first
	}
	return a
}

// lifecycle is what acts on keys for this operation.
func (o *op) lifecycle() Lifecycle {
	if o.first != "" {
		return resuming{o.s.lifecycle, o.s.store}
	}
	return o.s.lifecycle
}

// ExpireAttempts forgets attempts that are older than AttemptLife.
func (s *Service) ExpireAttempts(ctx context.Context) (int, error) {
	return s.store.ExpireAttempts(ctx, s.now().Add(-AttemptLife))
}
