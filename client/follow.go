package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"keyhole/client/internal/ring"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// followed is one key of a Watch: a ring that keepCurrent fills and events
// correct, and the versions that wait for acknowledge.
type followed struct {
	w    *Watch
	name string
	ring *ring.Ring

	wakeReader, wakeAcker chan struct{} // of capacity 1

	mu sync.Mutex
	// gen grows with whatever may have changed the key; what was read is
	// current as long as readGen is gen.
	gen, readGen uint64
	readAt       time.Time     // when the last good reading began; zero: never
	begun, ended uint64        // readings
	end          chan struct{} // closed and replaced when one ends
	failure      error         // of the last reading
	wanted       bool          // somebody waits for a reading
	subscribed   bool
	waiting      map[uint32]*waiting
	settled      map[uint32]bool // acknowledged, or never to be
}

// waiting is a version to acknowledge.
type waiting struct {
	since time.Time
	taken bool // OnVersion is done with it
}

func newFollowed(w *Watch, name string) *followed {
	return &followed{
		w: w, name: name, ring: ring.New(name), wakeReader: make(chan struct{}, 1), wakeAcker: make(chan struct{}, 1),
		gen: 1, end: make(chan struct{}), subscribed: w.cfg.Silent, waiting: map[uint32]*waiting{}, settled: map[uint32]bool{},
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // it is awake already
	}
}

// changed notes that the key may have changed; ev, if not nil, says how.
func (f *followed) changed(ev *api.Event) {
	if ev != nil {
		f.ring.Apply(*ev)
	}
	f.mu.Lock()
	f.gen++
	f.mu.Unlock()
	if ev != nil && ev.Type == string(keys.NoticeAnnounced) {
		f.wait(ev.Version)
	}
	wake(f.wakeReader)
}

// wait enters versions that wait for the agent's acknowledgement.
func (f *followed) wait(versions ...uint32) {
	if f.w.cfg.Silent {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range versions {
		if f.waiting[n] == nil && !f.settled[n] {
			f.waiting[n] = &waiting{since: time.Now()}
		}
	}
	wake(f.wakeAcker)
}

func (f *followed) resubscribe() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subscribed = f.w.cfg.Silent
}

// How often keys are read.
const (
	readEvery  = time.Minute      // without any event: a stream that is dead may look well
	readSpread = 10 * time.Second // by so much less, so that agents do not come in step
	readApart  = time.Second      // at least, on behalf of versions never heard of

	incompleteTries = 10
	// spreadsWithin is how soon all gateways know what one of them knows.
	spreadsWithin = 3 * time.Second
)

// keepCurrent reads the key whenever it may have changed, until ctx ends.
func (f *followed) keepCurrent(ctx context.Context, stop context.CancelCauseFunc) {
	tries := 0
	for {
		began := time.Now()
		err := f.read(ctx)
		var pause time.Duration
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && f.complete():
			tries = 0
			pause = readEvery - jitter(readSpread)
		case err == nil: // another gateway knows less than the one that announced it
			pause = readEvery - jitter(readSpread)
			if tries < incompleteTries {
				pause = backOff(tries)
			}
			tries++
		case !passing(err) && f.neverRead():
			stop(&unusableError{err})
			return
		default:
			pause = backOff(tries)
			tries++
			f.w.cfg.Log.WarnContext(ctx, "the key could not be read and will be again", "key", f.name, "err", err)
		}
		if !f.rest(ctx, err == nil, began, pause) {
			return
		}
	}
}

// rest waits for d, or until the key has to be read before that. It returns
// false if ctx has ended.
func (f *followed) rest(ctx context.Context, wakeable bool, began time.Time, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		woken := f.wakeReader
		if !wakeable {
			woken = nil // the pause behind a failure is kept, whatever happens
		}
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return true
		case <-woken:
		}
		f.mu.Lock()
		dirty, wanted := f.gen != f.readGen, f.wanted
		f.mu.Unlock()
		switch {
		case dirty:
			return true
		case wanted: // by whoever verifies; strangers can make them ask as often as they like
			d = min(d, readApart-time.Since(began))
			if d <= 0 {
				return true
			}
			t.Reset(d)
		}
	}
}

