// Package workers runs blocking calls that cannot be cancelled, a bounded
// number at a time, for callers who can leave.
//
// Each worker is a goroutine that owns one resource (here: a PKCS#11
// session). Jobs go to the worker that became idle last, so that a quiet pool
// keeps using few resources; a new worker starts only when none is idle, and
// when all are busy jobs wait in one bounded queue, from which a worker that
// is done takes the next without going to sleep. A caller whose context ends
// leaves; the worker stays with the call until it returns.
//
// Where calls are so short that a job would have its turn sooner than another
// thread wakes up (a token in software), it waits in the queue behind the
// workers that are busy, too. Should it still wait after a while, because a
// call takes long for once, it gets another worker all the same.
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

const (
	wakeup   = 200 * time.Microsecond // what it takes to get another worker going on a busy machine
	patience = time.Millisecond       // with a worker that was thought to be done soon
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
	usual  time.Duration // how long jobs run
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
	return &Pool[R]{cfg: cfg, queue: make([]*job[R], cfg.Queue), usual: wakeup}
}

// Do runs f on a worker and returns what f returns. It returns ErrBusy when
// the queue is full, or when no worker came free within the configured wait
// or before ctx ended; ErrLeft when ctx ended while f was running: f then
// still runs, so it must not use memory that the caller may change.
func (p *Pool[R]) Do(ctx context.Context, f func(*R) ([]byte, error)) ([]byte, error) {
	j := p.newJob(f)
	wait, err := p.submit(j)
	if err != nil {
		return nil, err
	}
	var waited <-chan time.Time
	if wait > 0 {
		if j.timer == nil {
			j.timer = time.NewTimer(wait)
		} else {
			j.timer.Reset(wait)
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
			if rest := p.cfg.Wait - wait; rest > 0 {
				p.relieve()
				wait = p.cfg.Wait
				j.timer.Reset(rest)
				continue
			}
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

// submit gives j to a worker, or puts it into the queue. wait is then how
// long it may stay there before something must happen, else 0.
func (p *Pool[R]) submit(j *job[R]) (wait time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, ErrClosed
	}
	spare := p.spare()
	full := p.length == len(p.queue)
	if spare && (full || p.length >= p.soon()) {
		p.engage(j)
		return 0, nil
	}
	if full {
		return 0, ErrBusy
	}
	p.queue[(p.head+p.length)%len(p.queue)] = j
	p.length++
	if spare {
		return min(patience, p.cfg.Wait), nil
	}
	return p.cfg.Wait, nil
}

// spare reports whether there is a worker that is not busy, or could be.
// p.mu is held, here and below.
func (p *Pool[R]) spare() bool { return len(p.idle) > 0 || len(p.all) < p.cfg.Workers }

// soon is how many jobs the busy workers get done while another one would
// wake up.
func (p *Pool[R]) soon() int {
	busy := len(p.all) - len(p.idle)
	return busy * int(wakeup/(p.usual+1))
}

// engage gives j to a spare worker.
func (p *Pool[R]) engage(j *job[R]) {
	if n := len(p.idle); n > 0 {
		w := p.idle[n-1]
		p.idle = p.idle[:n-1]
		w.next <- j
		return
	}
	w := &worker[R]{next: make(chan *job[R], 1)}
	w.next <- j
	p.all = append(p.all, w)
	p.ended.Go(func() { p.work(w) })
}

// relieve gives the first job in the queue to a spare worker.
func (p *Pool[R]) relieve() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.length > 0 && !p.closed && p.spare() {
		p.engage(p.pop())
	}
}

func (p *Pool[R]) pop() *job[R] {
	j := p.queue[p.head]
	p.queue[p.head] = nil
	p.head = (p.head + 1) % len(p.queue)
	p.length--
	return j
}

func (p *Pool[R]) work(w *worker[R]) {
	defer p.cfg.Release(&w.resource)
	j := <-w.next
	for j != nil {
		var took time.Duration
		if j.state.CompareAndSwap(waiting, running) {
			start := time.Now()
			w.since.Store(start.UnixNano())
			j.out, j.err = j.run(&w.resource)
			w.since.Store(0)
			took = time.Since(start)
			j.done <- struct{}{}
		}
		if j = p.take(w, took); j == nil {
			j = <-w.next
		}
	}
}

// take returns the next queued job, or nil after having made w idle. took is
// how long w's last job ran; 0: it did not.
func (p *Pool[R]) take(w *worker[R], took time.Duration) *job[R] {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case took == 0:
	case took < p.usual:
		p.usual += (took - p.usual) / 4
	default: // slower: on a busy machine jobs seem to take longer than they do
		p.usual += (took - p.usual) / 64
	}
	if p.length > 0 {
		return p.pop()
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
