// Package workers runs blocking calls that cannot be cancelled, a bounded
// number at a time, for callers who can leave.
//
// Each worker is a goroutine that owns one resource (here: a PKCS#11
// session). Jobs go to the worker that became idle last, so that a quiet pool
// keeps using few resources; a new worker starts only when none is idle, and
// when all are busy jobs wait in one bounded queue, from which a worker that
// is done takes the next without going to sleep. A caller whose context ends
// leaves; the worker stays with the call until it returns.
package workers

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of Do. ErrBusy means that the job was never run.
var (
	ErrBusy   = errors.New("all workers are busy")
	ErrLeft   = errors.New("the caller left while its job was running")
	ErrClosed = errors.New("the pool is closed")
)

// Config is what a Pool needs; every field is required.
type Config[R any] struct {
	Workers int           // at most so many at a time
	Queue   int           // jobs that may wait
	Wait    time.Duration // how long one may wait
	Release func(*R)      // called by each worker at its end
}

// Pool runs jobs on workers that own an R each.
type Pool[R any] struct {
	cfg  Config[R]
	jobs sync.Pool

	mu     sync.Mutex
	closed bool
	all    []*worker[R]
	idle   []*worker[R] // the last one became idle last
	queue  []*job[R]    // a ring: length entries from head on
	head   int
	length int
	ended  sync.WaitGroup
}

type worker[R any] struct {
	resource R
	next     chan *job[R] // capacity 1; nil job: end
	since    atomic.Int64 // Unix ns of the running job's start; 0: none
}

// States of a job. Whoever moves it out of waiting decides whether it runs.
const (
	waiting int32 = iota
	running
	abandoned
)

type job[R any] struct {
	run   func(*R) ([]byte, error)
	state atomic.Int32
	out   []byte
	err   error
	done  chan struct{} // capacity 1
	timer *time.Timer
}

// New returns a Pool without workers.
func New[R any](cfg Config[R]) *Pool[R] {
	return &Pool[R]{cfg: cfg, queue: make([]*job[R], cfg.Queue)}
}

// Do runs f on a worker and returns what f returns. It returns ErrBusy when
// the queue is full, or when no worker came free within the configured wait
// or before ctx ended; ErrLeft when ctx ended while f was running: f then
// still runs, so it must not use memory that the caller may change.
func (p *Pool[R]) Do(ctx context.Context, f func(*R) ([]byte, error)) ([]byte, error) {
	j := p.newJob(f)
	queued, err := p.submit(j)
	if err != nil {
		return nil, err
	}
	var waited <-chan time.Time
	if queued {
		if j.timer == nil {
			j.timer = time.NewTimer(p.cfg.Wait)
		} else {
			j.timer.Reset(p.cfg.Wait)
		}
		waited = j.timer.C
	}
	for {
		select {
		case <-j.done:
			out, err := j.out, j.err
			p.recycle(j)
			return out, err
		case <-waited:
			if j.state.CompareAndSwap(waiting, abandoned) {
				return nil, ErrBusy
			}
			waited = nil // it runs: now only the caller's deadline counts
		case <-ctx.Done():
			if j.state.CompareAndSwap(waiting, abandoned) {
				return nil, ErrBusy
			}
			return nil, ErrLeft
		}
	}
}

func (p *Pool[R]) newJob(f func(*R) ([]byte, error)) *job[R] {
	j, _ := p.jobs.Get().(*job[R])
	if j == nil {
		j = &job[R]{done: make(chan struct{}, 1)}
	}
	j.run = f
	return j
}

// recycle takes back a job that no worker holds any more.
func (p *Pool[R]) recycle(j *job[R]) {
	if j.timer != nil {
		j.timer.Stop()
	}
	j.run, j.out, j.err = nil, nil, nil
	j.state.Store(waiting)
	p.jobs.Put(j)
}

// submit gives j to a worker, or puts it into the queue.
func (p *Pool[R]) submit(j *job[R]) (queued bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch n := len(p.idle); {
	case p.closed:
		return false, ErrClosed
	case n > 0:
		w := p.idle[n-1]
		p.idle = p.idle[:n-1]
		w.next <- j
		return false, nil
	case len(p.all) < p.cfg.Workers:
		w := &worker[R]{next: make(chan *job[R], 1)}
		w.next <- j
		p.all = append(p.all, w)
		p.ended.Go(func() { p.work(w) })
		return false, nil
	case p.length == len(p.queue):
		return false, ErrBusy
	}
	p.queue[(p.head+p.length)%len(p.queue)] = j
	p.length++
	return true, nil
}

func (p *Pool[R]) work(w *worker[R]) {
	defer p.cfg.Release(&w.resource)
	j := <-w.next
	for j != nil {
		if j.state.CompareAndSwap(waiting, running) {
			w.since.Store(time.Now().UnixNano())
			j.out, j.err = j.run(&w.resource)
			w.since.Store(0)
			j.done <- struct{}{}
		}
		if j = p.take(w); j == nil {
			j = <-w.next
		}
	}
}

// take returns the next queued job, or nil after having made w idle.
func (p *Pool[R]) take(w *worker[R]) *job[R] {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.length > 0 {
		j := p.queue[p.head]
		p.queue[p.head] = nil
		p.head = (p.head + 1) % len(p.queue)
		p.length--
		return j
	}
	if p.closed {
		w.next <- nil
	} else {
		p.idle = append(p.idle, w)
	}
	return nil
}

// EachIdle runs f on the workers that are idle now, and returns when all have
// run it or ctx has ended.
func (p *Pool[R]) EachIdle(ctx context.Context, f func(*R)) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	took := make([]*job[R], len(p.idle))
	for i, w := range p.idle {
		took[i] = &job[R]{done: make(chan struct{}, 1), run: func(r *R) ([]byte, error) { f(r); return nil, nil }}
		w.next <- took[i]
	}
	p.idle = p.idle[:0]
	p.mu.Unlock()
	for _, j := range took {
		select {
		case <-j.done:
		case <-ctx.Done():
			return
		}
	}
}

// Load says how many workers run a job, and how many of those since longer
// than stuck.
func (p *Pool[R]) Load(now time.Time, stuck time.Duration) (busy, over int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.all {
		if since := w.since.Load(); since != 0 {
			busy++
			if now.Sub(time.Unix(0, since)) > stuck {
				over++
			}
		}
	}
	return busy, over
}

// Close takes no more jobs, and waits until the workers have done what was
// queued and ended, or ctx ends.
func (p *Pool[R]) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		for _, w := range p.idle {
			w.next <- nil
		}
		p.idle = nil
	}
	p.mu.Unlock()
	ended := make(chan struct{})
	go func() { p.ended.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
