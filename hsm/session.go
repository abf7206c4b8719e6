package hsm

import (
	"errors"
	"strings"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
)

// session is one PKCS#11 session. It belongs to one goroutine at a time.
type session struct {
	h     pkcs11.SessionHandle
	rw    bool // read-write: for making and destroying token objects
	open  bool
	gen   uint64 // the token's generation; see the package comment
	epoch uint64 // the module's; handles of an earlier one are nobody's
}

// ready makes s a logged-in session of the token's present generation. The
// caller has entered the module.
func (t *token) ready(s *session) error {
	if s.open && s.gen == t.gen.Load() {
		return nil
	}
	t.drop(s)
	flags := uint(pkcs11.CKF_SERIAL_SESSION)
	if s.rw {
		flags |= pkcs11.CKF_RW_SESSION
	}
	start := time.Now()
	h, err := t.mod.ctx.OpenSession(t.slot.Load().slot, flags)
	if err := t.note(fault.OpOpenSession, start, err); err != nil {
		return err
	}
	s.h, s.open, s.epoch = h, true, t.mod.currentEpoch()
	for range 2 {
		seen := t.gen.Load()
		info, err := t.mod.ctx.GetSessionInfo(h)
		if err != nil {
			t.drop(s)
			return fault.Wrap(fault.OpSessionInfo, err)
		}
		if info.State == pkcs11.CKS_RO_USER_FUNCTIONS || info.State == pkcs11.CKS_RW_USER_FUNCTIONS {
			s.gen = t.gen.Load() // after the look at the state: see the package comment
			return nil
		}
		if err := t.login(seen); err != nil {
			t.drop(s)
			return err
		}
	}
	t.drop(s)
	return fault.Wrap(fault.OpLogin, pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN))
}

// drop closes s. A session of an earlier epoch is only forgotten: its handle
// may be somebody else's by now.
func (t *token) drop(s *session) {
	if s.open && s.epoch == t.mod.currentEpoch() {
		_ = t.mod.ctx.CloseSession(s.h) // it is given up, whatever the answer
	}
	s.open = false
}

// note reports an operation to Observe and returns err as an *Error.
func (t *token) note(op string, start time.Time, err error) error {
	err = fault.Wrap(op, err)
	t.observed(strings.TrimSuffix(op, "Init"), t.Name, fault.Result(err), time.Since(start))
	return err
}

// find returns the objects that match, at most limit of them.
func (t *token) find(s *session, limit int, match ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	start := time.Now()
	found, err := t.search(s, limit, match)
	return found, t.note(fault.OpFind, start, err)
}

func (t *token) search(s *session, limit int, match []*pkcs11.Attribute) (found []pkcs11.ObjectHandle, err error) {
	ctx := t.mod.ctx
	if err := ctx.FindObjectsInit(s.h, match); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ctx.FindObjectsFinal(s.h)) }()
	for len(found) < limit {
		more, _, err := ctx.FindObjects(s.h, limit-len(found))
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

// bytesOf reads one attribute. Attributes are read one by one: a token that
// lacks one of several fails them all.
func (t *token) bytesOf(s *session, o pkcs11.ObjectHandle, attribute uint) ([]byte, error) {
	got, err := t.mod.ctx.GetAttributeValue(s.h, o, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
	if err != nil {
		return nil, fault.Wrap(fault.OpAttributes, err)
	}
	return got[0].Value, nil
}
