package rotation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyhole/audit"
	"keyhole/keys"
	"keyhole/rotation/internal/tries"
)

// errTakenOver ends the work of one whose rotation another process has taken
// over: what it made is not registered any more.
var errTakenOver = keys.Errorf(keys.ErrStore, "another gateway has taken the rotation over and goes on with it; see what stands before trying again")

// making reports whether the rotation is still to bring about what ref names.
func (t *turn) making(ref keys.Ref) bool {
	v, err := t.key.Version(t.r.To)
	return err == nil && t.r.Phase == keys.PhaseReserved && v.ObjectID == ref.ID && v.CreatedAt.IsZero()
}

// generate makes the version's objects and publishes the version; by a plan
// that waits for nothing, the same write makes it the active one. Whatever
// fails before undoes the rotation.
func (e *Engine) generate(ctx context.Context, actor Actor, r *keys.Rotation) error {
	k, v, err := e.claimTry(ctx, r)
	if err != nil || v == nil {
		return err
	}
	ref := k.Ref(v)
	seq, err := e.audit.Append(ctx, e.rotationRecord(actor, r, k, v, audit.OutcomeIntent, nil))
	if err != nil {
		return e.fail(ctx, actor, r, ref, err)
	}
	e.intended(r.ID, seq)
	made, err := e.makeObjects(ctx, ref)
	if lost := stillOurs(ctx); lost != nil {
		e.leave(ctx, r, ref)
		return lost
	}
	if err != nil {
		return e.fail(ctx, actor, r, ref, err)
	}
	registered := false
	_, err = e.change(ctx, r, func(t *turn) error {
		registered = false
		if !t.making(ref) {
			return errTakenOver
		}
		v, err := t.key.Version(t.r.To)
		if err != nil {
			return err
		}
		if !t.key.DeleteAt.IsZero() {
			t.giveUp(deletedMeanwhile, "")
			return nil
		}
		v.PublicKey, v.Check = made.PublicKey, made.Check
		v.NeverExtractable, v.AlwaysSensitive = made.NeverExtractable, made.AlwaysSensitive
		v.CreatedAt, v.AnnouncedAt = t.now, t.now
		t.r.Phase, t.r.AnnouncedAt, t.moved = keys.PhaseAnnounced, t.now, true
		t.timed = t.r
		t.tell(keys.NoticeAnnounced, v.Number, t.now)
		registered = true
		return e.forward(ctx, t)
	})
	if !registered || err != nil {
		e.leave(ctx, r, ref)
	}
	return err
}

// claimTry returns the key and the version of a reserved rotation, under a
// CKA_ID by which nobody has generated yet: a durable write gives it another
// one if this process did not choose the one that it has. No version: there is
// none to be made any more.
func (e *Engine) claimTry(ctx context.Context, r *keys.Rotation) (*keys.Key, *keys.Version, error) {
	k, err := e.store.Key(ctx, r.Key)
	if err != nil {
		return nil, nil, err
	}
	v, err := k.Version(r.To)
	if err != nil {
		return nil, nil, err
	}
	if v.CreatedAt.IsZero() && e.use(r.ID, v.ObjectID) {
		return k, v, nil
	}
	if err := stillOurs(ctx); err != nil {
		return nil, nil, err
	}
	fresh := keys.ObjectID{}
	moved, err := e.change(ctx, r, func(t *turn) error {
		fresh = keys.ObjectID{}
		v, err := t.key.Version(t.r.To)
		if err != nil || t.r.Phase != keys.PhaseReserved {
			return err
		}
		if !v.CreatedAt.IsZero() { // it may sign: its objects must not be touched
			return fmt.Errorf("rotation %s: version %s is generated already: %w", r.ID, t.key.ID(v), keys.ErrInternal)
		}
		id, ok := tries.Next(v.ObjectID)
		if !ok {
			t.giveUp("its version was tried to be generated too often", "")
			return nil
		}
		v.ObjectID, fresh, t.moved = id, id, true
		return nil
	})
	if err != nil || !moved || fresh == (keys.ObjectID{}) {
		return nil, nil, err
	}
	if k, err = e.store.Key(ctx, r.Key); err != nil {
		return nil, nil, err
	}
	if v, err = k.Version(r.To); err != nil || v.ObjectID != fresh || !v.CreatedAt.IsZero() {
		return nil, nil, err // somebody was faster
	}
	return k, v, nil
}

// makeObjects generates what ref names. What tries before have left, those of
// a process that was killed, is destroyed: nothing will register it.
func (e *Engine) makeObjects(ctx context.Context, ref keys.Ref) (keys.Generated, error) {
	if err := e.destroyTries(ctx, ref); err != nil {
		return keys.Generated{}, err
	}
	if err := stillOurs(ctx); err != nil {
		return keys.Generated{}, err
	}
	return e.token.Generate(ctx, ref)
}

// destroyTries destroys the objects of a version that is not registered, of
// all tries to make it.
func (e *Engine) destroyTries(ctx context.Context, ref keys.Ref) error {
	for _, id := range append(tries.Before(ref.ID), ref.ID) {
		earlier := ref
		earlier.ID = id
		if err := e.token.Destroy(ctx, earlier); err != nil {
			return err
		}
	}
	return nil
}

// leaveTimeout bounds the cleaning up of one who has lost his lease.
const leaveTimeout = 30 * time.Second

// leave destroys what this process has generated and did not register, if
// nobody else can come to register or destroy it: the version has another
// CKA_ID by now, or is gone. Otherwise it is left to whoever takes the
// rotation up.
func (e *Engine) leave(ctx context.Context, r *keys.Rotation, ref keys.Ref) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	k, err := e.store.Key(ctx, r.Key)
	if err == nil {
		v, verr := k.Version(r.To)
		if verr == nil && v.ObjectID == ref.ID && v.DestroyedAt.IsZero() {
			return
		}
	} else if !errors.Is(err, keys.ErrKeyNotFound) {
		e.log.WarnContext(ctx, "it is not known whether what was generated is needed; it is left", "rotation", r.ID, "cka_id", ref.ID, "err", err)
		return
	}
	if err := e.token.Destroy(ctx, ref); err != nil {
		e.log.ErrorContext(ctx, "objects that were generated in vain are not destroyed; Reconcile will", "label", ref.Label, "cka_id", ref.ID, "err", err)
		return
	}
	e.log.WarnContext(ctx, "another gateway has taken a rotation over; what was generated here is destroyed", "rotation", r.ID, "label", ref.Label, "cka_id", ref.ID)
}

// intended remembers the seq of the intent of a rotation.
func (e *Engine) intended(rotation string, seq uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.intents[rotation] = seq
}
