package gateway

import (
	"context"
	"errors"
	"maps"

	"keyhole/keys"
	"keyhole/rotation"
)

// resuming is the lifecycle for a request whose first attempt left no
// answer: each act looks at what stands before it does anything.
type resuming struct {
	Lifecycle
	attempts Attempts
}

func (l resuming) CreateKey(ctx context.Context, a rotation.Actor, spec rotation.Spec) (*keys.Key, error) {
	r, err := l.begun(ctx, a)
	if err != nil {
		return nil, err
	}
	if r != nil && !r.Phase.Done() {
		return nil, unfinished(r)
	}
	if r != nil {
		return l.attempts.Key(ctx, r.Key)
	}
	return l.Lifecycle.CreateKey(ctx, a, spec)
}

func (l resuming) Rotate(ctx context.Context, a rotation.Actor, name string, spec rotation.RotateSpec) (*keys.Rotation, error) {
	if r, err := l.begun(ctx, a); r != nil || err != nil {
		return r, err
	}
	return l.Lifecycle.Rotate(ctx, a, name, spec)
}

// begun returns the rotation that the first attempt began; nil if it began
// none or it was undone. One whose version is not made yet is
// keys.ErrConflict: the engine takes it up by itself.
func (l resuming) begun(ctx context.Context, a rotation.Actor) (*keys.Rotation, error) {
	r, err := l.attempts.RotationByRequest(ctx, a.RequestID)
	switch {
	case errors.Is(err, keys.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case r.Phase == keys.PhaseAborted:
		return nil, nil
	case r.Phase == keys.PhaseReserved:
		return nil, unfinished(r)
	}
	return r, nil
}

func unfinished(r *keys.Rotation) error {
	return keys.Errorf(keys.ErrConflict, "the first request with this Idempotency-Key began rotation %s, which is being finished; ask again in a moment", r.ID)
}

func (l resuming) ActivateRotation(ctx context.Context, a rotation.Actor, id, note string) (*keys.Rotation, error) {
	if r, err := l.Lifecycle.Rotation(ctx, id); err == nil && r.ForcedBy == a.Principal && r.Phase != keys.PhaseAborted {
		return r, nil
	}
	return l.Lifecycle.ActivateRotation(ctx, a, id, note)
}

func (l resuming) AbortRotation(ctx context.Context, a rotation.Actor, id, note string) (*keys.Rotation, error) {
	if r, err := l.Lifecycle.Rotation(ctx, id); err == nil && r.EndedBy == a.Principal && r.Phase == keys.PhaseAborted {
		return r, nil
	}
	return l.Lifecycle.AbortRotation(ctx, a, id, note)
}

func (l resuming) UpdateKey(ctx context.Context, a rotation.Actor, name string, u rotation.Update) (*keys.Key, error) {
	k, err := l.attempts.Key(ctx, name)
	if err != nil {
		return nil, err
	}
	same := (u.Description == nil || *u.Description == k.Description) && (u.Tags == nil || maps.Equal(*u.Tags, k.Tags)) &&
		(u.Policy == nil || *u.Policy == k.Policy)
	if same && k.Epoch != u.Epoch {
		return k, nil
	}
	return l.Lifecycle.UpdateKey(ctx, a, name, u)
}

func (l resuming) Suspend(ctx context.Context, a rotation.Actor, name string, n uint32, note string) (*keys.Key, error) {
	return l.unless(ctx, a, name, n, note, func(v *keys.Version) bool { return !v.SuspendedAt.IsZero() }, l.Lifecycle.Suspend)
}

func (l resuming) Resume(ctx context.Context, a rotation.Actor, name string, n uint32, note string) (*keys.Key, error) {
	return l.unless(ctx, a, name, n, note, func(v *keys.Version) bool {
		return v.SuspendedAt.IsZero() && v.RevokedAt.IsZero() && v.ArchivedAt.IsZero() && v.DestroyAt.IsZero() && v.DestroyedAt.IsZero()
	}, l.Lifecycle.Resume)
}

func (l resuming) Revoke(ctx context.Context, a rotation.Actor, name string, n uint32, note string) (*keys.Key, error) {
	return l.unless(ctx, a, name, n, note, func(v *keys.Version) bool { return !v.RevokedAt.IsZero() }, l.Lifecycle.Revoke)
}

func (l resuming) Restore(ctx context.Context, a rotation.Actor, name string, n uint32, note string) (*keys.Key, error) {
	return l.unless(ctx, a, name, n, note, func(v *keys.Version) bool { return v.DestroyAt.IsZero() && v.DestroyedAt.IsZero() }, l.Lifecycle.Restore)
}

func (l resuming) Destroy(ctx context.Context, a rotation.Actor, name string, n uint32, spec rotation.DestroySpec) (*keys.Key, error) {
	return l.unless(ctx, a, name, n, "", func(v *keys.Version) bool { return !v.DestroyAt.IsZero() || !v.DestroyedAt.IsZero() },
		func(ctx context.Context, a rotation.Actor, name string, n uint32, _ string) (*keys.Key, error) {
			return l.Lifecycle.Destroy(ctx, a, name, n, spec)
		})
}

func (l resuming) DeleteKey(ctx context.Context, a rotation.Actor, name string, spec rotation.DestroySpec) (*keys.Key, error) {
	if k, err := l.attempts.Key(ctx, name); err != nil || !k.DeleteAt.IsZero() {
		return k, err
	}
	return l.Lifecycle.DeleteKey(ctx, a, name, spec)
}

func (l resuming) RestoreKey(ctx context.Context, a rotation.Actor, name, note string) (*keys.Key, error) {
	if k, err := l.attempts.Key(ctx, name); err != nil || k.DeleteAt.IsZero() {
		return k, err
	}
	return l.Lifecycle.RestoreKey(ctx, a, name, note)
}

// unless acts on a version that is not yet as the act would leave it.
func (l resuming) unless(ctx context.Context, a rotation.Actor, name string, n uint32, note string, done func(*keys.Version) bool,
	act func(context.Context, rotation.Actor, string, uint32, string) (*keys.Key, error),
) (*keys.Key, error) {
	k, err := l.attempts.Key(ctx, name)
	if err != nil {
		return nil, err
	}
	if v, err := k.Version(n); err == nil && done(v) {
		return k, nil
	}
	return act(ctx, a, name, n, note)
}
