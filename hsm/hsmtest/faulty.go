package hsmtest

import (
	"context"
	"sync"
	"time"

	"keyhole/keys"
)

// Method names a method of Backend that can be made to fail.
type Method string

// The methods.
const (
	Generate Method = "Generate"
	Destroy  Method = "Destroy"
	Sign     Method = "Sign"
	Verify   Method = "Verify"
	Wrap     Method = "Wrap"
	Unwrap   Method = "Unwrap"
	Random   Method = "Random"

	List        Method = "List"
	Inspect     Method = "Inspect"
	MarkRevoked Method = "MarkRevoked"
	Revoked     Method = "Revoked"
	StoreKey    Method = "StoreKey"
)

// Mode is what a chosen call does.
type Mode int

// The modes.
const (
	NotDone Mode = iota + 1 // does nothing and returns the error
	Done                    // does its work, and returns the error all the same
)

// Faulty is a Backend that passes everything on to another one, but for the
// calls that were chosen to fail or to wait.
type Faulty struct {
	Backend

	mu     sync.Mutex
	calls  map[Method]int
	faults map[call]fault
}

type call struct {
	method Method
	number int
}

type fault struct {
	mode    Mode
	err     error
	entered chan struct{} // closed when the call arrives; nil: it does not wait
	release chan struct{}
}

// NewFaulty returns a Faulty without faults.
func NewFaulty(b Backend) *Faulty {
	return &Faulty{Backend: b, calls: map[Method]int{}, faults: map[call]fault{}}
}

// Fail makes the n-th call of a method from now on (1: the next one) return
// err, once.
func (f *Faulty) Fail(m Method, n int, mode Mode, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[call{m, f.calls[m] + n}] = fault{mode: mode, err: err}
}

// Block makes the n-th call of a method from now on wait until it is released
// or its context ends; released, it does its work. entered is closed when
// the call has arrived. release may be called more than once.
func (f *Faulty) Block(m Method, n int) (entered <-chan struct{}, release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, r := make(chan struct{}), make(chan struct{})
	f.faults[call{m, f.calls[m] + n}] = fault{entered: e, release: r}
	return e, sync.OnceFunc(func() { close(r) })
}

// Calls returns how often a method was called.
func (f *Faulty) Calls(m Method) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[m]
}

// run counts a call and lets its fault, if it has one, happen around do.
func run[T any](ctx context.Context, f *Faulty, m Method, do func() (T, error)) (T, error) {
	f.mu.Lock()
	f.calls[m]++
	c := call{m, f.calls[m]}
	ft := f.faults[c]
	delete(f.faults, c)
	f.mu.Unlock()

	var none T
	if ft.entered != nil {
		close(ft.entered)
		select {
		case <-ft.release:
		case <-ctx.Done():
			return none, ended(ctx)
		}
	}
	switch ft.mode {
	case NotDone:
		return none, ft.err
	case Done:
		if _, err := do(); err != nil {
			return none, err
		}
		return none, ft.err
	}
	return do()
}

// Generate implements Backend.
func (f *Faulty) Generate(ctx context.Context, ref keys.Ref) (keys.Generated, error) {
	return run(ctx, f, Generate, func() (keys.Generated, error) { return f.Backend.Generate(ctx, ref) })
}

// Destroy implements Backend.
func (f *Faulty) Destroy(ctx context.Context, ref keys.Ref) error {
	_, err := run(ctx, f, Destroy, func() (struct{}, error) { return struct{}{}, f.Backend.Destroy(ctx, ref) })
	return err
}

// Sign implements Backend.
func (f *Faulty) Sign(ctx context.Context, ref keys.Ref, input []byte) ([]byte, error) {
	return run(ctx, f, Sign, func() ([]byte, error) { return f.Backend.Sign(ctx, ref, input) })
}

// Verify implements Backend.
func (f *Faulty) Verify(ctx context.Context, ref keys.Ref, input, sig []byte) (bool, error) {
	return run(ctx, f, Verify, func() (bool, error) { return f.Backend.Verify(ctx, ref, input, sig) })
}

// Wrap implements Backend.
func (f *Faulty) Wrap(ctx context.Context, ref keys.Ref, key, aad []byte) (iv, wrapped []byte, err error) {
	w, err := run(ctx, f, Wrap, func() ([2][]byte, error) {
		iv, wrapped, err := f.Backend.Wrap(ctx, ref, key, aad)
		return [2][]byte{iv, wrapped}, err
	})
	return w[0], w[1], err
}

// Unwrap implements Backend.
func (f *Faulty) Unwrap(ctx context.Context, ref keys.Ref, iv, wrapped, aad []byte) ([]byte, error) {
	return run(ctx, f, Unwrap, func() ([]byte, error) { return f.Backend.Unwrap(ctx, ref, iv, wrapped, aad) })
}

// Random implements Backend.
func (f *Faulty) Random(ctx context.Context, token string, n int) ([]byte, error) {
	return run(ctx, f, Random, func() ([]byte, error) { return f.Backend.Random(ctx, token, n) })
}

// List implements Backend.
func (f *Faulty) List(ctx context.Context, token string) ([]keys.TokenObject, error) {
	return run(ctx, f, List, func() ([]keys.TokenObject, error) { return f.Backend.List(ctx, token) })
}

// Inspect implements Backend.
func (f *Faulty) Inspect(ctx context.Context, ref keys.Ref) (keys.Generated, error) {
	return run(ctx, f, Inspect, func() (keys.Generated, error) { return f.Backend.Inspect(ctx, ref) })
}

// MarkRevoked implements Backend.
func (f *Faulty) MarkRevoked(ctx context.Context, ref keys.Ref, id keys.VersionID, at time.Time) error {
	_, err := run(ctx, f, MarkRevoked, func() (struct{}, error) { return struct{}{}, f.Backend.MarkRevoked(ctx, ref, id, at) })
	return err
}

// Revoked implements Backend.
func (f *Faulty) Revoked(ctx context.Context, token string) ([]keys.RevocationMark, error) {
	return run(ctx, f, Revoked, func() ([]keys.RevocationMark, error) { return f.Backend.Revoked(ctx, token) })
}

// StoreKey implements Backend.
func (f *Faulty) StoreKey(ctx context.Context, create bool) ([]byte, error) {
	return run(ctx, f, StoreKey, func() ([]byte, error) { return f.Backend.StoreKey(ctx, create) })
}
