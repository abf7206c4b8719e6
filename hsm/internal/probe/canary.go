package probe

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/mech"
	"keyhole/hsm/internal/module"
	"keyhole/keys"
)

// Canary is a key of Keyhole's own, with which the token is tried. It is a
// session object: it leaves nothing on the token for several gateways to
// quarrel about, it needs no name, and it goes away with the session that
// made it, which makes the canary also the session that is always held and
// logged in.
type Canary struct {
	tok   *module.Token
	can   Capabilities
	mode  string
	curve []byte
	now   func() time.Time

	turn chan struct{}  // capacity 1: held by the trial under way
	s    module.Session // of whoever holds turn
	key  atomic.Pointer[canaryKey]

	mu      sync.Mutex
	since   time.Time // start of the trial under way; zero: none
	trouble error     // of the last trial
}

type canaryKey struct {
	mech.Key
	gen uint64
}

// canaryChoice are the algorithms for the canary key, the cheapest first.
var canaryChoice = []keys.Algorithm{keys.HS256, keys.ES256, keys.EdDSA, keys.A256GCM, keys.RS256, keys.PS256, keys.RSAOAEP, keys.RSAOAEP256}

// NewCanary returns a Canary for a token of which Run found can and curve.
func NewCanary(tok *module.Token, can Capabilities, mode string, curve []byte, now func() time.Time) *Canary {
	return &Canary{tok: tok, can: can, mode: mode, curve: curve, now: now, turn: make(chan struct{}, 1)}
}

// Try uses the key once, on the canary's session. It leaves at ctx's end, and
// does not begin while an earlier trial hangs.
func (c *Canary) Try(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
	default:
		return fmt.Errorf("token %q: an earlier trial hangs: %w", c.tok.Name(), keys.ErrHSM)
	}
	c.begin()
	done := make(chan error, 1)
	go func() {
		_, err := c.tok.Exec(&c.s, c.chirp)
		c.end(err)
		<-c.turn
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fault.Ended(ctx)
	}
}

func (c *Canary) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since = c.now()
}

func (c *Canary) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since, c.trouble = time.Time{}, err
}

// State returns since when a trial runs (zero: none does), and the error of
// the last one.
func (c *Canary) State() (since time.Time, trouble error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since, c.trouble
}

// Close closes the canary's session. It waits for the trial under way, and
// fails when ctx ends before that does.
func (c *Canary) Close(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		c.s.Close()
		<-c.turn
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the canary's: %w", ctx.Err())
	}
}

// chirp uses the key on the canary's session, and makes it anew where it went
// with an old one.
func (c *Canary) chirp(s *module.Session) ([]byte, error) {
	key := c.key.Load()
	if key == nil || key.gen != s.Generation() {
		var err error
		if key, err = c.hatch(s); err != nil {
			return nil, err
		}
		c.key.Store(key)
	}
	err := c.use(s, key)
	if err != nil {
		c.key.Store(nil)
	}
	return nil, err
}

// hatch makes the key.
func (c *Canary) hatch(s *module.Session) (*canaryKey, error) {
	for _, alg := range canaryChoice {
		if !c.can.can(alg) {
			continue
		}
		bits := 2048
		if alg.Family() != keys.FamilyRSA {
			var err error
			if bits, err = alg.KeyBits(0); err != nil {
				return nil, err
			}
		}
		key, err := sessionKey(s, alg, bits, c.curve)
		return &canaryKey{key, s.Generation()}, err
	}
	return nil, fmt.Errorf("token %q can do nothing that Keyhole uses: %w", c.tok.Name(), keys.ErrUnsupported)
}

// On uses the key on another session, so that it does not time out, if it is
// of the key's generation. It is an operation for module.Exec.
func (c *Canary) On(s *module.Session) ([]byte, error) {
	key := c.key.Load()
	if key == nil || key.gen != s.Generation() {
		return nil, nil // the next trial makes a key first
	}
	return nil, c.use(s, key)
}

func (c *Canary) use(s *module.Session, key *canaryKey) error {
	_, err := key.Check(s, c.mode, nil)
	return err
}
