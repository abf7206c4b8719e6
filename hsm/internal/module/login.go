package module

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/keys"
)

// login logs in again, unless somebody else has since there were seen logins.
// The caller is inside the module and holds a session that was not logged in
// then.
func (t *Token) login(seen uint64) error {
	t.loginMu.Lock()
	defer t.loginMu.Unlock()
	if t.logins.Load() != seen {
		return nil
	}
	err := t.anew(func() error {
		t.sweep()
		return t.configure()
	})
	switch {
	case err == nil:
		t.cfg.Log.Warn("the login was lost and is made anew")
	case errors.Is(err, fault.ErrPIN):
		t.SetDown(err)
		t.cfg.Log.Error("login refused", "err", err)
	}
	return err
}

// renew replaces the crypto11 context.
func (t *Token) renew() error {
	t.loginMu.Lock()
	defer t.loginMu.Unlock()
	return t.anew(func() error {
		t.sweep()
		return t.configure()
	})
}

// anew runs what logs in between two generations: the token may give handles
// to other objects at any moment of it, also where it was logged in at the
// beginning and loses that meanwhile.
func (t *Token) anew(login func() error) error {
	t.gen.Add(1)
	defer t.gen.Add(1)
	return login()
}

// loginAttempts is how often a login is tried that fails by something else than
// the PIN: what fault.Busy is about.
const loginAttempts = 3

// configure makes a crypto11 context, which logs in: in one attempt, and
// another one only where the token was busy and has counted no wrong PIN.
func (t *Token) configure() error {
	for attempt := 1; ; attempt++ {
		low, err := t.attempt()
		if attempt == loginAttempts || !fault.Busy(err) {
			return err
		}
		fault.Pause(attempt)
		info, infoErr := t.mod.ctx.GetTokenInfo(t.slot.Load().ID)
		if infoErr != nil || !low && info.Flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0 {
			return err
		}
	}
}

// attempt is configure, once. low says that a wrong PIN was given before.
func (t *Token) attempt() (low bool, err error) {
	m, slot := t.mod, t.slot.Load()
	m.mu.Lock()
	refused := m.refused[slot.key()]
	m.mu.Unlock()
	if refused {
		return low, fmt.Errorf("%v: this process has tried a PIN that was refused, and tries none again: correct the PIN and restart: %w", t.cfg, fault.ErrPIN)
	}
	info, err := m.ctx.GetTokenInfo(slot.ID)
	if err != nil {
		return low, fault.Wrap(fault.OpTokenInfo, err)
	}
	if err := checkPINFlags(info.Flags); err != nil {
		return low, fmt.Errorf("%v: %w", t.cfg, err)
	}
	if low = info.Flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0; low {
		t.cfg.Log.Warn("a wrong PIN was given to this token before")
	}
	pin, err := t.cfg.PIN()
	if err != nil {
		return low, fmt.Errorf("%v: reading the PIN: %w: %w", t.cfg, keys.ErrHSM, err)
	}
	number := int(slot.ID)
	start := time.Now()
	// The string shares its bytes with pin, so that clearing them leaves no
	// copy in Go's memory; nobody has the string any more by then.
	text := unsafe.String(unsafe.SliceData(pin), len(pin)) //nolint:gosec // see above
	c, err := m.newContext(&crypto11.Config{SlotNumber: &number, Pin: text})
	if err == nil && m.own {
		if err = t.loginToo(text); err != nil {
			m.closeContext(c)
		}
	}
	clear(pin)
	if err := t.note(fault.OpLogin, start, err); err != nil {
		if fault.Of(err) != fault.PIN {
			return low, fmt.Errorf("%v: %w", t.cfg, err)
		}
		m.mu.Lock()
		m.refused[slot.key()] = true
		m.mu.Unlock()
		return low, fmt.Errorf("%v: one login was tried (%s), and none will be again by this process: correct the PIN and restart: %w", t.cfg, fault.Result(err), fault.ErrPIN)
	}
	t.contexts.mu.Lock()
	if t.contexts.current != nil {
		t.contexts.old = append(t.contexts.old, t.contexts.current)
	}
	t.contexts.current = c
	t.contexts.mu.Unlock()
	t.logins.Add(1)
	return low, nil
}

// loginToo logs in where crypto11's login is not that of our own calls: p11-kit's
// client has a connection to its server for each that loads it. The session
// that it opens holds the login.
func (t *Token) loginToo(pin string) error {
	t.held.Drop()
	h, err := t.openSession(&t.held, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return err
	}
	info, err := t.mod.ctx.GetSessionInfo(h)
	if err == nil && (info.State == pkcs11.CKS_RO_PUBLIC_SESSION || info.State == pkcs11.CKS_RW_PUBLIC_SESSION) {
		err = t.mod.ctx.Login(h, pkcs11.CKU_USER, pin)
	}
	if err != nil {
		t.held.Drop()
	}
	return err
}

// logout ends a login that other code of this process has left: a token that
// is logged in takes any PIN for the right one.
func (t *Token) logout() error {
	h, err := t.begin(pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return fault.Wrap(fault.OpOpenSession, err)
	}
	defer func() { _ = t.mod.ctx.CloseSession(h) }() // it was for one question
	info, err := t.mod.ctx.GetSessionInfo(h)
	if err != nil {
		return fault.Wrap(fault.OpSessionInfo, err)
	}
	if info.State == pkcs11.CKS_RO_PUBLIC_SESSION || info.State == pkcs11.CKS_RW_PUBLIC_SESSION {
		return nil
	}
	t.cfg.Log.Warn("other code of this process is logged in to the token; it is logged out")
	return fault.Wrap(fault.OpLogin, t.mod.ctx.Logout(h))
}
