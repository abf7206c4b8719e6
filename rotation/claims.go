package rotation

import (
	"context"
	"errors"
	"time"

	"keyhole/keys"
	"keyhole/rotation/lease"
)

// The names of leases. Acts of people need none: the key's epoch keeps them
// apart.
const (
	leaseDue       = "due"       // beginning rotations by policy
	leaseRetire    = "retire"    // taking versions and keys towards their end
	leaseReconcile = "reconcile" // comparing tokens and store
)

// leaseOf is the lease under which a rotation is taken further.
func leaseOf(rotation string) string { return "rotation/" + rotation }

// leaseOfEnd is the lease under which a version is destroyed, or restored.
func leaseOfEnd(id keys.VersionID) string { return leaseRetire + "/" + id.String() }

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

// keep remembers that this process has chosen the CKA_ID of a rotation's
// version, and that no token was told to generate under it.
func (e *Engine) keep(rotation string, id keys.ObjectID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unused[rotation] = id
}

// use reports whether this process may generate under a CKA_ID, once.
func (e *Engine) use(rotation string, id keys.ObjectID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	own, ok := e.unused[rotation]
	delete(e.unused, rotation)
	return ok && own == id
}

// forget drops what was kept of a rotation that has ended.
func (e *Engine) forget(rotation string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.unused, rotation)
	delete(e.seen, rotation)
	delete(e.intents, rotation)
}

// stillOurs refuses if the lease that ctx is of was lost.
func stillOurs(ctx context.Context) error {
	if err := lease.Check(ctx); err != nil {
		return keys.Errorf(keys.ErrStore, "this gateway stood still, or lost touch with the store, for longer than others wait; they go on with it: see what stands before trying again")
	}
	return nil
}

// lostOr returns err, and says so if the lease that ctx is of was lost.
func lostOr(ctx context.Context, err error) error {
	if lost := stillOurs(ctx); lost != nil {
		return errors.Join(lost, err)
	}
	return err
}

// patience is how long people wait for other gateways to learn that a version
// must not be used, before its destruction is left to the timer.
const patience = 3 * time.Second

// allKnow reports whether every gateway that uses keys knows by now that a
// thing, which the caller has seen to be unusable in the store, must not be
// used; thing names it for good. The timer does not wait for that: it looks
// again.
func (e *Engine) allKnow(ctx context.Context, actor Actor, thing string) (bool, error) {
	var until time.Time
	if actor.Principal != systemActor.Principal {
		until = time.Now().Add(patience)
	}
	if err := e.refresh(ctx); err != nil {
		return false, err
	}
	for {
		nodes, revision, err := e.store.Nodes(ctx)
		if err != nil {
			return false, err
		}
		behind, passed := e.barrier.Passed(thing, e.holder, nodes, revision)
		if passed {
			return true, nil
		}
		if !time.Now().Before(until) {
			e.log.InfoContext(ctx, "a destruction waits for gateways that may not know of it yet", "what", thing, "nodes", behind)
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
