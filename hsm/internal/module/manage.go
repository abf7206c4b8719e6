package module

import (
	"context"
	"sync"
	"time"

	"keyhole/hsm/internal/fault"
)

// managing remembers the management operation under way, so that one that
// hangs can be told of.
type managing struct {
	mu    sync.Mutex
	since time.Time // start of the one that has the management lock; zero: none
}

func (m *managing) mark(at time.Time) {
	m.mu.Lock()
	m.since = at
	m.mu.Unlock()
}

// Manage runs op alone in its module, on a read-write session of its own.
// When ctx ends the caller leaves; op goes on to its end, and abandoned then
// tells it that nobody waits for its result.
func (t *Token) Manage(ctx context.Context, op func(s *Session, abandoned func() bool) error) error {
	if ctx.Err() != nil {
		return fault.Ended(ctx)
	}
	if err := t.Lock(ctx); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer t.Unlock()
		t.managing.mark(time.Now())
		defer t.managing.mark(time.Time{})
		t.closeContexts(false)
		s := &Session{RW: true}
		_, err := t.Exec(s, func(s *Session) ([]byte, error) {
			return nil, op(s, func() bool { return ctx.Err() != nil })
		})
		s.Close()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fault.Ended(ctx)
	}
}

// Managing returns since when a management operation runs, or zero.
func (t *Token) Managing() time.Time {
	t.managing.mu.Lock()
	defer t.managing.mu.Unlock()
	return t.managing.since
}
