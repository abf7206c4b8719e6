package rotation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyhole/audit"
	"keyhole/keys"
	"keyhole/store"
)

// Spec describes a key to be made.
type Spec struct {
	Name        string
	Algorithm   keys.Algorithm
	Bits        int
	Description string
	Tags        map[string]string
	Token       string // "": the default token
	Policy      keys.Policy
}

// CreateKey makes a key with an active version 1 and returns it. Errors:
// keys.ErrInvalid, ErrUnsupported, ErrKeyExists, ErrKeyRetired, ErrHSM,
// ErrAudit, ErrStore. A key whose first version could not be generated does
// not exist afterwards. After ErrStore, or when the undoing fails too, the
// rotation stays open: Recover and Run finish it, and the key exists then.
func (e *Engine) CreateKey(ctx context.Context, actor Actor, s Spec) (*keys.Key, error) {
	if err := keys.CheckNewName(s.Name); err != nil {
		return nil, err
	}
	if _, err := keys.ParseAlgorithm(string(s.Algorithm)); err != nil {
		return nil, err
	}
	bits, err := s.Algorithm.KeyBits(s.Bits)
	if err != nil {
		return nil, err
	}
	if err := s.Policy.Check(e.limits); err != nil {
		return nil, err
	}
	if s.Token == "" {
		s.Token = e.token.DefaultToken()
	}
	if !e.token.HasToken(s.Token) {
		return nil, keys.Errorf(keys.ErrInvalid, "no token is configured under the name %q", s.Token)
	}
	if s, err = e.offered(s); err != nil {
		return nil, err
	}
	ctx, cancel := detach(ctx)
	defer cancel()
	k := &keys.Key{
		Name: s.Name, Purpose: s.Algorithm.Purpose(), Algorithm: s.Algorithm, Bits: bits,
		Description: s.Description, Tags: s.Tags, Token: s.Token, Policy: s.Policy, CreatedAt: e.clock(),
	}
	r, err := e.begin(ctx, actor, k, s.Algorithm, bits, keys.ReasonInitial)
	if err != nil {
		return nil, err
	}
	if r, err = e.advance(ctx, actor, r); err != nil {
		return nil, err
	}
	return e.store.Key(ctx, r.Key)
}

// oaepNote is added to the description of a key that asked for more than its
// token can do.
const oaepNote = "[RSA-OAEP with SHA-1 (and MGF1 with SHA-1) in place of RSA-OAEP-256: the token %q does not do OAEP with SHA-256.]"

// offered returns s with an algorithm that its token has. Where a round trip
// has shown that the token does OAEP with SHA-1 only, a key that asks for
// RSA-OAEP-256 gets RSA-OAEP, and its description says so. Everything else
// that the token cannot do is keys.ErrUnsupported.
func (e *Engine) offered(s Spec) (Spec, error) {
	err := e.token.Capable(s.Token, s.Algorithm)
	if s.Algorithm != keys.RSAOAEP256 || !errors.Is(err, keys.ErrUnsupported) || e.token.Capable(s.Token, keys.RSAOAEP) != nil {
		return s, err
	}
	s.Algorithm = keys.RSAOAEP
	if s.Description != "" {
		s.Description += " "
	}
	s.Description += fmt.Sprintf(oaepNote, s.Token)
	return s, nil
}

// RotateSpec says how the next version is made.
type RotateSpec struct {
	Reason    keys.Reason
	Algorithm keys.Algorithm // "": as the key's
	Bits      int            // 0: as the key's, or the new algorithm's default

	ifDue bool // only if dueReason says so, and for that reason
}

// Rotate generates the next version and activates it at once; the
// predecessor is deactivated by that and still verifies and decrypts.
// Errors: keys.ErrKeyNotFound, ErrInvalid, ErrWrongPurpose, ErrUnsupported,
// ErrRotationRunning, ErrHSM, ErrAudit, ErrStore. When it fails before the
// switch the new version is destroyed and the old one stays active. After
// ErrStore, or when the undoing fails too, the rotation stays open: Recover
// and Run finish it, and the new version is active then.
func (e *Engine) Rotate(ctx context.Context, actor Actor, name string, s RotateSpec) (*keys.Rotation, error) {
	ctx, cancel := detach(ctx)
	defer cancel()
	r, err := e.beginRotate(ctx, actor, name, s)
	if err != nil {
		return nil, err
	}
	return e.advance(ctx, actor, r)
}

