package cluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"sync"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
)

// agents are those of one process.
type agents struct {
	c     *client.Client
	pause time.Duration
	stop  chan struct{}

	mu     sync.Mutex
	tally  tally
	public map[string]*ecdsa.PublicKey // by version id
}

// work runs agents until stop ends, and says now and then, and at the end,
// what they have seen.
func work(c loadConfig, stop io.Reader, say func(tally) error) error {
	cl, err := client.New(client.Config{
		Address: "https://" + c.Address, ServerName: "localhost", CACertFile: c.CA, Token: client.TokenFile(c.TokenFile), Retries: c.Retries,
	})
	if err != nil {
		return err
	}
	defer cl.Close()
	a := &agents{c: cl, pause: c.Pause, stop: make(chan struct{}), tally: tally{Used: map[string]used{}}, public: map[string]*ecdsa.PublicKey{}}
	var wg sync.WaitGroup
	for range c.Workers {
		for _, key := range c.Sign {
			wg.Go(func() { a.loop(key, &memory{}, a.sign) })
		}
		for _, key := range c.Encrypt {
			wg.Go(func() { a.loop(key, &memory{}, a.encrypt) })
		}
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, stop)
		ended <- err
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			close(a.stop)
			wg.Wait()
			a.tally.Done = true
			return errors.Join(err, say(a.tally))
		case <-tick.C:
			if err := say(a.now()); err != nil {
				return err
			}
		}
	}
}

// now returns a copy of the tally.
func (a *agents) now() tally {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := tally{Used: map[string]used{}}
	t.add(a.tally)
	return t
}

// memory is what an agent made before, to look at again: at most one a
// version, and the latest.
type memory struct {
	made  []item
	which int
}

type item struct {
	version    uint32
	kid        string
	payload    []byte
	signature  []byte
	ciphertext string
}

func (m *memory) keep(i item) {
	if n := len(m.made); n > 0 && m.made[n-1].kid == i.kid {
		m.made[n-1] = i
		return
	}
	m.made = append(m.made, i)
}

// next returns one after the other.
func (m *memory) next() item {
	m.which++
	return m.made[m.which%len(m.made)]
}

// loop is one agent.
func (a *agents) loop(key string, m *memory, step func(ctx context.Context, key string, n int, m *memory) error) {
	pace := time.NewTicker(max(a.pause, 1))
	defer pace.Stop()
	for n := 0; ; n++ {
		select {
		case <-a.stop:
			return
		default:
		}
		if err := step(context.Background(), key, n, m); err != nil {
			a.failed(fmt.Sprintf("%s %s: %v", time.Now().UTC().Format(time.RFC3339Nano), key, err))
		}
		select {
		case <-a.stop:
			return
		case <-pace.C:
		}
	}
}

const enoughFailures = 20

func (a *agents) failed(text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tally.Failed++
	if len(a.tally.Failures) < enoughFailures {
		a.tally.Failures = append(a.tally.Failures, text)
	}
}

// answered counts a call, and the use of a version by it.
func (a *agents) answered(kid string, start time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tally.Calls++
	if kid == "" {
		return
	}
	end := time.Now()
	u, ok := a.tally.Used[kid]
	u.Count++
	if !ok || end.Before(u.FirstEnd) {
		u.FirstEnd = end
	}
	if start.After(u.LastStart) {
		u.LastStart = start
	}
	a.tally.Used[kid] = u
}

// sign signs, checks the signature by itself, and now and then has an older
// one verified by whichever gateway answers.
func (a *agents) sign(ctx context.Context, key string, n int, m *memory) error {
	payload := fmt.Appendf(nil, "payment %d of %s", n, key)
	start := time.Now()
	s, err := a.c.Sign(ctx, key, api.SignRequest{Payload: payload})
	if err != nil {
		return err
	}
	public, err := a.publicKey(ctx, key, s.Version, s.KeyID)
	if err != nil {
		return err
	}
	if !verifies(public, payload, s.Signature) {
		return fmt.Errorf("a signature by %s is not its", s.KeyID)
	}
	a.answered(s.KeyID, start)
	m.keep(item{version: s.Version, kid: s.KeyID, payload: payload, signature: s.Signature})
	if n%3 != 0 {
		return nil
	}
	old := m.next()
	v, err := a.c.Verify(ctx, key, api.VerifyRequest{Payload: old.payload, Signature: old.signature, Version: old.version})
	if err != nil {
		return fmt.Errorf("verifying what %s signed: %w", old.kid, err)
	}
	if !v.Valid {
		return fmt.Errorf("a signature by %s does not hold: %s", old.kid, v.Reason)
	}
	a.answered("", start)
	return nil
}

// verifies checks an ES256 signature, r||s.
func verifies(public *ecdsa.PublicKey, payload, signature []byte) bool {
	if len(signature) != 64 {
		return false
	}
	digest := sha256.Sum256(payload)
	return ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
}

// publicKey returns what the gateways publish for a version. They must all
// publish the same.
func (a *agents) publicKey(ctx context.Context, key string, version uint32, kid string) (*ecdsa.PublicKey, error) {
	a.mu.Lock()
	public := a.public[kid]
	a.mu.Unlock()
	if public != nil {
		return public, nil
	}
	k, err := a.c.Key(ctx, key)
	if err != nil {
		return nil, err
	}
	for _, v := range k.Versions {
		if v.Version != version || v.KeyID != kid {
			continue
		}
		block, _ := pem.Decode([]byte(v.PublicKey))
		if block == nil {
			break
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		public, ok := parsed.(*ecdsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("the public key of %s is a %T", kid, parsed)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.public[kid] = public
		return public, nil
	}
	return nil, fmt.Errorf("%s has signed, and nobody publishes its public key", kid)
}

// encrypt encrypts and decrypts, what is new and what is older.
func (a *agents) encrypt(ctx context.Context, key string, n int, m *memory) error {
	plaintext := fmt.Appendf(nil, "secret %d of %s", n, key)
	start := time.Now()
	e, err := a.c.Encrypt(ctx, key, api.EncryptRequest{Plaintext: plaintext})
	if err != nil {
		return err
	}
	a.answered(e.KeyID, start)
	i := item{version: e.Version, kid: e.KeyID, payload: plaintext, ciphertext: e.Ciphertext}
	m.keep(i)
	for _, i := range []item{i, m.next()} {
		d, err := a.c.Decrypt(ctx, key, api.DecryptRequest{Ciphertext: i.ciphertext})
		if err != nil {
			return fmt.Errorf("decrypting what %s encrypted: %w", i.kid, err)
		}
		if !bytes.Equal(d.Plaintext, i.payload) || d.Version != i.version {
			return fmt.Errorf("what %s encrypted is opened by version %d to something else", i.kid, d.Version)
		}
		a.answered("", start)
	}
	return nil
}
