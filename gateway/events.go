package gateway

import (
	"context"
	"time"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/tail"
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
	name := ""
	if len(q.Keys) == 1 {
		name = q.Keys[0]
	}
	f := &follower{o: s.open(req, authz.ActionRead, name, 0), names: map[string]bool{}}
	defer f.close()
	cursor, err := guarded(ctx, f.o, func(ctx context.Context, _ *op) (uint64, error) { return f.begin(ctx, q) })
	if err != nil {
		return err
	}
	following := tail.Follower{
		Cursor: cursor, Idle: q.Idle, Draining: s.draining, Log: s.log.With("request_id", req.ID),
		Allowed: f.allowed, Sees: f.sees, Quiet: idle,
		Send: func(n keys.Notice) error { return send(wire.Event(n)) },
		Reset: func(newest uint64) error {
			return send(api.Event{ID: newest, Type: api.EventReset, Time: api.At(s.now())})
		},
	}
	if following.Idle <= 0 {
		following.Idle = 15 * time.Second
	}
	if at := req.Caller.ExpiresAt; !at.IsZero() {
		following.Expires = max(at.Sub(s.now()), 1)
	}
	return s.events.Follow(ctx, following)
}

// follower is one stream under way.
type follower struct {
	o     *op
	names map[string]bool // of the keys asked for; empty: all
	leave func()
}

// begin authorises the stream and finds its place.
func (f *follower) begin(ctx context.Context, q EventQuery) (cursor uint64, err error) {
	s := f.o.s
	f.o.detail("act", "events")
	snap, err := s.snapshots.Snapshot()
	if err != nil {
		return 0, err
	}
	for _, name := range q.Keys {
		k, ok := snap.Key(name)
		switch {
		case ok && k.Damaged:
			return 0, f.o.damaged(k)
		case !ok || !visible(k):
			return 0, notFound(name)
		}
		if err := f.o.decide(resourceOf(k), ""); err != nil {
			return 0, err
		}
		f.names[name] = true
	}
	if !s.takeStream(f.o.req.Caller.ID) {
		return 0, keys.Errorf(keys.ErrRateLimited, "this caller has %d event streams, which is the limit; follow several keys by one", s.maxStreams)
	}
	forget := s.events.Join()
	f.leave = func() { forget(); s.giveStream(f.o.req.Caller.ID) }
	if q.Resume {
		return q.After, nil
	}
	return s.events.Newest(ctx)
}

func (f *follower) close() {
	if f.leave != nil {
		f.leave()
	}
}

// allowed reports whether the stream may go on.
func (f *follower) allowed() error {
	if at := f.o.req.Caller.ExpiresAt; !at.IsZero() && !f.o.s.now().Before(at) {
		return keys.Errorf(keys.ErrUnauthenticated, "the credentials have expired; come again with new ones")
	}
	return f.o.s.blocked(f.o.req.Caller)
}

// sees reports whether the caller is told of n: by the policy, and by what
// the key is now, or was when it was deleted.
func (f *follower) sees(n keys.Notice) (bool, error) {
	if len(f.names) > 0 && !f.names[n.Key] {
		return false, nil
	}
	snap, err := f.o.s.snapshots.Snapshot()
	if err != nil {
		return false, err
	}
	res := authz.Resource{Type: authz.TypeKey, Name: n.Key}
	if k, ok := snap.Key(n.Key); ok {
		res = resourceOf(k)
	} else if k, ok := f.o.s.events.Departed(n.Key); ok {
		res = resourceOf(k)
	}
	return f.o.ask(authz.ActionRead, res, "").Allowed, nil
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
