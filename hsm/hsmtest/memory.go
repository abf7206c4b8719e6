package hsmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"

	"keyhole/keys"
)

// MemoryOptions say what a Memory looks like.
type MemoryOptions struct {
	Tokens  []string         // names of its tokens, the default one first; none: "memory"
	Without []keys.Algorithm // what it is not capable of
	NoMarks bool             // its tokens keep no data objects
}

// Memory is a Backend whose keys live in this process. It does the real
// cryptography; what it lacks of an HSM is the protection.
type Memory struct {
	tokens  []string
	without []keys.Algorithm
	noMarks bool

	mu      sync.RWMutex
	closed  bool
	objects []*object
	planted []keys.TokenObject // by Plant
	lost    map[half]bool      // by Lose
	marks   []keys.RevocationMark
	storeBy []byte // what StoreKey makes its MAC by
}

// object is immutable.
type object struct {
	token  string
	id     keys.ObjectID
	label  string
	alg    keys.Algorithm
	bits   int
	key    material
	public []byte
	check  []byte

	exposed bool // by Expose
}

// NewMemory returns an empty Memory.
func NewMemory(o MemoryOptions) *Memory {
	if len(o.Tokens) == 0 {
		o.Tokens = []string{"memory"}
	}
	return &Memory{tokens: slices.Clone(o.Tokens), without: slices.Clone(o.Without), noMarks: o.NoMarks, lost: map[half]bool{}}
}

// Objects returns the labels of all keys that exist, sorted; a pair counts
// once.
func (m *Memory) Objects() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	labels := make([]string, len(m.objects))
	for i, o := range m.objects {
		labels[i] = o.label
	}
	slices.Sort(labels)
	return labels
}

// DefaultToken implements Backend.
func (m *Memory) DefaultToken() string { return m.tokens[0] }

// HasToken implements Backend.
func (m *Memory) HasToken(name string) bool { return slices.Contains(m.tokens, name) }

// Capable implements Backend.
func (m *Memory) Capable(token string, alg keys.Algorithm) error {
	if !m.HasToken(token) {
		return keys.Errorf(keys.ErrInvalid, "no token is configured under the name %q", token)
	}
	if !alg.Known() || slices.Contains(m.without, alg) {
		return keys.Errorf(keys.ErrUnsupported, "the token %q does not do %s", token, alg)
	}
	return nil
}

// Generate implements Backend.
func (m *Memory) Generate(ctx context.Context, ref keys.Ref) (keys.Generated, error) {
	if err := m.Capable(ref.Token, ref.Algorithm); err != nil {
		return keys.Generated{}, err
	}
	bits, err := ref.Algorithm.KeyBits(ref.Bits)
	if err != nil {
		return keys.Generated{}, err
	}
	if err := m.free(ctx, ref); err != nil {
		return keys.Generated{}, err
	}
	o := &object{token: ref.Token, id: ref.ID, label: ref.Label, alg: ref.Algorithm, bits: bits}
	if o.key, o.public, o.check, err = generate(ref.Algorithm, bits); err != nil {
		return keys.Generated{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return keys.Generated{}, err
	}
	if err := m.freeLocked(ref); err != nil {
		return keys.Generated{}, err
	}
	m.objects = append(m.objects, o)
	for _, class := range o.classes() {
		delete(m.lost, half{o.token, o.label, class})
	}
	return keys.Generated{
		PublicKey: bytes.Clone(o.public), Check: bytes.Clone(o.check), NeverExtractable: true, AlwaysSensitive: true,
	}, nil
}

func (m *Memory) free(ctx context.Context, ref keys.Ref) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	return m.freeLocked(ref)
}

func (m *Memory) freeLocked(ref keys.Ref) error {
	for _, o := range m.objects {
		if o.token == ref.Token && (o.id == ref.ID || o.label == ref.Label) {
			return exists(ref)
		}
	}
	for _, o := range m.planted {
		if o.Token == ref.Token && (bytes.Equal(o.ID, ref.ID[:]) || o.Label == ref.Label) {
			return exists(ref)
		}
	}
	return nil
}

