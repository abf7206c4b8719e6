// Package lease keeps several gateways, and several goroutines of one, from
// doing the same work at once.
//
// A lease is a row of the store that says who may do something, and until
// when by the clock of the store. While the work runs it is prolonged; at its
// end it is given up. A gateway that dies keeps others waiting for TTL at
// most. One that was stopped for longer than that, or lost the store, finds
// its context ended: another may have taken the work over.
//
// That a context ends is a courtesy, not a fence: whoever is stopped between
// looking at it and acting acts all the same. So what is done under a lease
// must be harmless when two do it, or be decided by a compare-and-swap in the
// store.
package lease

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"keyhole/keys"
)

// TTL is how long a lease lasts that is not prolonged, and prolongs how often
// it is prolonged in that time.
const (
	TTL      = 15 * time.Second
	prolongs = 3
)

// Errors.
var (
	ErrTaken = errors.New("somebody else has the lease")
	ErrLost  = errors.New("the lease was lost") // the cause of a context that ended so
)

// Store keeps the leases. Its guarantees are those of store.Store: a holder
// that has a lease prolongs it by acquiring it again, and an other one
// gets it only after it has lapsed or was released.
type Store interface {
	AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, err error)
	ReleaseLease(ctx context.Context, name, holder string) error
}

// Config is what a Keeper needs.
type Config struct {
	Store  Store
	Holder string        // keys.Node.Instance of this process; default: one of its own
	TTL    time.Duration // default TTL
	Log    *slog.Logger  // default slog.Default()
}

// Keeper takes leases for one process. Its methods may be called
// concurrently: of the goroutines of the process, too, one has a lease at one
// time.
type Keeper struct {
	store  Store
	holder string
	ttl    time.Duration
	log    *slog.Logger

	mu   sync.Mutex
	busy map[string]chan struct{} // what this process works on; closed at the end
}

// New returns a Keeper.
func New(c Config) *Keeper {
	k := &Keeper{store: c.Store, holder: c.Holder, ttl: c.TTL, log: c.Log, busy: map[string]chan struct{}{}}
	if k.holder == "" {
		k.holder = keys.NewID(time.Now())
	}
	if k.ttl <= 0 {
		k.ttl = TTL
	}
	if k.log == nil {
		k.log = slog.Default()
	}
	return k
}

// Try takes a lease, if nobody has it. The work under it uses the returned
// context, which ends with ctx, at done, or when the lease was lost. done
// gives the lease up and must be called. Errors: ErrTaken, and those of the
// store.
func (k *Keeper) Try(ctx context.Context, name string) (held context.Context, done func(), err error) {
	if !k.claim(name) {
		return nil, nil, ErrTaken
	}
	h, err := k.acquire(ctx, name)
	if err != nil {
		k.unclaim(name)
		return nil, nil, err
	}
	return h.ctx, h.done, nil
}

// TryToEnd is Try for work that goes on when ctx ends: only the taking of the
// lease is given up then.
func (k *Keeper) TryToEnd(ctx context.Context, name string) (held context.Context, done func(), err error) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	held, release, err := k.Try(own, name)
	if !stop() && err == nil { // it was given up after all
		release()
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return held, func() { release(); cancel() }, nil
}

// poll is how often Wait looks for a lease that another process has.
const poll = 250 * time.Millisecond

// Wait is Try, after waiting for whoever has the lease. Errors: those of the
// store, and of ctx.
func (k *Keeper) Wait(ctx context.Context, name string) (held context.Context, done func(), err error) {
	for {
		held, done, err = k.Try(ctx, name)
		if !errors.Is(err, ErrTaken) {
			return held, done, err
		}
		k.mu.Lock()
		busy := k.busy[name]
		k.mu.Unlock()
		var later <-chan time.Time
		if busy == nil {
			later = time.After(poll)
		}
		select {
		case <-busy:
		case <-later:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// Busy reports whether this process works under a lease.
func (k *Keeper) Busy(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.busy[name] != nil
}

func (k *Keeper) claim(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy[name] != nil {
		return false
	}
	k.busy[name] = make(chan struct{})
	return true
}

func (k *Keeper) unclaim(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.busy[name])
	delete(k.busy, name)
}
