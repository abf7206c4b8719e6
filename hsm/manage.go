package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/keys"
)

// managing remembers the management operation under way, so that Health can
// tell of one that hangs.
type managing struct {
	mu    sync.Mutex
	since time.Time // start of the one that has the management lock; zero: none
}

// manageStuck is when a management operation counts as hanging. Generating
// RSA-4096 takes a slow token tens of seconds.
const manageStuck = 3 * time.Minute

// Management operations are repeated on CKR_GENERAL_ERROR: SoftHSM 2.6.1
// answers it when another process makes or destroys objects meanwhile.
const (
	manageAttempts = 5
	managePause    = 20 * time.Millisecond
)

// managed runs op alone in its module, on a read-write session of its own.
// When ctx ends the caller leaves; op goes on to its end, and abandoned then
// tells it that nobody waits for its result.
func (t *token) managed(ctx context.Context, op func(s *session, abandoned func() bool) error) error {
	if ctx.Err() != nil {
		return fault.Ended(ctx)
	}
	if err := t.mod.lockAdmin(ctx); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer t.mod.unlockAdmin()
		t.manage.mark(time.Now())
		defer t.manage.mark(time.Time{})
		t.closeContexts(false)
		s := &session{rw: true}
		_, err := t.exec(s, func(s *session) ([]byte, error) {
			return nil, op(s, func() bool { return ctx.Err() != nil })
		})
		t.mod.enter()
		t.drop(s)
		t.mod.leave()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fault.Ended(ctx)
	}
}

func (m *managing) mark(at time.Time) {
	m.mu.Lock()
	m.since = at
	m.mu.Unlock()
}

// stuck reports whether an operation hangs.
func (m *managing) stuck(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.since.IsZero() && now.Sub(m.since) > manageStuck
}

// again repeats f while the token answers CKR_GENERAL_ERROR.
func again(f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		var e *fault.Error
		if attempt == manageAttempts || !errors.As(err, &e) || e.Code != pkcs11.CKR_GENERAL_ERROR {
			return err
		}
		time.Sleep(time.Duration(attempt) * managePause)
	}
}

// Destroy removes the objects of ref, known by CKA_ID and label, and checks
// that they are gone. It is idempotent: nil when there are none. An object
// that has the id but another label is left alone, and is an error. Errors:
// keys.ErrInvalid, ErrOverloaded, ErrTimeout, ErrHSM.
func (h *HSM) Destroy(ctx context.Context, ref keys.Ref) error {
	t, err := h.token(ref.Token)
	if err != nil {
		return err
	}
	return t.managed(ctx, func(s *session, _ func() bool) error { return t.destroy(s, &ref) })
}

func (t *token) destroy(s *session, ref *keys.Ref) error {
	t.forget(ref.ID)
	return again(func() error {
		foreign := 0
		objects, err := t.keysByID(s, ref.ID)
		if err != nil {
			return err
		}
		for _, o := range objects {
			label, err := t.bytesOf(s, o, pkcs11.CKA_LABEL)
			if err != nil {
				return err
			}
			if string(label) != ref.Label {
				foreign++
				continue
			}
			start := time.Now()
			if err := t.note(fault.OpDestroy, start, t.mod.ctx.DestroyObject(s.h, o)); err != nil {
				return err
			}
		}
		left, err := t.keysByID(s, ref.ID)
		switch {
		case err != nil:
			return err
		case foreign > 0:
			return fmt.Errorf("token %q has %d objects with the CKA_ID of %s but another label; they are left alone: %w", t.Name, foreign, ref.Label, keys.ErrHSM)
		case len(left) > 0:
			return fmt.Errorf("token %q still has %d objects of %s after destroying them: %w", t.Name, len(left), ref.Label, keys.ErrHSM)
		}
		return nil
	})
}

// maxByID bounds a search by id; more than a pair is an accident already.
const maxByID = 64

// keysByID returns the key objects with an id. Certificates and data that
// carry it too are not Keyhole's.
func (t *token) keysByID(s *session, id keys.ObjectID) ([]pkcs11.ObjectHandle, error) {
	var all []pkcs11.ObjectHandle
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_SECRET_KEY} {
		found, err := t.find(s, maxByID,
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
			pkcs11.NewAttribute(pkcs11.CKA_ID, id[:]))
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}
