package rotation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"keyhole/keys"
	"keyhole/rotation/lease"
	"keyhole/store"
)

// DestroySpec says how and why something is to be destroyed.
type DestroySpec struct {
	Note  string // why
	Force bool   // although it is used, or its overlap is not over; needs a Note
	// Approval, if the act needed one, is the approved row. It is done with
	// the act, in the same write.
	Approval *keys.Approval
}

// check refuses a spec that overrides without saying why.
func (s DestroySpec) check() error {
	if s.Force && strings.TrimSpace(s.Note) == "" {
		return keys.Errorf(keys.ErrInvalid, "forced destruction needs a reason: say why what speaks against it does not count")
	}
	return nil
}

// details is what the audit log says of it.
func (s DestroySpec) details() map[string]string {
	d := map[string]string{}
	if s.Note != "" {
		d["note"] = s.Note
	}
	if s.Force {
		d["force"] = "true"
	}
	if a := s.Approval; a != nil {
		d["approval"], d["requested_by"], d["approved_by"] = a.ID, a.RequestedBy, a.DecidedBy
	}
	return d
}

// done returns the approval as it is when the act is done.
func (s DestroySpec) done() *keys.Approval {
	if s.Approval == nil {
		return nil
	}
	a := *s.Approval
	a.State, a.Error = keys.ApprovalDone, ""
	return &a
}