// read subscribes, unless that was done, and reads what is published of the
// key.
func (f *followed) read(ctx context.Context) error {
	f.mu.Lock()
	gen, subscribed := f.gen, f.subscribed
	f.begun++
	f.wanted = false
	f.mu.Unlock()
	began := time.Now()

	err := func() error {
		if !subscribed {
			s, err := f.w.c.Subscribe(ctx, f.name)
			if err != nil {
				return err
			}
			f.mu.Lock()
			f.subscribed = true
			f.mu.Unlock()
			f.wait(s.Waiting...)
		}
		// In this order: a version that is revoked in between is in the
		// first answer, and the second one says that it is.
		jwks, err := f.w.c.JWKS(ctx, f.name)
		if err != nil {
			return err
		}
		status, err := f.w.c.Status(ctx, f.name)
		if err != nil {
			return err
		}
		if err := f.ring.Fill(jwks, status); err != nil {
			f.w.cfg.Log.WarnContext(ctx, "not all that is published of the key can be used", "key", f.name, "err", err)
		}
		return f.findSecret(ctx)
	}()
	for _, v := range f.ring.Versions() {
		if v.State == keys.PreActivation { // its announcement may have been missed
			f.wait(v.Number)
		}
	}

	f.mu.Lock()
	first := err == nil && f.readAt.IsZero()
	if err == nil {
		f.readGen, f.readAt = gen, began
	}
	f.failure = err
	f.ended = f.begun
	close(f.end)
	f.end = make(chan struct{})
	again := f.gen != f.readGen
	f.mu.Unlock()
	if first {
		f.w.read()
	}
	if again {
		wake(f.wakeReader)
	}
	wake(f.wakeAcker)
	return err
}

// unpublished returns the versions that wait, and of which nothing is
// published.
func (f *followed) unpublished() map[uint32]time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[uint32]time.Time{}
	for n, w := range f.waiting {
		if _, ok := f.ring.Version(n); !ok {
			all[n] = w.since
		}
	}
	return all
}

// findSecret tells versions that have no public key from those whose public
// key is not known yet.
func (f *followed) findSecret(ctx context.Context) error {
	missing := f.unpublished()
	if len(missing) == 0 {
		return nil
	}
	k, err := f.w.c.Key(ctx, f.name)
	if errors.Is(err, keys.ErrKeyNotFound) || errors.Is(err, keys.ErrForbidden) { // not for this agent: time will tell
		for n, since := range missing {
			if time.Since(since) > spreadsWithin {
				f.ring.Secret(n, keys.PreActivation)
			}
		}
		return nil
	}
	for _, v := range k.Versions {
		if _, ok := missing[v.Version]; ok && v.PublicKey == "" && v.JWK == nil {
			f.ring.Secret(v.Version, keys.State(v.State))
		}
	}
	return err
}

// complete reports whether all that is needed of the versions that wait is
// kept.
func (f *followed) complete() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := range f.waiting {
		v, ok := f.ring.Version(n)
		if !ok || v.State.Published() && !v.Ready() {
			return false
		}
	}
	return true
}

func (f *followed) neverRead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.readAt.IsZero()
}

// asOf returns how far what is known of the key is from the present: the
// moment up to which nothing can have happened that is not known.
func (f *followed) asOf() time.Time {
	f.w.mu.Lock()
	opened, heard := f.w.openedAt, f.w.heardAt
	f.w.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	// An event stream that was open before the reading vouches for the time
	// up to its last sign of life.
	if !f.readAt.IsZero() && f.readGen == f.gen && !opened.IsZero() && f.readAt.After(opened) && heard.After(f.readAt) {
		return heard
	}
	return f.readAt
}

// fresh sees to it that what is known of the key may be relied on, and that
// version n is known if there is one.
func (f *followed) fresh(ctx context.Context, n uint32) error {
	if f.w.c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.w.c.timeout)
		defer cancel()
	}
	select {
	case <-f.w.ready:
	default:
		select {
		case <-f.w.ready:
		case <-f.w.over:
			return keys.Errorf(keys.ErrStale, "the Watch ended before it had read its keys")
		case <-ctx.Done():
			return keys.Errorf(keys.ErrStale, "the keys are not read yet: the Watch does not run, or does not reach the gateway")
		}
	}
	v, known := f.ring.Version(n)
	// One that was published between two answers of a reading is known by its
	// state, and its public key is not here yet.
	known = known && (v.Ready() || !v.State.Published())
	stale := f.stale()
	if known && !stale {
		return nil
	}
	err := f.reread(ctx)
	if stale && f.stale() {
		return keys.Errorf(keys.ErrStale, "nothing was heard of key %q since %s: the version may have been revoked since", f.name, f.asOf().UTC().Format(time.RFC3339))
	}
	if _, known := f.ring.Version(n); !known && err != nil {
		return err
	}
	return nil
}

func (f *followed) stale() bool { return f.w.maxStale > 0 && time.Since(f.asOf()) > f.w.maxStale }

// reread waits for a reading that begins after now, and returns its error.
func (f *followed) reread(ctx context.Context) error {
	f.mu.Lock()
	next := f.begun + 1
	f.wanted = true
	f.mu.Unlock()
	wake(f.wakeReader)
	for {
		f.mu.Lock()
		ended, end, failure := f.ended, f.end, f.failure
		f.mu.Unlock()
		if ended >= next {
			return failure
		}
		select {
		case <-end:
		case <-f.w.over:
			return keys.Errorf(keys.ErrStale, "the Watch has ended: nothing is kept current any more")
		case <-ctx.Done():
			return keys.Errorf(keys.ErrTimeout, "no answer from the gateway about key %q in time", f.name)
		}
	}
}
