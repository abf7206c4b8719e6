package rotation

import (
	"context"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// DeleteKey orders the destruction of a key with all its versions, after the
// delay that its policy sets; until then RestoreKey undoes it. From now on no
// version serves anything. A version whose destruction was scheduled before
// keeps its own moment. A rotation under way is undone by the timer.
//
// A key of which a version was used within its overlap (24 h without one) is
// refused unless forced. Errors: keys.ErrKeyNotFound, ErrVersionState (it is
// to be deleted already), ErrInUse, ErrInvalid, ErrConflict (the approval was
// used already), ErrTampered, ErrAudit, ErrStore.
func (e *Engine) DeleteKey(ctx context.Context, actor Actor, name string, s DestroySpec) (*keys.Key, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if keys.Reserved(name) {
		return nil, keys.Errorf(keys.ErrInvalid, "%q is Keyhole's own key and is not deleted; destroy single versions of it", name)
	}
	k, err := e.store.Key(ctx, name)
	if err != nil {
		return nil, err
	}
	if !k.DeleteAt.IsZero() {
		return nil, deletedAlready(k)
	}
	against, err := e.keyUsers(ctx, k)
	switch {
	case err != nil:
		return nil, err
	case len(against) > 0 && !s.Force:
		return nil, keys.Errorf(keys.ErrInUse, "key %q is not deleted: %s. Take it out of use first, or force it and say why", name, sentence(against))
	}
	details := s.details()
	for i, text := range against[:min(len(against), maxNamed)] {
		details["overridden_"+itoa(i+1)] = text
	}
	return e.act(ctx, actor, name, 0, "delete-key", details, func(k *keys.Key, now time.Time) (store.Change, error) {
		if !k.DeleteAt.IsZero() {
			return store.Change{}, deletedAlready(k)
		}
		at := now.Add(k.Policy.Delay())
		details["delete_at"] = at.Format(time.RFC3339)
		c, err := deleteAll(k, at, now, s.Note)
		c.Approval = s.done()
		return c, err
	})
}

func deletedAlready(k *keys.Key) error {
	return keys.Errorf(keys.ErrVersionState, "key %q is to be deleted already, at %s", k.Name, k.DeleteAt.Format(time.RFC3339))
}

// keyUsers says who used which version of k of late.
func (e *Engine) keyUsers(ctx context.Context, k *keys.Key) (texts []string, err error) {
	now := e.clock()
	for _, v := range k.Versions {
		if _, used := e.inUse(k, v.Number, now); !used || !v.DestroyAt.IsZero() || !v.DestroyedAt.IsZero() {
			continue
		}
		users, err := e.users(ctx, k, v.Number, now)
		if err != nil {
			return nil, err
		}
		for _, u := range users[:min(len(users), maxNamed)] {
			texts = append(texts, k.ID(v).String()+": "+u)
		}
		if len(users) == 0 {
			texts = append(texts, k.ID(v).String()+": it was used of late")
		}
	}
	return texts[:min(len(texts), maxNamed)], nil
}

// deleteAll plans the destruction of every version of k that has objects and
// no order yet. A version in the making has none: its rotation, which finds
// the key to be deleted, makes an end of it.
func deleteAll(k *keys.Key, at, now time.Time, note string) (store.Change, error) {
	c := k.Clone()
	c.DeleteAt = at
	var notices []keys.Notice
	for _, v := range k.Versions {
		if v.CreatedAt.IsZero() || !v.DestroyAt.IsZero() || !v.DestroyedAt.IsZero() {
			continue
		}
		var err error
		if c, err = c.Apply(v.Number, keys.EventDelete, at, now); err != nil {
			return store.Change{}, err
		}
		notices = append(notices, notice(keys.NoticeDestroyScheduled, c, v.Number, at, note))
	}
	return store.Change{Key: c, Notices: notices}, nil
}

// RestoreKey undoes DeleteKey, until the moment of the deletion: every
// version goes back to where the timeline puts it now. Errors:
// keys.ErrKeyNotFound, ErrVersionState (the key is not to be deleted, or it
// is too late), ErrTampered, ErrAudit, ErrStore.
func (e *Engine) RestoreKey(ctx context.Context, actor Actor, name, note string) (*keys.Key, error) {
	k, err := e.store.Key(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, v := range k.Versions {
		if !deletedWith(k, v) {
			continue
		}
		done, err := e.keepAlive(ctx, k.ID(v))
		if err != nil {
			return nil, err
		}
		defer done()
	}
	return e.act(ctx, actor, name, 0, "restore", noted(note), func(k *keys.Key, now time.Time) (store.Change, error) {
		switch {
		case k.DeleteAt.IsZero():
			return store.Change{}, keys.Errorf(keys.ErrVersionState, "key %q is not to be deleted", name)
		case !now.Before(k.DeleteAt):
			return store.Change{}, keys.Errorf(keys.ErrVersionState, "the moment to delete key %q has come; it cannot be restored any more", name)
		}
		return undelete(k, now, note)
	})
}

// deletedWith reports whether v is to be destroyed because its key is.
func deletedWith(k *keys.Key, v *keys.Version) bool {
	return !k.DeleteAt.IsZero() && v.DestroyAt.Equal(k.DeleteAt) && v.DestroyedAt.IsZero()
}

// undelete takes the deletion of k back.
func undelete(k *keys.Key, now time.Time, note string) (store.Change, error) {
	c := k.Clone()
	var notices []keys.Notice
	for _, v := range k.Versions {
		if !deletedWith(k, v) {
			continue
		}
		var err error
		if c, err = restored(c, v.Number, now); err != nil {
			return store.Change{}, err
		}
		notices = append(notices, notice(keys.NoticeRestored, c, v.Number, now, note))
	}
	c.DeleteAt = time.Time{}
	return store.Change{Key: c, Notices: append(notices, switched(k, c, now, note)...)}, nil
}
