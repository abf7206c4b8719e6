package client

import (
	"context"
	"crypto"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/client/internal/ring"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// WatchConfig says what a Watch follows. Only Keys is required.
type WatchConfig struct {
	// Keys are the names of the keys that the agent uses.
	Keys []string
	// OnVersion is called for each version that waits for this agent: those
	// that are announced while the Watch runs, and those that were when it
	// began. When it has returned nil the version is acknowledged; an error
	// is logged, and it is called again later. It is called at least once
	// per version, for one version of a key at a time, in order of their
	// numbers. nil: to have the public key is enough.
	OnVersion func(context.Context, AnnouncedVersion) error
	// OnEvent, if set, is called with each event of these keys, after the
	// Watch has taken it in. The next event waits for it.
	OnEvent func(api.Event)
	// Silent follows without a subscription: no rotation waits for this
	// agent, and nothing is acknowledged. For those who only verify.
	Silent bool
	// MaxStale is for how long Verify relies on what is known without a
	// sign of life from the gateway: whoever can cut the agent off must not
	// be able to hide a revocation for ever. Default 10 minutes; negative:
	// without bound.
	MaxStale time.Duration
	// Log is told what goes wrong and is tried again; default none.
	Log *slog.Logger
}

// AnnouncedVersion is a version that an agent is to be ready for.
type AnnouncedVersion struct {
	ID        keys.VersionID
	State     keys.State       // pre-activation before its switch
	Algorithm keys.Algorithm   // "" where no public key is published
	PublicKey crypto.PublicKey // *ecdsa.PublicKey, ed25519.PublicKey or *rsa.PublicKey; nil: a secret key
}

const defaultMaxStale = 10 * time.Minute

// Watch follows the keys that an agent uses, so that nothing fails across a
// rotation. While Run runs it
//
//   - keeps the public key of each published version, and has it before the
//     version is used: Verify needs no call of the gateway;
//   - is subscribed to the keys, and acknowledges each announced version once
//     its public key is kept and OnVersion has returned nil. An
//     acknowledgement that fails is tried again until the gateway has it or
//     says that the version is gone;
//   - hears of a revocation within the moment, by the event stream, and trusts
//     a revoked version never again;
//   - outlives restarts and outages of the gateway: what happened meanwhile is
//     caught up with, from the gateway's present state, not only from its
//     events.
//
// A Watch is safe for concurrent use.
type Watch struct {
	c        *Client
	cfg      WatchConfig
	maxStale time.Duration // 0: without bound
	followed map[string]*followed

	running atomic.Bool   // Run was called
	ready   chan struct{} // closed when every key was read once
	over    chan struct{} // closed when Run has returned

	mu       sync.Mutex
	openedAt time.Time // of the event stream; zero while there is none
	heardAt  time.Time // the last sign of life on it
	unread   int       // keys not read yet
}

// Watch returns a Watch of keys; it does nothing before Run. Errors:
// keys.ErrInvalid.
func (c *Client) Watch(cfg WatchConfig) (*Watch, error) {
	if len(cfg.Keys) == 0 {
		return nil, keys.Errorf(keys.ErrInvalid, "a Watch needs the names of the keys to follow")
	}
	w := &Watch{
		c: c, cfg: cfg, maxStale: cfg.MaxStale, followed: map[string]*followed{},
		ready: make(chan struct{}), over: make(chan struct{}),
	}
	switch {
	case w.maxStale == 0:
		w.maxStale = defaultMaxStale
	case w.maxStale < 0:
		w.maxStale = 0
	}
	if w.cfg.Log == nil {
		w.cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, name := range cfg.Keys {
		if err := keys.CheckName(name); err != nil {
			return nil, err
		}
		if w.followed[name] == nil {
			w.followed[name] = newFollowed(w, name)
		}
	}
	w.unread = len(w.followed)
	return w, nil
}

// Run follows the keys until ctx ends, and returns nil then. It returns an
// error only where the first contact shows that it cannot work: the gateway
// refuses the agent or a key (keys.ErrUnauthenticated, keys.ErrForbidden,
// keys.ErrKeyNotFound), or its certificate does not hold. A gateway that is
// not there is waited for. Run may be called once.
func (w *Watch) Run(ctx context.Context) error {
	if w.running.Swap(true) {
		return keys.Errorf(keys.ErrInvalid, "this Watch has been run already")
	}
	defer close(w.over)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	wg.Go(func() { w.stream(ctx, stop) })
	for _, f := range w.followed {
		wg.Go(func() { f.keepCurrent(ctx, stop) })
		wg.Go(func() { f.acknowledge(ctx) })
	}
	wg.Wait()
	var unusable *unusableError
	if err := context.Cause(ctx); errors.As(err, &unusable) {
		return unusable.err
	}
	return nil
}

// unusableError is what the first contact has shown.
type unusableError struct{ err error }

func (e *unusableError) Error() string { return e.err.Error() }

// Ready is closed when the agent is subscribed to every key and has its
// public keys.
func (w *Watch) Ready() <-chan struct{} { return w.ready }

// maxStreamKeys is how many keys a gateway lets one stream name.
const maxStreamKeys = 100

// stream follows the events of the keys.
func (w *Watch) stream(ctx context.Context, stop context.CancelCauseFunc) {
	s := newStream(w.c, EventOptions{})
	if len(w.followed) <= maxStreamKeys { // else the events of all keys come, and are passed over
		for name := range w.followed {
			s.keys = append(s.keys, name)
		}
	}
	s.opened = w.opened
	s.heard = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.heardAt = time.Now()
	}
	for {
		err := s.follow(ctx, func(ev api.Event) bool { w.take(ev); return ctx.Err() == nil })
		w.mu.Lock()
		w.openedAt = time.Time{}
		w.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		if !passing(err) && !s.begun {
			stop(&unusableError{err})
			return
		}
		w.cfg.Log.WarnContext(ctx, "the event stream ended and will be opened again", "gateway", s.address(), "err", err)
		// What is not passing is waited for too, since it worked before: a token
		// that is being renewed, a policy that will be put right.
		if s.pause(ctx, err) != nil {
			return
		}
	}
}

// opened has every key read again: what happened while there was no stream
// may not come on this one.
func (w *Watch) opened() {
	now := time.Now()
	w.mu.Lock()
	w.openedAt, w.heardAt = now, now
	w.mu.Unlock()
	for _, f := range w.followed {
		f.changed(nil)
	}
}

// take lets an event have its effects.
func (w *Watch) take(ev api.Event) {
	switch f := w.followed[ev.Key]; {
	case ev.Type == api.EventReset:
		for _, f := range w.followed {
			f.resubscribe()
			f.changed(nil)
		}
	case f == nil:
		return
	default:
		f.changed(&ev)
	}
	if w.cfg.OnEvent != nil {
		w.cfg.OnEvent(ev)
	}
}

// read counts a key that was read for the first time.
func (w *Watch) read() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unread--; w.unread == 0 {
		close(w.ready)
	}
}