// Destroy schedules the destruction of a version, after the delay that the
// policy sets; until then Restore undoes it. From now on the version serves
// nothing. The active version is refused, and one on its way: what they are
// is changed by a rotation. One against which Objections speak is refused
// unless forced; the delay is observed even so. Errors: keys.ErrKeyNotFound,
// ErrVersionNotFound, ErrVersionState, ErrInUse, ErrInvalid, ErrConflict (the
// approval was used already), ErrTampered, ErrAudit, ErrStore.
func (e *Engine) Destroy(ctx context.Context, actor Actor, name string, n uint32, s DestroySpec) (*keys.Key, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	k, err := e.store.Key(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := made(k, n); err != nil {
		return nil, err
	}
	if _, err := scheduleDestroy(k, n, e.clock(), e.clock(), ""); err != nil {
		return nil, err // whatever else speaks against it
	}
	against, err := e.Objections(ctx, k, n)
	switch {
	case err != nil:
		return nil, err
	case len(against) > 0 && !s.Force:
		return nil, keys.Errorf(keys.ErrInUse, "version %s is not destroyed: %s. Wait until that has passed, or force it and say why",
			keys.VersionID{Key: name, Number: n}, sentence(against))
	}
	details := s.details()
	if s.Force {
		for i, text := range against[:min(len(against), maxNamed)] {
			details["overridden_"+itoa(i+1)] = text
		}
	}
	return e.act(ctx, actor, name, n, "destroy", details, func(k *keys.Key, now time.Time) (store.Change, error) {
		if err := made(k, n); err != nil {
			return store.Change{}, err
		}
		// Between the objections and this write it may have been used.
		if last, used := e.inUse(k, n, now); used && !s.Force {
			return store.Change{}, keys.Errorf(keys.ErrInUse, "version %s was used at %s: it is not destroyed unless forced",
				keys.VersionID{Key: name, Number: n}, last.Format(time.RFC3339))
		}
		at := now.Add(k.Policy.Delay())
		details["destroy_at"] = at.Format(time.RFC3339)
		c, err := scheduleDestroy(k, n, at, now, s.Note)
		c.Approval = s.done()
		return c, err
	})
}

// scheduleDestroy plans the destruction of version n.
func scheduleDestroy(k *keys.Key, n uint32, at, now time.Time, note string) (store.Change, error) {
	c, err := k.Apply(n, keys.EventScheduleDestroy, at, now)
	if err != nil {
		return store.Change{}, err
	}
	return store.Change{Key: c, Notices: []keys.Notice{notice(keys.NoticeDestroyScheduled, c, n, at, note)}}, nil
}

// Restore undoes Destroy, until the moment of the destruction. The version
// goes back to where the timeline puts it now. A version of a key that is to
// be deleted comes back with RestoreKey only. Errors as Resume; and
// keys.ErrVersionState if it is too late.
func (e *Engine) Restore(ctx context.Context, actor Actor, name string, n uint32, note string) (*keys.Key, error) {
	id := keys.VersionID{Key: name, Number: n}
	done, err := e.keepAlive(ctx, id)
	if err != nil {
		return nil, err
	}
	defer done()
	return e.act(ctx, actor, name, n, "restore", noted(note), func(k *keys.Key, now time.Time) (store.Change, error) {
		if v, err := k.Version(n); err == nil && !k.DeleteAt.IsZero() && v.DestroyAt.Equal(k.DeleteAt) {
			return store.Change{}, keys.Errorf(keys.ErrVersionState, "version %s is destroyed with its key; restore the key", id)
		}
		c, err := restored(k, n, now)
		if err != nil {
			return store.Change{}, err
		}
		notices := append([]keys.Notice{notice(keys.NoticeRestored, c, n, now, note)}, switched(k, c, now, note)...)
		return store.Change{Key: c, Notices: notices}, nil
	})
}

// restored returns k with the destruction of version n taken back. A
// predecessor whose overlap is over meanwhile comes back archived where the
// policy would have it destroyed, or that would happen at the next moment.
func restored(k *keys.Key, n uint32, now time.Time) (*keys.Key, error) {
	v, err := k.Version(n)
	if err != nil {
		return nil, err
	}
	if !v.DestroyAt.IsZero() && v.DestroyedAt.IsZero() && !now.Before(v.DestroyAt) {
		return nil, tooLate(k.ID(v))
	}
	c, err := k.Apply(n, keys.EventRestore, now, now)
	if err != nil || k.Policy.AfterOverlap != keys.OverlapDestroy {
		return c, err
	}
	if v, err = c.Version(n); err != nil {
		return nil, err
	}
	if end := c.OverlapEndsAt(v, now); c.StateAt(v, now) == keys.Deactivated && !end.IsZero() && !now.Before(end) {
		return c.Apply(n, keys.EventArchive, now, now)
	}
	return c, nil
}

func tooLate(id keys.VersionID) error {
	return keys.Errorf(keys.ErrVersionState, "the moment to destroy version %s has come; it cannot be restored any more", id)
}

// keepAlive keeps every process from destroying a version until done is
// called, and refuses if its objects are gone: a destruction that a crash
// interrupted. A token that does not answer is no reason to let the moment
// pass.
func (e *Engine) keepAlive(ctx context.Context, id keys.VersionID) (done func(), err error) {
	_, done, err = e.leases.Try(ctx, leaseOfEnd(id))
	if errors.Is(err, lease.ErrTaken) {
		return nil, keys.Errorf(keys.ErrVersionState, "version %s is being destroyed or restored at this moment", id)
	}
	if err != nil {
		return nil, err
	}
	if err := e.stillThere(ctx, id); err != nil {
		done()
		return nil, err
	}
	return done, nil
}

// stillThere refuses if a version that is to be destroyed is not whole.
func (e *Engine) stillThere(ctx context.Context, id keys.VersionID) error {
	k, err := e.store.Key(ctx, id.Key)
	if err != nil {
		return err
	}
	v, err := k.Version(id.Number)
	if err != nil {
		return err
	}
	if k.StateAt(v, e.clock()) != keys.DestroyScheduled {
		return nil // the table says what is wrong with it
	}
	if _, err := e.token.Inspect(ctx, k.Ref(v)); errors.Is(err, keys.ErrNotFound) || errors.Is(err, keys.ErrInvalid) {
		return keys.Errorf(keys.ErrVersionState, "the objects of version %s are not whole on the token %q any more; it cannot be restored", id, k.Token)
	}
	return nil
}

// defaultUseWindow is how long a use counts where the policy sets no overlap.
const defaultUseWindow = 24 * time.Hour

// maxNamed bounds the users that a text or record names.
const maxNamed = 10

// useWindow is how long after a use a version of k is not destroyed: its
// overlap, but never less than the shortest delay of a destruction, or a
// change of policy by one person would be enough.
func (e *Engine) useWindow(k *keys.Key) time.Duration {
	if k.Policy.Overlap > 0 {
		return max(k.Policy.Overlap, e.limits.MinDestroyDelay)
	}
	return defaultUseWindow
}

// inUse reports whether version n was used within the window, and when last.
func (e *Engine) inUse(k *keys.Key, n uint32, now time.Time) (last time.Time, used bool) {
	last = e.usage.Of(k.Name, n).LastUse
	return last, !last.IsZero() && now.Sub(last) < e.useWindow(k)
}

// keptByUse is inUse for the end of the overlap: what is archived can still be
// recovered from, so that only the overlap itself counts there.
func (e *Engine) keptByUse(k *keys.Key, n uint32, now time.Time) (last time.Time, used bool) {
	last, used = e.inUse(k, n, now)
	if k.Policy.AfterOverlap != keys.OverlapDestroy {
		used = used && now.Sub(last) < k.Policy.Overlap
	}
	return last, used
}

// users says who used version n within the window, latest first.
func (e *Engine) users(ctx context.Context, k *keys.Key, n uint32, now time.Time) ([]string, error) {
	all, err := e.usage.ByAgent(ctx, k.Name)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(u keys.Usage) bool {
		return u.Version != n || u.LastUse.IsZero() || now.Sub(u.LastUse) >= e.useWindow(k)
	})
	slices.SortFunc(all, func(a, b keys.Usage) int {
		return cmp.Or(b.LastUse.Compare(a.LastUse), strings.Compare(a.Principal, b.Principal))
	})
	texts := make([]string, len(all))
	for i, u := range all {
		who := u.Principal
		if who == "" {
			who = "somebody"
		}
		texts[i] = fmt.Sprintf("it is used by %s: %d operations so far, the last at %s", who, u.Applied+u.Processed, u.LastUse.Format(time.RFC3339))
	}
	return texts, nil
}

