package gateway

import (
	"context"
	"errors"
	"time"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
)

// EventQuery says which events a stream is about and where it begins.
type EventQuery struct {
	Keys   []string      // of these keys; none: of all that the caller may see
	Resume bool          // begin behind After; else with what happens from now on
	After  uint64        // the id of the last event that the caller has seen
	Idle   time.Duration // longest time without a call of send or idle (default 15s)
}

// retryEvents is how soon a store that cannot be read is tried again.
const retryEvents = time.Second

// Events sends what happens to keys until ctx ends, the caller's credential
// expires, the caller is blocked, the gateway drains, or send or idle fails;
// it returns why, and nil when the gateway drains. idle is called first, when
// the stream stands, and then whenever nothing was sent for a while.
//
// The policy is asked about each event, for the key as it is then. When
// events behind After are no longer kept, the first event is api.EventReset.
// Nothing is kept for a caller: one that does not take events holds up
// nobody, and it is for send to give up on it.
//
// The beginning of a stream is recorded. It takes a place among the caller's
// streams, not among the requests in flight.
func (s *Service) Events(ctx context.Context, req Request, q EventQuery, send func(api.Event) error, idle func() error) error {
	f := &follower{s: s, send: send, idle: idle, names: map[string]bool{}}
	defer f.close()
	o := s.open(req, authz.ActionRead, "", 0)
	if len(q.Keys) == 1 {
		o = s.open(req, authz.ActionRead, q.Keys[0], 0)
	}
	f.o = o
	if _, err := guarded(ctx, o, func(ctx context.Context, o *op) (struct{}, error) { return struct{}{}, f.begin(ctx, q) }); err != nil {
		return err
	}
	return f.follow(ctx, q)
}

// follower is one stream under way.
type follower struct {
	s      *Service
	o      *op
	send   func(api.Event) error
	idle   func() error
	names  map[string]bool // of the keys asked for; empty: all
	cursor uint64          // the last event that was looked at
	leave  func()
	quiet  *time.Ticker
}

// begin authorises the stream and finds its place.
func (f *follower) begin(ctx context.Context, q EventQuery) error {
	f.o.detail("act", "events")
	snap, err := f.s.snapshots.Snapshot()
	if err != nil {
		return err
	}
	for _, name := range q.Keys {
		k, ok := snap.Key(name)
		switch {
		case ok && k.Damaged:
			return f.o.damaged(k)
		case !ok || !visible(k):
			return notFound(name)
		}
		if err := f.o.decide(resourceOf(k), ""); err != nil {
			return err
		}
		f.names[name] = true
	}
	if !f.s.takeStream(f.o.req.Caller.ID) {
		return keys.Errorf(keys.ErrOverloaded, "this caller has %d event streams, which is the limit; follow several keys by one", f.s.maxStreams)
	}
	forget := f.s.events.Join()
	f.leave = func() { forget(); f.s.giveStream(f.o.req.Caller.ID) }
	if f.cursor = q.After; !q.Resume {
		f.cursor, err = f.s.events.Newest(ctx)
	}
	return err
}

func (f *follower) close() {
	if f.leave != nil {
		f.leave()
	}
}

func (f *follower) follow(ctx context.Context, q EventQuery) error {
	every := q.Idle
	if every <= 0 {
		every = 15 * time.Second
	}
	f.quiet = time.NewTicker(every)
	defer f.quiet.Stop()
	expired, stop := f.expiry()
	defer stop()
	if err := f.idle(); err != nil {
		return err
	}
	for {
		changed := f.s.events.Changed()
		again := (<-chan time.Time)(nil)
		switch err := f.drain(ctx, every); {
		case errors.Is(err, errDraining):
			return nil
		case err != nil && ctx.Err() == nil && errors.Is(err, keys.ErrStore):
			f.s.log.WarnContext(ctx, "events cannot be read; trying again", "request_id", f.o.req.ID, "err", err)
			again = time.After(retryEvents)
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.s.draining:
			return nil
		case <-expired:
		case <-changed:
		case <-again:
		case <-f.quiet.C:
			if err := f.idle(); err != nil {
				return err
			}
		}
	}
}

// errDraining ends a stream because the gateway does.
var errDraining = errors.New("the gateway is draining")

// drain sends all events that there are.
func (f *follower) drain(ctx context.Context, every time.Duration) error {
	for {
		if err := f.allowed(ctx); err != nil {
			return err
		}
		events, complete, err := f.s.events.Next(ctx, f.cursor)
		switch {
		case err != nil:
			return err
		case !complete:
			if err := f.reset(ctx); err != nil {
				return err
			}
			continue
		case len(events) == 0:
			return nil
		}
		for _, n := range events {
			seen, err := f.sees(n)
			if err != nil {
				return err
			}
			if seen {
				if err := f.send(wire.Event(n)); err != nil {
					return err
				}
				f.quiet.Reset(every)
			}
			f.cursor = n.ID
		}
	}
}

// allowed reports whether the stream may go on.
func (f *follower) allowed(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-f.s.draining:
		return errDraining
	default:
	}
	if at := f.o.req.Caller.ExpiresAt; !at.IsZero() && !f.s.now().Before(at) {
		return keys.Errorf(keys.ErrUnauthenticated, "the credentials have expired; come again with new ones")
	}
	return f.s.blocked(f.o.req.Caller)
}

// reset tells the caller to read the keys anew, and goes on at the end.
func (f *follower) reset(ctx context.Context) error {
	newest, err := f.s.events.Newest(ctx)
	if err != nil {
		return err
	}
	f.cursor = newest
	return f.send(api.Event{ID: newest, Type: api.EventReset, Time: api.At(f.s.now())})
}

// sees reports whether the caller is told of n: by the policy, and by what
// the key is now, or was when it was deleted.
func (f *follower) sees(n keys.Notice) (bool, error) {
	if len(f.names) > 0 && !f.names[n.Key] {
		return false, nil
	}
	res := authz.Resource{Type: authz.TypeKey, Name: n.Key}
	snap, err := f.s.snapshots.Snapshot()
	if err != nil {
		return false, err
	}
	if k, ok := snap.Key(n.Key); ok {
		res = resourceOf(k)
	} else if k, ok := f.s.events.Departed(n.Key); ok {
		res = resourceOf(k)
	}
	return f.o.ask(authz.ActionRead, res, "").Allowed, nil
}

// expiry returns a channel that tells when the credential expires.
func (f *follower) expiry() (<-chan time.Time, func()) {
	at := f.o.req.Caller.ExpiresAt
	if at.IsZero() {
		return nil, func() {}
	}
	t := time.NewTimer(at.Sub(f.s.now()))
	return t.C, func() { t.Stop() }
}

func (s *Service) takeStream(principal string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[principal] >= s.maxStreams {
		return false
	}
	s.streams[principal]++
	return true
}

func (s *Service) giveStream(principal string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[principal]--; s.streams[principal] == 0 {
		delete(s.streams, principal)
	}
}
