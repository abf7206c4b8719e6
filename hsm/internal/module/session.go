package module

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/keys"
)

// Session is one PKCS#11 session. It belongs to one goroutine at a time. The
// zero value is a read-only one that Exec opens when it is first needed.
type Session struct {
	RW bool // read-write: for making and destroying token objects

	t     *Token // whose it is, once it was opened
	h     pkcs11.SessionHandle
	open  bool
	gen   uint64 // the token's generation; see the package comment
	epoch uint64 // the module's; handles of an earlier one are nobody's

	busy atomic.Bool // in Exec
	lost atomic.Bool // its number was given to another one: see numbers
}

// Ctx is the library, to be called with Handle.
func (s *Session) Ctx() *pkcs11.Ctx { return s.t.mod.ctx }

// Handle is the session's.
func (s *Session) Handle() pkcs11.SessionHandle { return s.h }

// Generation is what handles that were found over s are good for.
func (s *Session) Generation() uint64 { return s.gen }

// Outdated reports whether the token was logged in to anew since s was made
// ready, or is at this moment. What a call over s has brought then came, perhaps, from another key
// than the one that its handle was found for.
func (s *Session) Outdated() bool { return s.gen != s.t.gen.Load() || s.lost.Load() }

// repairs are how often a call may repair what turns out to be bad.
var repairs = [...]int{fault.Session: 1, fault.Handle: 1, fault.Login: 1, fault.Outdated: 3, fault.Device: 0}

// Exec runs op over s, and repairs a session, handle or login that turns out
// to be bad, each once. op must be good for repetition.
func (t *Token) Exec(s *Session, op func(*Session) ([]byte, error)) (out []byte, err error) {
	t.mod.enter()
	defer t.mod.leave()
	s.busy.Store(true)
	defer s.busy.Store(false)
	if down := t.down.Load(); down != nil {
		return nil, *down
	}
	defer func() {
		if r := recover(); r != nil {
			s.Drop()
			out, err = nil, fmt.Errorf("panic in a PKCS#11 call: %v: %w", r, keys.ErrHSM)
		}
	}()
	left := repairs
	for {
		if err = t.Ready(s); err == nil {
			if out, err = op(s); err == nil {
				return out, nil
			}
		}
		// After an error the session may hold an unfinished operation.
		s.Drop()
		c := fault.Of(err)
		if left[c] == 0 {
			return nil, err
		}
		left[c]--
	}
}

// Inside runs f, which calls into the module and is not run by Exec.
func (t *Token) Inside(f func() error) error {
	t.mod.enter()
	defer t.mod.leave()
	return f()
}

// readyAttempts is how often a session is looked at whether it is logged in:
// before a login, after it, and as often again while others log in.
const readyAttempts = 4

// awaitLogin waits for the login under way.
func (t *Token) awaitLogin() {
	t.loginMu.Lock()
	defer t.loginMu.Unlock()
}

// Ready makes s a logged-in session of the token's present generation. The
// caller is inside the module.
func (t *Token) Ready(s *Session) error {
	if s.open && !s.Outdated() {
		return nil
	}
	s.Drop()
	flags := uint(pkcs11.CKF_SERIAL_SESSION)
	if s.RW {
		flags |= pkcs11.CKF_RW_SESSION
	}
	h, err := t.openSession(s, flags)
	if err != nil {
		return err
	}
	for range readyAttempts {
		seen := t.logins.Load()
		info, err := t.mod.ctx.GetSessionInfo(h)
		if err != nil {
			s.Drop()
			return fault.Wrap(fault.OpSessionInfo, err)
		}
		if info.State == pkcs11.CKS_RO_USER_FUNCTIONS || info.State == pkcs11.CKS_RW_USER_FUNCTIONS {
			if s.gen = t.gen.Load(); s.gen%2 == 0 { // after the look at the state: see the package comment
				return nil
			}
			t.awaitLogin()
			continue
		}
		if err := t.login(seen); err != nil {
			s.Drop()
			return err
		}
	}
	s.Drop()
	return fault.Wrap(fault.OpLogin, pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN))
}

// Drop closes s, which may be made ready again. The caller is inside the
// module. A session of an earlier epoch is only forgotten: its handle may be
// somebody else's by now.
func (s *Session) Drop() {
	if !s.open {
		return
	}
	s.open = false
	s.t.mod.numbers.alone(func() {
		if s.t.mod.numbers.give(s) && s.epoch == s.t.mod.currentEpoch() {
			_ = s.t.mod.ctx.CloseSession(s.h) // it is given up, whatever the answer
		}
	})
}

// Close is Drop for whoever is not inside the module.
func (s *Session) Close() {
	if s.t == nil {
		return
	}
	s.t.mod.enter()
	defer s.t.mod.leave()
	s.Drop()
}

// Note reports an operation to Observe and returns err as a *fault.Error.
func (s *Session) Note(op string, start time.Time, err error) error { return s.t.note(op, start, err) }

func (t *Token) note(op string, start time.Time, err error) error {
	err = fault.Wrap(op, err)
	t.cfg.Observe(strings.TrimSuffix(op, "Init"), t.cfg.Name, fault.Result(err), time.Since(start))
	return err
}

// findPage is how many objects are asked for at once.
const findPage = 512

// Find returns the objects that match, at most limit of them.
func (s *Session) Find(limit int, match ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	start := time.Now()
	found, err := s.search(limit, match)
	return found, s.Note(fault.OpFind, start, err)
}

func (s *Session) search(limit int, match []*pkcs11.Attribute) (found []pkcs11.ObjectHandle, err error) {
	ctx := s.t.mod.ctx
	if err := ctx.FindObjectsInit(s.h, match); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ctx.FindObjectsFinal(s.h)) }()
	for len(found) < limit {
		more, _, err := ctx.FindObjects(s.h, min(limit-len(found), findPage))
		if err != nil {
			return nil, err
		}
		if len(more) == 0 {
			break
		}
		found = append(found, more...)
	}
	return found, nil
}

// Attribute reads one attribute. Attributes are read one by one: a token that
// lacks one of several fails them all.
func (s *Session) Attribute(o pkcs11.ObjectHandle, attribute uint) ([]byte, error) {
	got, err := s.t.mod.ctx.GetAttributeValue(s.h, o, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
	if err != nil {
		return nil, fault.Wrap(fault.OpAttributes, err)
	}
	return got[0].Value, nil
}

// Attributes reads several attributes at once. One that the object does not
// have, or the token does not tell, is left out.
func (s *Session) Attributes(o pkcs11.ObjectHandle, wanted ...uint) (map[uint][]byte, error) {
	template := make([]*pkcs11.Attribute, len(wanted))
	for i, a := range wanted {
		template[i] = pkcs11.NewAttribute(a, nil)
	}
	known := make(map[uint][]byte, len(wanted))
	got, err := s.t.mod.ctx.GetAttributeValue(s.h, o, template)
	switch err = fault.Wrap(fault.OpAttributes, err); {
	case err == nil:
		for _, a := range got {
			known[a.Type] = a.Value
		}
		return known, nil
	case fault.Of(err) != fault.Caller:
		return nil, err
	}
	for _, a := range wanted { // a token that lacks one of several fails them all
		value, err := s.Attribute(o, a)
		if fault.Of(err) == fault.Caller {
			continue
		}
		if err != nil {
			return nil, err
		}
		known[a] = value
	}
	return known, nil
}

// Create makes an object that is no key.
func (s *Session) Create(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	start := time.Now()
	o, err := s.t.mod.ctx.CreateObject(s.h, template)
	return o, s.Note(fault.OpCreate, start, err)
}
