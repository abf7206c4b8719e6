package rotation

import (
	"context"
	"errors"
	"slices"
	"time"

	"keyhole/keys"
)

// markTimeout bounds how long a revocation waits for its mark on the token.
const markTimeout = 10 * time.Second

// mark leaves the mark of a compromised version on its token.
func (e *Engine) mark(ctx context.Context, k *keys.Key, v *keys.Version) {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	err := e.token.MarkRevoked(ctx, k.Ref(v), k.ID(v), v.RevokedAt)
	switch {
	case err == nil:
		e.markedNow(k.ID(v))
	case errors.Is(err, keys.ErrUnsupported):
		e.markedNow(k.ID(v))
		e.mu.Lock()
		known := e.unmarked[k.Token]
		e.unmarked[k.Token] = true
		e.mu.Unlock()
		if !known {
			e.log.WarnContext(ctx, "the token keeps no marks of revocations: only the MACs of the store's rows protect them", "token", k.Token)
		}
	default:
		e.log.ErrorContext(ctx, "revocation not marked on the token yet; it is tried again", "key", k.ID(v), "err", err)
	}
}

// markedNow notes that a revocation is marked, and reports whether that was
// known.
func (e *Engine) markedNow(id keys.VersionID) (known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	known = e.marked[id]
	e.marked[id] = true
	return known
}

func (e *Engine) isMarked(id keys.VersionID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.marked[id]
}

// markOthers leaves the marks of revocations that came since the last look:
// whoever revoked may have died before it left the mark, and gateways that
// cannot reach the store learn of a revocation by that alone. Those that were
// there at the first look are Reconcile's.
func (e *Engine) markOthers(ctx context.Context, all []*keys.Key) {
	first := !e.looked.Swap(true)
	for _, k := range all {
		for _, v := range k.Versions {
			id := k.ID(v)
			if k.Damaged || v.RevokedAt.IsZero() || v.CreatedAt.IsZero() || !v.DestroyedAt.IsZero() || e.isMarked(id) {
				continue
			}
			if first {
				e.markedNow(id)
				continue
			}
			if pause := "mark/" + id.String(); ctx.Err() == nil && e.mayTry(pause) {
				e.noteUpTo(lastPauseOfSteps, pause, e.markOther(ctx, k, v))
			}
		}
	}
}

// markOther leaves the mark of a version, if it is not there.
func (e *Engine) markOther(ctx context.Context, k *keys.Key, v *keys.Version) error {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	id := k.ID(v)
	held, done, err := e.leases.Try(ctx, "mark/"+id.String())
	if err != nil { // somebody is at it, or the store cannot be used
		return err
	}
	defer done()
	marks, err := e.token.Revoked(held, k.Token)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(marks, func(m keys.RevocationMark) bool { return m.Version == id && m.ObjectID == v.ObjectID }) {
		e.mark(held, k, v)
		if !e.isMarked(id) {
			return keys.ErrHSM
		}
		return nil
	}
	e.markedNow(id)
	return nil
}
