// Package tail reads the event stream of the store once for all who follow
// it.
//
// The newest events are kept in memory. Nothing runs by itself: whichever
// follower first hears that the store has changed reads what is new, and the
// others find it there. A follower who has fallen behind what is kept reads
// the store, a page at a time, one follower after the other. No event is kept
// for anybody in particular, so that a slow follower costs nothing but its
// own place in the stream.
package tail

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// Store keeps the events. Ids of commits that come later are higher.
type Store interface {
	// Events returns events with ids above after, in order, limit at most.
	Events(ctx context.Context, after uint64, limit int) ([]keys.Notice, error)
	// EventRange returns the lowest id that is still kept and the highest that
	// was ever given.
	EventRange(ctx context.Context) (oldest, newest uint64, err error)
}

// Snapshots tells when there may be something new. Refresh brings what was
// committed before the call into the snapshot.
type Snapshots interface {
	Snapshot() (*store.Snapshot, error)
	Refresh(ctx context.Context) error
	Changed() <-chan struct{}
}

// Sizes of what is kept and read at one time.
const (
	keep     = 4096
	page     = 256
	departed = 1024
)

// Tail is the end of the event stream. Its methods are safe for concurrent
// use.
type Tail struct {
	store     Store
	snapshots Snapshots
	turn      chan struct{} // held by whoever reads the store
	rest      time.Duration // for which a store that failed is not asked again

	// Guarded by turn.
	failed   error
	failedAt time.Time

	mu        sync.Mutex
	followers int
	seen      <-chan struct{}      // what was committed before it is closed is in events; nil: nothing was read yet
	events    []keys.Notice        // ascending, without holes, up to newest
	after     uint64               // events holds all above this
	newest    uint64               // the highest id that was read
	last      *store.Snapshot      // as of the last reading
	gone      map[string]*keys.Key // keys that were deleted, as they were
	order     []string             // of gone, oldest first
}

// New returns a Tail. It reads nothing before the first call.
func New(s Store, snapshots Snapshots) *Tail {
	return &Tail{store: s, snapshots: snapshots, turn: make(chan struct{}, 1), rest: retry / 2, gone: map[string]*keys.Key{}}
}

// Join enters a follower, who shall look for events whenever Changed says so,
// and call leave once. Only while there is one is it known how deleted keys
// were at the end.
func (t *Tail) Join() (leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.followers++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.followers--; t.followers == 0 {
			t.last, t.gone, t.order = nil, map[string]*keys.Key{}, nil
			t.seen = make(chan struct{}) // the next follower looks again
		}
	}
}

// Changed returns a channel that is closed when there may be more than a
// Next begun after this call returns.
func (t *Tail) Changed() <-chan struct{} { return t.snapshots.Changed() }

// Newest returns the id of the newest event.
func (t *Tail) Newest(ctx context.Context) (uint64, error) {
	if err := t.refresh(ctx); err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.newest, nil
}

// Next returns the events behind after, in order, but not all at one time:
// none means that there are none yet. complete is false if events behind
// after are no longer kept, or if the stream has never come as far: the
// follower must begin anew at Newest. The events are shared.
func (t *Tail) Next(ctx context.Context, after uint64) (events []keys.Notice, complete bool, err error) {
	if err := t.refresh(ctx); err != nil {
		return nil, false, err
	}
	if events, ok := t.kept(after); ok {
		return events, true, nil
	}
	if err := t.take(ctx); err != nil {
		return nil, false, err
	}
	defer t.give()
	// The range is read behind the events: what expires in between is noticed.
	if events, err = t.read(ctx, after); err != nil {
		return nil, false, err
	}
	oldest, newest, err := t.store.EventRange(ctx)
	if err != nil {
		return nil, false, t.note(ctx, err)
	}
	if after > newest || after+1 < oldest {
		return nil, false, nil
	}
	return events, true, nil
}

// kept returns what is in memory behind after, if all of it is.
func (t *Tail) kept(after uint64) ([]keys.Notice, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if after < t.after || after > t.newest {
		return nil, false
	}
	i, found := slices.BinarySearchFunc(t.events, after, func(n keys.Notice, id uint64) int { return cmp.Compare(n.ID, id) })
	if found {
		i++
	}
	rest := t.events[i:min(i+page, len(t.events))]
	return slices.Clip(rest), true
}

// Departed returns a key that was deleted, as it was before, if that is still
// known.
func (t *Tail) Departed(name string) (*keys.Key, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.gone[name]
	return k, ok
}

// refresh reads what was committed before the call.
func (t *Tail) refresh(ctx context.Context) error {
	// Whatever is committed later than this closes the channel.
	changed := t.snapshots.Changed()
	if t.upTo(changed) {
		return nil
	}
	if err := t.take(ctx); err != nil {
		return err
	}
	defer t.give()
	if t.upTo(changed) {
		return nil
	}
	t.mu.Lock()
	first, newest := t.seen == nil, t.newest
	t.mu.Unlock()
	if first {
		var err error
		if _, newest, err = t.store.EventRange(ctx); err != nil {
			return t.note(ctx, err)
		}
		t.mu.Lock()
		t.after, t.newest = newest, newest
		t.mu.Unlock()
	}
	for {
		events, err := t.read(ctx, newest)
		if err != nil {
			return err
		}
		snap, err := t.snapshots.Snapshot()
		if err != nil {
			return err
		}
		newest = t.add(events, snap)
		if len(events) < page {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.seen = changed; t.followers > 0 {
				t.last = snap
			}
			return nil
		}
	}
}

// read reads a page of the store. What its events tell is in the snapshot
// then: whoever hears of a change and asks finds it.
func (t *Tail) read(ctx context.Context, after uint64) ([]keys.Notice, error) {
	events, err := t.store.Events(ctx, after, page)
	if err != nil || len(events) == 0 {
		return nil, t.note(ctx, err)
	}
	return events, t.note(ctx, t.snapshots.Refresh(ctx))
}

// note keeps the error of a store that is down. ctx is that of who asked.
func (t *Tail) note(ctx context.Context, err error) error {
	if errors.Is(err, keys.ErrStore) && ctx.Err() == nil {
		t.failed, t.failedAt = err, time.Now()
	}
	return err
}

func (t *Tail) upTo(changed <-chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen == changed
}

// add appends events and forgets what is too much. It returns the highest id.
// What was given out before is not touched.
func (t *Tail) add(events []keys.Notice, snap *store.Snapshot) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range events {
		t.newest = n.ID
		t.remember(n.Key, snap)
	}
	t.events = append(t.events, events...)
	if over := len(t.events) - keep; over > 0 {
		t.after = t.events[over-1].ID
		t.events = t.events[over:] // append moves the rest to a new array when this one is full
	}
	return t.newest
}

// remember keeps a key that is no longer there, as it was.
func (t *Tail) remember(name string, snap *store.Snapshot) {
	if _, there := snap.Key(name); there || t.last == nil {
		return
	}
	k, was := t.last.Key(name)
	if _, known := t.gone[name]; known || !was {
		return
	}
	t.gone[name] = k
	t.order = append(t.order, name)
	if len(t.order) > departed {
		delete(t.gone, t.order[0])
		t.order = t.order[1:]
	}
}

// take waits for the turn to read the store. Who waited while it did not
// answer is told so, in place of waiting for the same answer one after the
// other.
func (t *Tail) take(ctx context.Context) error {
	select {
	case t.turn <- struct{}{}:
		if t.failed != nil && time.Since(t.failedAt) < t.rest {
			defer t.give()
			return t.failed
		}
		t.failed = nil
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *Tail) give() { <-t.turn }
