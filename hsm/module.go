package hsm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/keys"
)

// module is one PKCS#11 library. It is shared by everything in this process
// that uses the file, because C_Initialize, C_Finalize and logins are the
// process's.
type module struct {
	path string // without symbolic links: crypto11 counts its users by path
	ctx  *pkcs11.Ctx

	// admin is held by whoever generates, destroys, opens or reopens: one at
	// a time (SoftHSM 2.6.1 fails when objects are made concurrently, and
	// many modules are no better). A channel, so that waiting honours a
	// context.
	admin chan struct{}

	mu       sync.Mutex
	epoch    uint64            // grows with every C_Finalize
	tokens   map[string]*token // open ones, by serial number
	refused  map[string]bool   // serial numbers whose PIN was refused
	contexts int               // crypto11 contexts; the last one to go finalises the module
	inside   int               // goroutines that are in, or about to enter, C
	paused   chan struct{}     // non-nil while paused; closed at its end
	emptied  chan struct{}     // closed when paused and inside has become 0
}

// modules are the libraries that this process has loaded. They stay loaded:
// unloading has crashed modules that use OpenSSL.
var modules = struct {
	sync.Mutex
	byPath map[string]*module
}{byPath: map[string]*module{}}

// loadModule returns the library at path. The error is ErrNoModule.
func loadModule(path string) (*module, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w: %w", path, ErrNoModule, err)
	}
	if resolved, err = filepath.Abs(resolved); err != nil {
		return nil, fmt.Errorf("module %s: %w: %w", path, ErrNoModule, err)
	}
	modules.Lock()
	defer modules.Unlock()
	if m := modules.byPath[resolved]; m != nil {
		return m, nil
	}
	ctx := pkcs11.New(resolved)
	if ctx == nil {
		return nil, fmt.Errorf("%s is no shared library with C_GetFunctionList, or a library that it needs is missing: %w", resolved, ErrNoModule)
	}
	m := &module{
		path: resolved, ctx: ctx, admin: make(chan struct{}, 1),
		tokens: map[string]*token{}, refused: map[string]bool{},
	}
	modules.byPath[resolved] = m
	return m, nil
}

// lockAdmin takes the management lock, or returns the context's end.
func (m *module) lockAdmin(ctx context.Context) error {
	select {
	case m.admin <- struct{}{}:
		return nil
	case <-ctx.Done():
		return keys.Errorf(keys.ErrOverloaded, "the token is busy with another management operation; try again")
	}
}

func (m *module) unlockAdmin() { <-m.admin }

// enter is called before calling into the module, and waits while it is
// paused.
func (m *module) enter() {
	m.mu.Lock()
	for m.paused != nil {
		paused := m.paused
		m.mu.Unlock()
		<-paused
		m.mu.Lock()
	}
	m.inside++
	m.mu.Unlock()
}

// leave undoes enter.
func (m *module) leave() {
	m.mu.Lock()
	m.inside--
	if m.inside == 0 && m.emptied != nil {
		close(m.emptied)
		m.emptied = nil
	}
	m.mu.Unlock()
}

// pause keeps goroutines from entering and waits until none is inside. It
// fails, and lets them in again, when ctx ends before: a call hangs. After a
// success, resume must be called. The caller holds the management lock.
func (m *module) pause(ctx context.Context) error {
	m.mu.Lock()
	m.paused = make(chan struct{})
	if m.inside == 0 {
		m.mu.Unlock()
		return nil
	}
	emptied := make(chan struct{})
	m.emptied = emptied
	m.mu.Unlock()
	select {
	case <-emptied:
		return nil
	case <-ctx.Done():
	}
	m.resume()
	return fmt.Errorf("a call into %s hangs: restart the process: %w", m.path, keys.ErrHSM)
}

func (m *module) resume() {
	m.mu.Lock()
	close(m.paused)
	m.paused, m.emptied = nil, nil
	m.mu.Unlock()
}

func (m *module) currentEpoch() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch
}

// slotInfo is what a token says of itself.
type slotInfo struct {
	slot uint
	pkcs11.TokenInfo
}

// survey lists the tokens that are present. A slot that does not answer is
// left out; skipped says how many were.
func (m *module) survey() (found []slotInfo, skipped int, err error) {
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
		found = append(found, slotInfo{slot, info})
	}
	return found, skipped, nil
}

// surveyClosed is survey while nobody holds the module initialised.
func (m *module) surveyClosed() (found []slotInfo, skipped int, err error) {
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
