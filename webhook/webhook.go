package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"keyhole/keys"
	"keyhole/rotation/lease"
	"keyhole/store"
)

// Store keeps the events and how far each webhook has come. Its guarantees
// are those of store.Store.
type Store interface {
	Events(ctx context.Context, after uint64, limit int) ([]keys.Notice, error)
	EventRange(ctx context.Context) (oldest, newest uint64, err error)
	Hook(ctx context.Context, name string) (store.Hook, error)
	PutHook(ctx context.Context, h store.Hook, dead ...store.DeadEvent) error
	DeadEvents(ctx context.Context, hook string, limit int) ([]store.DeadEvent, error)
	ForgetDead(ctx context.Context, hook string, event uint64) error
	lease.Store
}

// Hook is one endpoint.
type Hook struct {
	Name        string
	URL         string            // https; never shown
	Keys        []string          // only events of these; empty: of every key
	Events      []keys.NoticeType // only events of these types; empty: every type
	SigningKey  string            // the Keyhole key that signs
	CAFile      string            // PEM of the CAs to trust; "": the system's
	Timeout     time.Duration     // of one attempt (default 10s)
	GiveUpAfter time.Duration     // see the package comment (default 24h)
}

// String hides the URL.
func (h Hook) String() string { return h.Name }

// Host returns the part of the URL that may be shown.
func (h Hook) Host() string {
	u, err := url.Parse(h.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// What Config.Observe is told of each attempt.
const (
	Delivered = "delivered"
	Failed    = "failed" // it will be tried again
	Dead      = "dead"   // it failed and was given up
)

// Results returns what Observe may be told.
func Results() []string { return []string{Delivered, Failed, Dead} }

// Config is what a Dispatcher needs.
type Config struct {
	Hooks  []Hook
	Store  Store
	Holder string // of leases: the keys.Node.Instance of this process; default: one of its own
	Signer Signer
	// Changed returns a channel that is closed when there may be new events;
	// nil: they are looked for each Poll only.
	Changed func() <-chan struct{}
	Poll    time.Duration // default 5s
	// FirstPause is the pause after a first failure. It doubles with each
	// further one, up to an hour. Default 1s.
	FirstPause time.Duration
	Observe    func(hook, result string) // default: nothing
	Now        func() time.Time          // default time.Now
	Log        *slog.Logger              // default slog.Default()
}

// lastPause is the longest pause between two attempts.
const lastPause = time.Hour

// Dispatcher delivers events. Its methods may be called concurrently.
type Dispatcher struct {
	cfg     Config
	leases  *lease.Keeper
	workers []*worker // in the order of Config.Hooks
}

// New returns a Dispatcher. It reads CA files, and does nothing else by
// itself: see Load and Run. No error of it holds a URL.
func New(c Config) (*Dispatcher, error) {
	if c.Poll <= 0 {
		c.Poll = 5 * time.Second
	}
	if c.FirstPause <= 0 {
		c.FirstPause = time.Second
	}
	if c.Observe == nil {
		c.Observe = func(string, string) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Changed == nil {
		c.Changed = func() <-chan struct{} { return nil }
	}
	d := &Dispatcher{cfg: c, leases: lease.New(lease.Config{Store: c.Store, Holder: c.Holder, Log: c.Log})}
	names := map[string]bool{}
	for _, h := range c.Hooks {
		if names[h.Name] {
			return nil, keys.Errorf(keys.ErrInvalid, "two webhooks are called %q", h.Name)
		}
		names[h.Name] = true
		if err := keys.CheckNewName(h.SigningKey); err != nil {
			return nil, fmt.Errorf("webhook %q: the signing key: %w", h.Name, err)
		}
		w, err := newWorker(&d.cfg, d.leases, h)
		if err != nil {
			return nil, fmt.Errorf("webhook %q: %w", h.Name, err)
		}
		d.workers = append(d.workers, w)
	}
	return d, nil
}

// Load reads where each webhook stands. One that is new stands at the newest
// event. Call it once, before anything can happen that a webhook is to tell.
func (d *Dispatcher) Load(ctx context.Context) error {
	for _, w := range d.workers {
		if err := w.load(ctx); err != nil {
			return fmt.Errorf("reading where webhook %q stands: %w", w.hook.Name, err)
		}
	}
	return nil
}

// Run delivers until ctx ends, what no other gateway is delivering. An attempt
// under way is given up then, and made again by the next Run.
func (d *Dispatcher) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, w := range d.workers {
		wg.Go(func() { w.run(ctx) })
	}
	wg.Wait()
	return nil
}