func (e *Engine) beginRotate(ctx context.Context, actor Actor, name string, s RotateSpec) (*keys.Rotation, error) {
	return retryConflict(func() (*keys.Rotation, error) {
		old, err := e.store.Key(ctx, name)
		if err != nil {
			return nil, err
		}
		if s.ifDue {
			reason, due := dueReason(old, e.clock())
			if !due {
				return nil, errNotDue
			}
			s.Reason = reason
		}
		k := old.Clone()
		alg, bits := k.Algorithm, k.Bits
		if s.Algorithm != "" {
			alg = s.Algorithm
		}
		if alg.Purpose() != k.Purpose {
			return nil, keys.Errorf(keys.ErrWrongPurpose, "key %q is for %q; %s cannot follow", name, k.Purpose, alg)
		}
		if s.Bits != 0 || alg.Family() != keys.FamilyRSA || k.Algorithm.Family() != keys.FamilyRSA {
			bits = s.Bits // 0: the algorithm's own; only one RSA key follows another's size
		}
		if bits, err = alg.KeyBits(bits); err != nil {
			return nil, err
		}
		if err := e.token.Capable(k.Token, alg); err != nil {
			return nil, err
		}
		return e.begin(ctx, actor, k, alg, bits, s.Reason)
	})
}

// begin reserves the next number and CKA_ID of k and opens the rotation, in
// one durable write. k is the caller's own copy.
func (e *Engine) begin(ctx context.Context, actor Actor, k *keys.Key, alg keys.Algorithm, bits int, reason keys.Reason) (*keys.Rotation, error) {
	now := e.clock()
	v := &keys.Version{Number: 1, ObjectID: keys.NewObjectID(), Algorithm: alg, Bits: bits, ReservedAt: now}
	if last := k.Latest(); last != nil {
		v.Number = last.Number + 1
	}
	r := &keys.Rotation{
		ID: newRotationID(now), Key: k.Name, To: v.Number, Reason: reason, Phase: keys.PhaseReserved,
		StartedBy: actor.Principal, RequestID: actor.RequestID, StartedAt: now,
	}
	if active := k.ActiveAt(now); active != nil {
		r.From = active.Number
	}
	k.Versions = append(k.Versions, v)
	from := k.Epoch
	k.Epoch++
	if !e.claim(r.ID) {
		return nil, keys.Errorf(keys.ErrRotationRunning, "rotation %s is running", r.ID)
	}
	if err := e.commit(ctx, store.Change{Key: k, FromEpoch: from, Rotation: r}); err != nil {
		e.release(r.ID)
		return nil, err
	}
	return r, nil
}

// advance takes a rotation from whatever state it is in to its end. The
// caller has claimed it.
func (e *Engine) advance(ctx context.Context, actor Actor, r *keys.Rotation) (*keys.Rotation, error) {
	defer e.release(r.ID)
	for !r.Phase.Done() {
		next, err := e.step(ctx, actor, r)
		if err != nil {
			return nil, err
		}
		r = next
	}
	return r, nil
}

// step looks at the rotation's state and takes one step.
func (e *Engine) step(ctx context.Context, actor Actor, r *keys.Rotation) (*keys.Rotation, error) {
	switch r.Phase {
	case keys.PhaseReserved:
		return e.generate(ctx, actor, r)
	case keys.PhaseActivated:
		return e.conclude(ctx, actor, r)
	}
	return nil, fmt.Errorf("rotation %s: no step from phase %q: %w", r.ID, r.Phase, keys.ErrInternal)
}

