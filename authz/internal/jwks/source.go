package jwks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Config tells where the keys of one issuer are. One of URL and File is set.
type Config struct {
	Issuer      string // its name, for the log
	URL         string
	File        string
	Algorithms  []string
	Client      *http.Client  // for URL
	Timeout     time.Duration // of one fetch
	Interval    time.Duration // between two fetches by Run
	MinInterval time.Duration // between two fetches for unknown key ids
	Log         *slog.Logger
	Now         func() time.Time
}

// Source keeps the newest key set of one issuer. It is safe for concurrent
// use.
type Source struct {
	c       Config
	current atomic.Pointer[Set]
	waiting atomic.Int64 // callers with unknown key ids

	mu      sync.Mutex // guards the following
	flight  *flight    // the fetch under way, nil if there is none
	started time.Time  // when the last fetch began
}

// maxWaiting is how many callers with unknown key ids wait for a fetch. Each
// holds a place of the gateway's, and needs no credentials for that.
const maxWaiting = 32

type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

// NewSource returns a source that has no keys yet.
func NewSource(c Config) *Source { return &Source{c: c} }

// Current returns the newest set; nil before the first.
func (s *Source) Current() *Set { return s.current.Load() }

// Remote reports whether the keys are fetched, not read from a file.
func (s *Source) Remote() bool { return s.c.URL != "" }

// Load reads or fetches the set. On an error, which is logged if it was to be
// fetched, the set stays as it was. Calls
// at the same time share one fetch, which goes on, for at most the
// configured timeout, when ctx ends before it.
func (s *Source) Load(ctx context.Context) error {
	return s.load(ctx, 0)
}

// LoadForUnknown is Load for a token that names an unknown key: it does
// nothing if the last fetch began less than MinInterval ago, if maxWaiting
// callers wait already, or if the keys are in a file.
func (s *Source) LoadForUnknown(ctx context.Context) error {
	if !s.Remote() {
		return nil
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > maxWaiting {
		return nil
	}
	return s.load(ctx, s.c.MinInterval)
}

func (s *Source) load(ctx context.Context, minInterval time.Duration) error {
	s.mu.Lock()
	f := s.flight
	if f == nil {
		now := s.c.Now()
		if minInterval > 0 && !s.started.IsZero() && now.Sub(s.started) < minInterval {
			s.mu.Unlock()
			return nil
		}
		f = &flight{done: make(chan struct{})}
		s.flight, s.started = f, now
		go s.fly(context.WithoutCancel(ctx), f)
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fly is one fetch. It ends within the timeout.
func (s *Source) fly(ctx context.Context, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, s.c.Timeout)
	defer cancel()
	f.err = errors.New("reading keys ended unexpectedly")
	defer func() {
		s.mu.Lock()
		s.flight = nil
		s.mu.Unlock()
		close(f.done)
	}()
	f.err = s.read(ctx)
	if f.err != nil && s.Remote() {
		s.c.Log.ErrorContext(ctx, "cannot fetch the keys of a token issuer; those known stay in use", "issuer", s.c.Issuer,
			"known", s.Current() != nil, "err", f.err)
	}
}

func (s *Source) read(ctx context.Context) error {
	data, err := s.fetch(ctx)
	if err != nil {
		return fmt.Errorf("reading the keys of issuer %q: %w", s.c.Issuer, err)
	}
	set, warnings, err := Parse(data, s.c.Algorithms)
	if err != nil {
		return fmt.Errorf("reading the keys of issuer %q: %w", s.c.Issuer, err)
	}
	if old := s.current.Load(); old != nil && old.sum == set.sum {
		return nil // keep what was verified under the old one
	}
	for _, w := range warnings {
		s.c.Log.WarnContext(ctx, "a key of a token issuer is not used", "issuer", s.c.Issuer, "why", w)
	}
	if set.Len() == 0 {
		s.c.Log.ErrorContext(ctx, "a token issuer has no usable keys: its tokens are refused", "issuer", s.c.Issuer)
	}
	s.current.Store(set)
	s.c.Log.InfoContext(ctx, "read the keys of a token issuer", "issuer", s.c.Issuer, "keys", set.Len())
	return nil
}

func (s *Source) fetch(ctx context.Context) ([]byte, error) {
	if !s.Remote() {
		f, err := os.Open(s.c.File)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readBounded(f)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.c.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := s.c.Client.Do(req)
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return nil, fmt.Errorf("fetching %s: %w", Shown(s.c.URL), ue.Err) // its URL has the query
	}
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d %s", Shown(s.c.URL), res.StatusCode, http.StatusText(res.StatusCode))
	}
	return readBounded(res.Body)
}

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err == nil && len(data) > MaxBytes {
		err = fmt.Errorf("the key set has more than %d bytes", MaxBytes)
	}
	return data, err
}

// Run fetches the keys again and again until ctx ends: at the configured
// interval, and after a failure with pauses that grow from a second.
func (s *Source) Run(ctx context.Context) {
	if !s.Remote() {
		return
	}
	pause := time.Second
	wait := s.c.Interval
	if s.Current() == nil {
		wait = pause
	}
	for {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		err := s.Load(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = min(pause, s.c.Interval)
			pause = min(2*pause, time.Minute)
		default:
			pause, wait = time.Second, s.c.Interval
		}
	}
}
