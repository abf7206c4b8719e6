package rotation

import (
	"context"
	"errors"
	"time"

	"keyhole/keys"
	"keyhole/rotation/internal/tries"
	"keyhole/store"
)

// RotateSpec says how the next version is made and when it takes over.
type RotateSpec struct {
	Reason    keys.Reason
	Note      string         // what the initiator says to it
	Algorithm keys.Algorithm // "": as the key's
	Bits      int            // 0: as the key's, or the new algorithm's default
	// ActivateAt is the moment of the switch. It is not before that, and not
	// after it if the acknowledgements are there. Zero: as soon as may be.
	ActivateAt time.Time
	// Announce takes the place of the policy's announce time. nil: the policy's.
	Announce *time.Duration

	ifDue bool // only if Engine.dueReason says so, and for that reason
}

// maxAhead bounds how far ahead a switch may be planned: until then the key
// cannot be rotated otherwise.
const maxAhead = 366 * 24 * time.Hour

// Rotate begins a rotation and takes it as far as the moment permits. By a
// policy without announcement and acknowledgements, and with nothing else
// asked for, the new version is active when it returns; else the rotation
// waits in PhaseAnnounced or PhaseScheduled, and Run drives the rest. The
// predecessor is deactivated by the switch and still verifies and decrypts.
//
// The plan is fixed by the policy as of now and by s; the reason compromise
// neither announces nor waits.
//
// Errors: keys.ErrKeyNotFound, ErrInvalid, ErrWrongPurpose, ErrUnsupported,
// ErrVersionState (the key is to be deleted), ErrRotationRunning, ErrConflict
// (it was aborted meanwhile), ErrTampered, ErrHSM, ErrAudit, ErrStore. When
// it fails before the switch the new version is destroyed and the old one
// stays active. After ErrStore, or when the undoing fails too, the rotation
// stays open: Recover and Run finish it.
func (e *Engine) Rotate(ctx context.Context, actor Actor, name string, s RotateSpec) (*keys.Rotation, error) {
	ctx, cancel := detach(ctx)
	defer cancel()
	b, err := e.beginRotate(ctx, actor, name, s)
	if err != nil {
		return nil, err
	}
	defer b.done()
	r, err := e.advance(b.ctx, actor, b.id)
	if err != nil {
		return nil, err
	}
	if r.Phase == keys.PhaseAborted {
		return nil, keys.Errorf(keys.ErrConflict, "rotation %s was aborted meanwhile: %s", r.ID, r.Error)
	}
	return r, nil
}

func (e *Engine) beginRotate(ctx context.Context, actor Actor, name string, s RotateSpec) (*begun, error) {
	return retryConflict(func() (*begun, error) {
		k, err := e.store.Key(ctx, name)
		if err != nil {
			return nil, err
		}
		now := e.clock()
		if s.ifDue {
			reason, due := e.dueReason(k, now)
			if !due {
				return nil, errNotDue
			}
			s.Reason = reason
		}
		if !k.DeleteAt.IsZero() {
			return nil, keys.Errorf(keys.ErrVersionState, "key %q is to be deleted; restore it first", name)
		}
		v, err := e.successor(k, s)
		if err != nil {
			return nil, err
		}
		r, err := e.plan(k, s, now)
		if err != nil {
			return nil, err
		}
		return e.begin(ctx, actor, k.Clone(), v, r)
	})
}

// successor says what the next version of k shall be.
func (e *Engine) successor(k *keys.Key, s RotateSpec) (*keys.Version, error) {
	alg, bits := k.Algorithm, k.Bits
	if s.Algorithm != "" {
		alg = s.Algorithm
	}
	if alg.Purpose() != k.Purpose {
		return nil, keys.Errorf(keys.ErrWrongPurpose, "key %q is for %q; %s cannot follow", k.Name, k.Purpose, alg)
	}
	if keys.Reserved(k.Name) && !vouches(alg) {
		return nil, keys.Errorf(keys.ErrInvalid, "key %q signs checkpoints of the audit log: by %s or %s, not %s", k.Name, keys.EdDSA, keys.ES256, alg)
	}
	if s.Bits != 0 || alg.Family() != keys.FamilyRSA || k.Algorithm.Family() != keys.FamilyRSA {
		bits = s.Bits // 0: the algorithm's own; only one RSA key follows another's size
	}
	bits, err := alg.KeyBits(bits)
	if err != nil {
		return nil, err
	}
	return &keys.Version{Algorithm: alg, Bits: bits}, e.token.Capable(k.Token, alg)
}

