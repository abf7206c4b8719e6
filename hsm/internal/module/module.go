// Package module owns the PKCS#11 libraries of the process, the logins to their
// tokens, and the sessions that calls run on.
//
// A library is a thing of the whole process: one C_Initialize, one login per
// token. So there is one module value per file, shared by all tokens in it;
// whoever is in C is counted, so that a failed module can be drained,
// finalised and reopened under its users.
//
// # Generations
//
// Sessions and object handles are good for one login of one token, its
// generation. A session is opened, asked whether it is logged in, and only
// then given the token's generation; a login raises the generation at its
// beginning and at its end, and in between, while it is odd, no session gets
// one. So a session never carries a generation that is newer than its login, and a
// handle that is used only over sessions of its own generation is never one
// that the token gave to something else after a reset. A call that was under
// way at the reset may still have met such a handle: see Session.Outdated.
package module

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/p11call"
	"keyhole/keys"
)

// module is one PKCS#11 library. It is shared by everything in this process
// that uses the file, because C_Initialize, C_Finalize and logins are the
// process's.
type module struct {
	path  string // without symbolic links: crypto11 counts its users by path
	ctx   *pkcs11.Ctx
	calls p11call.Library // the same library, for the data plane

	// admin is held by whoever generates, destroys, opens or reopens: one at
	// a time (SoftHSM 2.6.1 fails when objects are made concurrently, and
	// many modules are no better). A channel, so that waiting honours a
	// context.
	admin chan struct{}

	numbers numbers
	own     bool // initialised apart from crypto11; of whoever holds admin

	mu       sync.Mutex
	epoch    uint64            // grows with every C_Finalize
	tokens   map[string]*Token // open ones, by Slot.key
	refused  map[string]bool   // those whose PIN was refused, by Slot.key
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

// load returns the library at path. The error is fault.ErrNoModule.
func load(path string) (*module, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w: %w", path, fault.ErrNoModule, err)
	}
	if resolved, err = filepath.Abs(resolved); err != nil {
		return nil, fmt.Errorf("module %s: %w: %w", path, fault.ErrNoModule, err)
	}
	modules.Lock()
	defer modules.Unlock()
	if m := modules.byPath[resolved]; m != nil {
		return m, nil
	}
	ctx := pkcs11.New(resolved)
	if ctx == nil {
		return nil, fmt.Errorf("%s is no shared library with C_GetFunctionList, or a library that it needs is missing: %w", resolved, fault.ErrNoModule)
	}
	calls, ok := p11call.Of(ctx)
	if !ok {
		return nil, fmt.Errorf("%s lacks functions that Keyhole needs: %w", resolved, fault.ErrNoModule)
	}
	m := &module{
		path: resolved, ctx: ctx, calls: calls, admin: make(chan struct{}, 1),
		tokens: map[string]*Token{}, refused: map[string]bool{}, numbers: newNumbers(),
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