// generate makes the version's objects and activates it. Whatever fails
// before the switch undoes the rotation.
func (e *Engine) generate(ctx context.Context, actor Actor, r *keys.Rotation) (*keys.Rotation, error) {
	k, err := e.store.Key(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	v, err := unmade(k, r)
	if err != nil {
		return nil, err
	}
	if _, err := e.audit.Append(ctx, e.rotationRecord(actor, r, k, v, audit.OutcomeIntent, nil)); err != nil {
		return nil, e.abort(ctx, actor, r, err)
	}
	// After a crash the objects may be there, unregistered and unchecked:
	// they are made anew.
	ref := k.Ref(v)
	if err := e.token.Destroy(ctx, ref); err != nil {
		return nil, e.abort(ctx, actor, r, err)
	}
	made, err := e.token.Generate(ctx, ref)
	if err != nil {
		return nil, e.abort(ctx, actor, r, err)
	}
	return retryConflict(func() (*keys.Rotation, error) {
		k, err := e.store.Key(ctx, r.Key)
		if err != nil {
			return nil, err
		}
		c := k.Clone()
		v, err := c.Version(r.To)
		if err != nil {
			return nil, err
		}
		now := e.clock()
		v.PublicKey, v.Check = made.PublicKey, made.Check
		v.NeverExtractable, v.AlwaysSensitive = made.NeverExtractable, made.AlwaysSensitive
		v.CreatedAt, v.AnnouncedAt = now, now
		c.Algorithm, c.Bits = v.Algorithm, v.Bits
		if c, err = c.Apply(r.To, keys.EventActivate, activation(c, v, now), now); err != nil {
			return nil, err
		}
		c.Epoch = k.Epoch + 1
		next := *r
		next.Phase, next.CompletedAt = keys.PhaseActivated, now
		// Point of no return: from here on the new version signs.
		if err := e.commit(ctx, store.Change{Key: c, FromEpoch: k.Epoch, Rotation: &next}); err != nil {
			return nil, err
		}
		return &next, nil
	})
}

// activation returns when v becomes the active version: at now, but never
// before a version that it shall replace. Another gateway whose clock is
// ahead may have made that one; v, with the earlier time, would give way to
// it a moment later.
func activation(k *keys.Key, v *keys.Version, now time.Time) time.Time {
	at := now
	for _, w := range k.Versions {
		if w.Number < v.Number && w.RevokedAt.IsZero() && w.DestroyedAt.IsZero() && w.ActivateAt.After(at) {
			at = w.ActivateAt // of equals, the higher number is active
		}
	}
	return at
}

// unmade returns the version that a rotation is about to make. One that is
// generated already may sign: its objects must not be touched, whatever the
// rotation's phase.
func unmade(k *keys.Key, r *keys.Rotation) (*keys.Version, error) {
	v, err := k.Version(r.To)
	if err == nil && !v.CreatedAt.IsZero() {
		err = fmt.Errorf("rotation %s: version %s is generated already: %w", r.ID, k.ID(v), keys.ErrInternal)
	}
	return v, err
}

// conclude records the outcome and closes the rotation.
func (e *Engine) conclude(ctx context.Context, actor Actor, r *keys.Rotation) (*keys.Rotation, error) {
	k, err := e.store.Key(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	v, err := k.Version(r.To)
	if err != nil {
		return nil, err
	}
	if _, err := e.audit.Append(ctx, e.rotationRecord(actor, r, k, v, audit.OutcomeOK, nil)); err != nil {
		return nil, err
	}
	next := *r
	next.Phase = keys.PhaseCompleted
	if err := e.commit(ctx, store.Change{Rotation: &next}); err != nil {
		return nil, err
	}
	e.log.InfoContext(ctx, "key rotated", "key", r.Key, "from", r.From, "to", r.To, "reason", r.Reason, "rotation", r.ID)
	return &next, nil
}

// abort undoes a rotation before its switch and returns the reason, cause.
// What it cannot undo now, Recover and the timer will.
func (e *Engine) abort(ctx context.Context, actor Actor, r *keys.Rotation, cause error) error {
	e.log.ErrorContext(ctx, "rotation failed; undoing it", "key", r.Key, "version", r.To, "rotation", r.ID, "err", cause)
	undo := func() (struct{}, error) {
		k, err := e.store.Key(ctx, r.Key)
		if err != nil {
			return struct{}{}, err
		}
		v, err := unmade(k, r)
		if err != nil {
			return struct{}{}, err
		}
		if err := e.token.Destroy(ctx, k.Ref(v)); err != nil {
			return struct{}{}, err
		}
		now := e.clock()
		next := *r
		next.Phase, next.CompletedAt, next.Error = keys.PhaseAborted, now, publicText(cause)
		if _, err := e.audit.Append(ctx, e.rotationRecord(actor, &next, k, v, audit.OutcomeError, cause)); err != nil && !errors.Is(cause, keys.ErrAudit) {
			return struct{}{}, err
		}
		change := store.Change{FromEpoch: k.Epoch, Rotation: &next}
		if r.Reason == keys.ReasonInitial {
			// Nothing was ever made under this name: it stays free.
			change.Key, change.Delete = k, true
		} else {
			c, err := k.Apply(r.To, keys.EventDestroy, now, now)
			if err != nil {
				return struct{}{}, err
			}
			c.Epoch = k.Epoch + 1
			change.Key = c
		}
		return struct{}{}, e.commit(ctx, change)
	}
	if _, err := retryConflict(undo); err != nil {
		e.log.ErrorContext(ctx, "rotation not undone yet; it will be taken up again", "rotation", r.ID, "err", err)
	}
	return cause
}

// publicText is what administrators may see of an error.
func publicText(err error) string {
	var e *keys.Error
	if errors.As(err, &e) {
		return e.Detail
	}
	for _, sentinel := range []error{keys.ErrHSM, keys.ErrAudit, keys.ErrStore, keys.ErrTimeout, keys.ErrUnsupported} {
		if errors.Is(err, sentinel) {
			return sentinel.Error()
		}
	}
	return keys.ErrInternal.Error()
}

// retryConflict runs a read-change-commit again when another change of the
// key came between. Every attempt reads the state anew.
func retryConflict[T any](f func() (T, error)) (T, error) {
	const attempts = 8
	for i := 1; ; i++ {
		t, err := f()
		if i == attempts || !errors.Is(err, keys.ErrConflict) {
			return t, err
		}
	}
}

// claim marks a rotation as worked on by this process; false if it is.
func (e *Engine) claim(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running[id] {
		return false
	}
	e.running[id] = true
	return true
}

func (e *Engine) release(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.running, id)
}
