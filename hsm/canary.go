package hsm

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/hsm/internal/fault"
	"keyhole/keys"
)

// canary is a key of Keyhole's own, with which Run tries the token. It is a
// session object: it leaves nothing on the token for several gateways to
// quarrel about, it needs no name, and it goes away with the session that
// made it, which makes the canary also the session that is always held and
// logged in.
type canary struct {
	s   session // of whoever has called begin
	key atomic.Pointer[canaryKey]

	mu      sync.Mutex
	since   time.Time // start of the trial under way; zero: none
	trouble error     // of the last trial
}

type canaryKey struct {
	handle
	gen uint64
}

// canaryChoice are the algorithms for the canary key, the cheapest first.
var canaryChoice = []keys.Algorithm{keys.HS256, keys.ES256, keys.EdDSA, keys.A256GCM, keys.RS256, keys.PS256, keys.RSAOAEP, keys.RSAOAEP256}

// try uses the canary key once, on its session and on the idle sessions of
// the pool, so that they do not time out. It leaves at ctx's end, and does not
// begin while an earlier trial hangs.
func (t *token) try(ctx context.Context) error {
	c := &t.canary
	if !c.begin(t.now()) {
		return fmt.Errorf("token %q: an earlier trial hangs: %w", t.Name, keys.ErrHSM)
	}
	done := make(chan error, 1)
	go func() {
		_, err := t.exec(&c.s, t.chirp)
		c.end(err)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.pool.EachIdle(ctx, func(s *session) { _, _ = t.exec(s, t.chirpOn) }) // a bad session is dropped by exec
		}
		return err
	case <-ctx.Done():
		return fault.Ended(ctx)
	}
}

func (c *canary) begin(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.since.IsZero() {
		return false
	}
	c.since = now
	return true
}

func (c *canary) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since, c.trouble = time.Time{}, err
}

// chirp uses the canary key on its own session, and makes it anew where it
// went with an old one.
func (t *token) chirp(s *session) ([]byte, error) {
	key := t.canary.key.Load()
	if key == nil || key.gen != s.gen {
		var err error
		if key, err = t.hatch(s); err != nil {
			return nil, err
		}
		t.canary.key.Store(key)
	}
	err := t.useCanary(s, key)
	if err != nil {
		t.canary.key.Store(nil)
	}
	return nil, err
}

// hatch makes the canary key.
func (t *token) hatch(s *session) (*canaryKey, error) {
	for _, alg := range canaryChoice {
		if limit, probed := t.limits[alg]; !probed || limit != nil {
			continue
		}
		bits := 2048
		if alg.Family() != keys.FamilyRSA {
			var err error
			if bits, err = alg.KeyBits(0); err != nil {
				return nil, err
			}
		}
		key, err := t.sessionKey(s, alg, bits)
		return &canaryKey{key, s.gen}, err
	}
	return nil, fmt.Errorf("token %q can do nothing that Keyhole uses: %w", t.Name, keys.ErrUnsupported)
}

// chirpOn uses the canary key on another session of the same generation.
func (t *token) chirpOn(s *session) ([]byte, error) {
	key := t.canary.key.Load()
	if key == nil || key.gen != s.gen {
		return nil, nil // the next trial makes a key first
	}
	return nil, t.useCanary(s, key)
}

func (t *token) useCanary(s *session, key *canaryKey) error {
	_, err := t.makeCheck(s, key.handle, nil)
	return err
}