// Objections says in words for people what speaks against the destruction of
// version n of k; nothing: it is safe. Errors: keys.ErrVersionNotFound,
// ErrStore.
func (e *Engine) Objections(ctx context.Context, k *keys.Key, n uint32) ([]string, error) {
	v, err := k.Version(n)
	if err != nil {
		return nil, err
	}
	now := e.clock()
	var against []string
	switch k.StateAt(v, now) {
	case keys.Active:
		against = append(against, "it is the active version; rotate the key first")
	case keys.PreActivation:
		against = append(against, "a rotation is under way to make it the active version; abort that instead")
	case keys.DestroyScheduled:
		return []string{"its destruction is scheduled already, for " + v.DestroyAt.Format(time.RFC3339)}, nil
	case keys.Destroyed:
		return []string{"it is destroyed already"}, nil
	default:
		if newest(k) == v {
			against = append(against, "it is the newest version; rotate the key first")
		}
	}
	if end := k.OverlapEndsAt(v, now); v.RevokedAt.IsZero() && now.Before(end) {
		against = append(against, "its overlap ends at "+end.Format(time.RFC3339))
	}
	last, used := e.inUse(k, n, now)
	if !used {
		return against, nil
	}
	users, err := e.users(ctx, k, n, now)
	if err != nil {
		return nil, err
	}
	switch more := len(users) - maxNamed; {
	case len(users) == 0: // as it stood a moment ago
		against = append(against, "it was used at "+last.Format(time.RFC3339))
	case more > 0:
		against = append(append(against, users[:maxNamed]...), fmt.Sprintf("and it is used by %d others", more))
	default:
		against = append(against, users...)
	}
	return against, nil
}

// newest returns the version with the highest number that was generated and
// is neither compromised nor to be destroyed.
func newest(k *keys.Key) *keys.Version {
	for _, v := range slices.Backward(k.Versions) {
		if !v.CreatedAt.IsZero() && v.RevokedAt.IsZero() && v.DestroyAt.IsZero() && v.DestroyedAt.IsZero() {
			return v
		}
	}
	return nil
}

func sentence(texts []string) string { return strings.Join(texts, "; ") }

func itoa(n int) string { return strconv.Itoa(n) }