// Verify judges a signature in software, by the public keys that are kept,
// and answers what Client.Verify would: a signature that does not hold, or
// is by a version that may not be trusted any more, is an answer with Valid
// false and a Reason.
//
// It asks the gateway only for a version that it has never heard of, once
// and bounded, and when it has not heard from the gateway for MaxStale.
// Before Ready it waits, for as long as ctx and the client's Timeout allow.
// Errors: keys.ErrVersionNotFound, keys.ErrVersionState (an archived
// version), keys.ErrWrongPurpose (a secret key; Client.Verify serves those),
// keys.ErrInvalid (the request, or a key that is not followed),
// keys.ErrStale.
func (w *Watch) Verify(ctx context.Context, key string, req api.VerifyRequest) (api.VerifyResponse, error) {
	f := w.followed[key]
	if f == nil {
		return api.VerifyResponse{}, keys.Errorf(keys.ErrInvalid, "key %.50q is not one that this Watch follows", key)
	}
	sig, err := ring.Parse(key, req)
	if err != nil {
		return api.VerifyResponse{}, err
	}
	if err := f.fresh(ctx, sig.ID.Number); err != nil {
		return api.VerifyResponse{}, err
	}
	return f.ring.Verify(sig)
}

// Versions returns the versions of a followed key that are known, newest
// first, and none for other keys.
func (w *Watch) Versions(key string) []AnnouncedVersion {
	f := w.followed[key]
	if f == nil {
		return nil
	}
	var all []AnnouncedVersion
	for _, v := range f.ring.Versions() {
		all = append(all, f.announced(v))
	}
	return all
}
