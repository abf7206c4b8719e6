package module

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThalesGroup/crypto11"

	"keyhole/hsm/internal/fault"
	"keyhole/keys"
)

// Config says which token, and whom to tell. Every field but Label or Serial
// is required.
type Config struct {
	Name   string // for messages
	Module string // path of the PKCS#11 library
	Label  string // the token's label, its serial number, or both:
	Serial string // exactly one token must match

	PIN     func() ([]byte, error) // called at each login; the returned bytes are overwritten after it
	Log     *slog.Logger
	Observe func(function, token, result string, d time.Duration) // told of every operation
	// Reopened is called when Reopen has opened the token.
	Reopened func()
}

// String never shows a PIN.
func (c Config) String() string {
	return fmt.Sprintf("token %q (module %s, label %q, serial %q)", c.Name, c.Module, c.Label, c.Serial)
}

// Token is one token of a module. Its methods may be called concurrently.
type Token struct {
	cfg  Config
	mod  *module
	slot atomic.Pointer[Slot] // set before anything else happens

	gen     atomic.Uint64         // see the package comment
	logins  atomic.Uint64         // that have succeeded
	writing atomic.Uint64         // CKF_RW_SESSION where there are no read-only sessions
	down    atomic.Pointer[error] // why the token cannot be used at all, or nil
	loginMu sync.Mutex            // one login at a time

	contexts contexts
	managing managing
	held     Session // which holds the login, where crypto11's does not; see loginToo
}

// Load loads the library of a token, or takes the one that is loaded. It may
// hang. The error is fault.ErrNoModule.
func Load(c Config) (*Token, error) {
	m, err := load(c.Module)
	if err != nil {
		return nil, fmt.Errorf("token %q: %w", c.Name, err)
	}
	return &Token{cfg: c, mod: m}, nil
}

// Name is the configured name.
func (t *Token) Name() string { return t.cfg.Name }

// Path is that of the library, without symbolic links.
func (t *Token) Path() string { return t.mod.path }

// Slot is what the token said of itself when it was opened last.
func (t *Token) Slot() *Slot { return t.slot.Load() }

// Lock takes the management lock of the module, which whoever generates,
// destroys, opens or closes holds. It returns keys.ErrOverloaded when ctx ends
// before it is free.
func (t *Token) Lock(ctx context.Context) error { return t.mod.lockAdmin(ctx) }

// Unlock undoes Lock.
func (t *Token) Unlock() { t.mod.unlockAdmin() }

// SetDown makes every call fail with err; nil ends that.
func (t *Token) SetDown(err error) {
	if err == nil {
		t.down.Store(nil)
		return
	}
	t.down.Store(&err)
}

// Down returns why the token cannot be used at all, or nil.
func (t *Token) Down() error {
	if down := t.down.Load(); down != nil {
		return *down
	}
	return nil
}

// Open finds the token and logs in, in one attempt. The caller holds the
// management lock. Errors: fault.ErrNoToken, ErrNotInitialised, ErrPIN,
// ErrTokenInUse, keys.ErrHSM.
func (t *Token) Open() error { return t.Inside(t.open) }

// open is Open inside the module, or while it is paused.
func (t *Token) open() error {
	m := t.mod
	if m.users() == 0 {
		start := time.Now()
		anchor, err := m.anchor(t.cfg)
		t.cfg.Observe(fault.OpInitialize, t.cfg.Name, fault.Result(err), time.Since(start))
		if err != nil {
			return err
		}
		defer m.closeContext(anchor)
	}
	found, skipped, err := m.survey()
	if err != nil {
		return err
	}
	slot, err := pick(t.cfg, found, skipped)
	if err != nil {
		return err
	}
	m.mu.Lock()
	other := m.tokens[slot.key()]
	m.mu.Unlock()
	if other != nil && other != t {
		return fmt.Errorf("%v: serial %s is open as token %q: %w", t.cfg, slot.SerialNumber, other.cfg.Name, fault.ErrTokenInUse)
	}
	if old := t.slot.Load(); old != nil && old.SerialNumber != slot.SerialNumber {
		return fmt.Errorf("%v: serial %s is there now, not %s: %w", t.cfg, slot.SerialNumber, old.SerialNumber, fault.ErrNoToken)
	}
	t.slot.Store(&slot)
	if err := t.logout(); err != nil {
		return err
	}
	if err := t.anew(t.configure); err != nil {
		// crypto11 leaves the session of a failed login open. Nobody is in
		// the token now: SoftHSM crashes when sessions in use are closed.
		_ = m.ctx.CloseAllSessions(slot.ID)
		return err
	}
	m.mu.Lock()
	m.tokens[slot.key()] = t
	m.mu.Unlock()
	return nil
}

// Close ends the login, and finalises the module if no other token of it is
// open. The caller holds the management lock, has made calls fail (SetDown)
// and has closed its sessions. Close is idempotent, and may follow an Open
// that failed.
func (t *Token) Close() {
	t.mod.enter()
	defer t.mod.leave()
	t.closeContexts(true)
	t.mod.mu.Lock()
	defer t.mod.mu.Unlock()
	if slot := t.slot.Load(); slot != nil && t.mod.tokens[slot.key()] == t {
		delete(t.mod.tokens, slot.key())
	}
}

// contexts are the crypto11 contexts of a token: the present one, and those
// of earlier logins, which wait to be closed by somebody who may block.
type contexts struct {
	mu      sync.Mutex
	current *crypto11.Context
	old     []*crypto11.Context
}

// closeContexts closes the old contexts, and the present one too if all. It
// waits for their sessions, so nobody may be using them: the caller holds the
// management lock.
func (t *Token) closeContexts(all bool) {
	t.contexts.mu.Lock()
	closing := t.contexts.old
	t.contexts.old = nil
	if all && t.contexts.current != nil {
		closing = append(closing, t.contexts.current)
		t.contexts.current = nil
	}
	t.contexts.mu.Unlock()
	if all {
		t.held.Drop()
	}
	for _, c := range closing {
		t.mod.closeContext(c)
	}
}

// Crypto11 runs f, which is observed as op, with the crypto11 context; once
// more with a new one when its sessions turn out to be dead: crypto11 keeps
// dead sessions for ever. The caller is inside a management operation.
func (t *Token) Crypto11(op string, f func(*crypto11.Context) error) error {
	err := t.byCrypto11(op, f)
	if c := fault.Of(err); c != fault.Session && c != fault.Login && c != fault.Handle {
		return err
	}
	if err := t.renew(); err != nil {
		return err
	}
	return t.byCrypto11(op, f)
}

func (t *Token) byCrypto11(op string, f func(*crypto11.Context) error) (err error) {
	t.contexts.mu.Lock()
	c := t.contexts.current
	t.contexts.mu.Unlock()
	if c == nil {
		return fmt.Errorf("token %q is not open: %w", t.cfg.Name, keys.ErrHSM)
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in crypto11: %v: %w", r, keys.ErrHSM)
		}
	}()
	start := time.Now()
	return t.note(op, start, f(c))
}