func exists(ref keys.Ref) error {
	return keys.Errorf(keys.ErrKeyExists, "the token %q has an object with the id or the label of %s", ref.Token, ref.Label)
}

// Destroy implements Backend.
func (m *Memory) Destroy(ctx context.Context, ref keys.Ref) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	if !m.HasToken(ref.Token) {
		return keys.Errorf(keys.ErrInvalid, "no token is configured under the name %q", ref.Token)
	}
	m.objects = slices.DeleteFunc(m.objects, func(o *object) bool {
		return o.token == ref.Token && o.id == ref.ID && o.label == ref.Label
	})
	m.planted = slices.DeleteFunc(m.planted, func(o keys.TokenObject) bool {
		return o.Token == ref.Token && bytes.Equal(o.ID, ref.ID[:]) && o.Label == ref.Label
	})
	return nil
}

// Sign implements Backend.
func (m *Memory) Sign(ctx context.Context, ref keys.Ref, input []byte) ([]byte, error) {
	o, err := m.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := checkInput(ref.Algorithm, input); err != nil {
		return nil, err
	}
	return o.key.sign(o.alg, input)
}

// Verify implements Backend.
func (m *Memory) Verify(ctx context.Context, ref keys.Ref, input, sig []byte) (bool, error) {
	o, err := m.find(ctx, ref)
	if err != nil {
		return false, err
	}
	if err := checkInput(ref.Algorithm, input); err != nil {
		return false, err
	}
	return o.key.verify(o.alg, input, sig)
}

// checkInput refuses what an algorithm cannot sign.
func checkInput(alg keys.Algorithm, input []byte) error {
	if !alg.TakesDigest() {
		return nil
	}
	return alg.CheckDigest("", input)
}

// Wrap implements Backend.
func (m *Memory) Wrap(ctx context.Context, ref keys.Ref, key, aad []byte) (iv, wrapped []byte, err error) {
	o, err := m.find(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	if len(key) == 0 || len(key) > 64 {
		return nil, nil, keys.Errorf(keys.ErrInvalid, "a data key has 1 to 64 bytes, not %d", len(key))
	}
	return o.key.wrap(o.alg, key, aad)
}

// Unwrap implements Backend.
func (m *Memory) Unwrap(ctx context.Context, ref keys.Ref, iv, wrapped, aad []byte) ([]byte, error) {
	o, err := m.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	return o.key.unwrap(o.alg, iv, wrapped, aad)
}

// Random implements Backend.
func (m *Memory) Random(ctx context.Context, token string, n int) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	if token != "" && !m.HasToken(token) {
		return nil, keys.Errorf(keys.ErrInvalid, "no token is configured under the name %q", token)
	}
	if n < 1 {
		return nil, keys.Errorf(keys.ErrInvalid, "%d random bytes were asked for; ask for 1 at least", n)
	}
	b := make([]byte, n)
	rand.Read(b) // never fails (Go 1.24)
	return b, nil
}

// Close implements Backend. Every later call fails with keys.ErrHSM.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// find returns the object that ref names, if it is what ref says it is.
func (m *Memory) find(ctx context.Context, ref keys.Ref) (*object, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	for _, o := range m.objects {
		if o.token != ref.Token || o.id != ref.ID {
			continue
		}
		if o.label != ref.Label || o.alg != ref.Algorithm || !bytes.Equal(o.public, ref.PublicKey) || !bytes.Equal(o.check, ref.Check) {
			return nil, fmt.Errorf("the object with the id of %s is another key: %w", ref.Label, keys.ErrHSM)
		}
		return o, nil
	}
	return nil, fmt.Errorf("no object of %s: %w", ref.Label, keys.ErrHSM)
}

// usable is called with m.mu held.
func (m *Memory) usable(ctx context.Context) error {
	if m.closed {
		return fmt.Errorf("the token is closed: %w", keys.ErrHSM)
	}
	return ended(ctx)
}

// ended returns the context's error as backends do: keys.ErrTimeout at a
// deadline.
func ended(ctx context.Context) error {
	err := ctx.Err()
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", keys.ErrTimeout, err)
	}
	return err
}
