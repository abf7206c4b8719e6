package rotation

import (
	"context"
	"errors"

	"keyhole/keys"
)

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

// adopt claims a rotation that this process begins.
func (e *Engine) adopt(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.own[id] = true
	e.running[id] = make(chan struct{})
}

// claim marks a rotation as worked on by this process; false if it is.
func (e *Engine) claim(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running[id] != nil {
		return false
	}
	e.running[id] = make(chan struct{})
	return true
}

// claimSoon is claim, after waiting for whoever works on the rotation.
func (e *Engine) claimSoon(ctx context.Context, id string) error {
	for !e.claim(id) {
		e.mu.Lock()
		busy := e.running[id]
		e.mu.Unlock()
		if busy == nil {
			continue
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (e *Engine) release(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if busy := e.running[id]; busy != nil {
		close(busy)
	}
	delete(e.running, id)
}

// owns reports whether this process began a rotation or took it up when it
// started. Another process may be generating for any other one.
func (e *Engine) owns(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.own[id]
}

func (e *Engine) takeOver(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.own[id] = true
}

// forget drops what was kept of a rotation that has ended.
func (e *Engine) forget(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.own, id)
	delete(e.seen, id)
}