// plan makes the rotation that s asks for, under the policy of k.
func (e *Engine) plan(k *keys.Key, s RotateSpec, now time.Time) (*keys.Rotation, error) {
	r := &keys.Rotation{Reason: s.Reason, Note: s.Note}
	if s.Reason == keys.ReasonCompromise {
		if s.Announce != nil || !s.ActivateAt.IsZero() {
			return nil, keys.Errorf(keys.ErrInvalid, "a rotation for compromise neither announces nor waits: leave announce and activate_at out")
		}
		return r, nil
	}
	r.Announce, r.Acks = k.Policy.Announce, k.Policy.Acks
	if s.Announce != nil {
		r.Announce = *s.Announce
	}
	if r.Announce < 0 || r.Announce > maxAhead {
		return nil, keys.Errorf(keys.ErrInvalid, "announce is %s; it must be between 0s and %s", r.Announce, maxAhead)
	}
	if s.ActivateAt.IsZero() {
		return r, nil
	}
	at := s.ActivateAt.UTC().Truncate(time.Microsecond)
	earliest := now.Add(max(r.Announce, e.propagation))
	switch {
	case !at.After(now):
		return nil, keys.Errorf(keys.ErrInvalid, "activate_at %s is in the past: it is %s", at.Format(time.RFC3339), now.Format(time.RFC3339))
	case at.Before(earliest):
		return nil, keys.Errorf(keys.ErrInvalid, "activate_at %s is before %s, the earliest moment: the version is announced for %s, and every gateway needs %s to learn of a switch; choose a later one or a shorter announce",
			at.Format(time.RFC3339), earliest.Format(time.RFC3339), r.Announce, e.propagation)
	case at.After(now.Add(maxAhead)):
		return nil, keys.Errorf(keys.ErrInvalid, "activate_at %s is more than a year away, and the key could not be rotated until then", at.Format(time.RFC3339))
	}
	r.ActivateAt = at
	return r, nil
}

// begun is a rotation that was begun, and its lease.
type begun struct {
	id   string
	ctx  context.Context // for what is done under the lease
	done func()
}

// begin reserves the next number of k and a CKA_ID for v and opens the
// rotation r, in one durable write. k is the caller's own copy.
func (e *Engine) begin(ctx context.Context, actor Actor, k *keys.Key, v *keys.Version, r *keys.Rotation) (*begun, error) {
	now := e.clock()
	v.Number, v.ObjectID, v.ReservedAt = 1, tries.First(), now
	if last := k.Latest(); last != nil {
		v.Number = last.Number + 1
	}
	r.ID, r.Key, r.To, r.Phase = keys.NewID(now), k.Name, v.Number, keys.PhaseReserved
	r.StartedBy, r.RequestID, r.StartedAt = actor.Principal, actor.RequestID, now
	if active := k.ActiveAt(now); active != nil {
		r.From = active.Number
	}
	k.Versions = append(k.Versions, v)
	from := k.Epoch
	k.Epoch++
	// The lease before it can be seen: no timer must take it up.
	held, done, err := e.leases.Try(ctx, leaseOf(r.ID))
	if err != nil {
		return nil, err
	}
	e.keep(r.ID, v.ObjectID)
	if err := e.commit(held, store.Change{Key: k, FromEpoch: from, Rotation: r}); err != nil {
		done()
		if !errors.Is(err, keys.ErrStore) && ctx.Err() == nil {
			e.forget(r.ID) // refused: there is no such rotation
		}
		return nil, err
	}
	return &begun{r.ID, held, done}, nil
}
