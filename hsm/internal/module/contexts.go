package module

import (
	"errors"
	"fmt"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/keys"
)

// newContext makes a crypto11 context on m, with the settings that crypto11
// needs to behave. The first one initialises the module. The PIN is removed
// from the configuration, which the context keeps.
func (m *module) newContext(c *crypto11.Config) (_ *crypto11.Context, err error) {
	defer func() {
		c.Pin = ""
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in crypto11: %v: %w", r, keys.ErrHSM)
		}
	}()
	c.Path = m.path
	c.MaxSessions = 2                    // one that holds the login, one to work with; the default is 1024
	c.PoolWaitTimeout = 30 * time.Second // the default waits for ever
	ctx, err := crypto11.Configure(c)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.contexts++
	first := m.contexts == 1
	m.mu.Unlock()
	if first {
		if err := m.initialise(); err != nil {
			m.closeContext(ctx)
			return nil, err
		}
	}
	return ctx, nil
}

// initialise initialises the module for our own calls, where it has not been by
// crypto11: p11-kit gives everybody who loads it a module of his own. Elsewhere
// there is one per process, which says that it is initialised.
func (m *module) initialise() error {
	err := m.ctx.Initialize()
	switch {
	case err == nil:
		m.own = true
	case errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)):
		err = nil
	}
	return err
}

// closeContext closes c; with the last one crypto11 finalises the module.
func (m *module) closeContext(c *crypto11.Context) {
	defer func() { _ = recover() }() // crypto11 panics when it has lost count
	m.mu.Lock()
	m.contexts--
	last := m.contexts == 0
	if last {
		m.epoch++
	}
	m.mu.Unlock()
	if last && m.own && m.ctx.Finalize() == nil {
		m.own = false
	}
	_ = c.Close() // always nil
}

func (m *module) users() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.contexts
}

// anchor initialises the module by a context that does not log in, so that
// its tokens can be looked at first. When that fails the error says what the
// module has.
func (m *module) anchor(t Config) (*crypto11.Context, error) {
	c := &crypto11.Config{LoginNotSupported: true, TokenSerial: t.Serial}
	if t.Serial == "" {
		c.TokenLabel = t.Label
	}
	var anchor *crypto11.Context
	err := fault.Again(func() (err error) {
		anchor, err = m.newContext(c)
		if m.currentEpoch() > 0 && errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
			// The C_Finalize of before has failed, which crypto11 does not tell.
			if err := m.ctx.Finalize(); err != nil {
				return fault.Wrap(fault.OpFinalize, err)
			}
			anchor, err = m.newContext(c)
		}
		if errors.As(err, new(pkcs11.Error)) {
			return fault.Wrap(fault.OpInitialize, err)
		}
		return err
	})
	if err == nil {
		return anchor, nil
	}
	if errors.As(err, new(*fault.Error)) {
		return nil, fmt.Errorf("%v: %w", t, err)
	}
	// crypto11 has no error value for "not found".
	found, skipped, surveyErr := m.surveyClosed()
	if surveyErr != nil {
		return nil, fmt.Errorf("%v: %w", t, surveyErr)
	}
	if _, pickErr := pick(t, found, skipped); pickErr != nil {
		return nil, pickErr
	}
	return nil, fmt.Errorf("%v: %w", t, fault.Wrap(fault.OpInitialize, err))
}

// survey lists the tokens that are present. A slot that does not answer is
// left out; skipped says how many were.
func (m *module) survey() (found []Slot, skipped int, err error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return nil, 0, fault.Wrap(fault.OpSlotList, err)
	}
	for _, slot := range slots {
		info, err := m.ctx.GetTokenInfo(slot)
		if err != nil {
			skipped++
			continue
		}
		found = append(found, Slot{slot, info})
	}
	return found, skipped, nil
}

// surveyClosed is survey while nobody holds the module initialised.
func (m *module) surveyClosed() (found []Slot, skipped int, err error) {
	err = m.ctx.Initialize()
	if err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return nil, 0, fault.Wrap(fault.OpInitialize, err)
	}
	found, skipped, surveyErr := m.survey()
	if err == nil {
		if err := fault.Wrap(fault.OpFinalize, m.ctx.Finalize()); err != nil {
			return nil, 0, errors.Join(surveyErr, err)
		}
	}
	return found, skipped, surveyErr
}
