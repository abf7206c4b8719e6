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
//
// The queue has two lanes. While both wait, four normal jobs are taken for
// each bulk one. A job that would wait for longer than it may is refused at
// once: from how long jobs take, how many wait and how many workers there are
// follows when it would have its turn.
package workers

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/keys"
)

// Errors of Do. ErrBusy means that the job was never run; it comes as a *Busy.
var (
	ErrBusy   = errors.New("all workers are busy")
	ErrLeft   = errors.New("the caller left while its job was running")
	ErrClosed = errors.New("the pool is closed")
)

// Busy is ErrBusy with how long it will be until what waits now is done.
type Busy struct{ For time.Duration }

func (b *Busy) Error() string { return ErrBusy.Error() }

// Unwrap returns ErrBusy.
func (b *Busy) Unwrap() error { return ErrBusy }

const (
	wakeup   = 200 * time.Microsecond // what it takes to get another worker going on a busy machine
	patience = time.Millisecond       // with a worker that was thought to be done soon
)

// Config is what a Pool needs; every field but Without is required.
type Config[R any] struct {
	Workers int // at most so many at a time
	Queue   int // jobs that may wait in each lane
	// Wait is how long a job may wait, and Expected how long a normal job may
	// be expected to wait, beyond one job for each worker.
	Wait     time.Duration
	Expected time.Duration
	Release  func(*R) // called by each worker at its end
	// Without reports that a job ended so because its worker could not have
	// its resource. Such a worker is the last to get another job. Nil: none is.
	Without func(error) bool
}

// Pool runs jobs on workers that own an R each.
type Pool[R any] struct {
	cfg  Config[R]
	jobs sync.Pool

	mu     sync.Mutex
	closed bool
	all    []*worker[R]
	idle   []*worker[R] // the last one became idle last
	queue  queue[R]
	pace   pace
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

	queued bool // guarded by the pool's mu
}

// New returns a Pool without workers.
func New[R any](cfg Config[R]) *Pool[R] {
	return &Pool[R]{cfg: cfg, queue: newQueue[R](cfg.Queue), pace: pace{usual: wakeup}}
}

// Do runs f on a worker and returns what f returns. It returns a *Busy at once
// when the lane is full, or when the job would not have its turn within the
// configured wait and before ctx's deadline; and later when that turns out to
// be so. It returns ErrLeft when ctx ended while f was running: f then still
// runs, so it must not use memory that the caller may change.
func (p *Pool[R]) Do(ctx context.Context, lane keys.Lane, f func(*R) ([]byte, error)) ([]byte, error) {
	j := p.newJob(f)
	wait, err := p.submit(ctx, lane, j)
	if err != nil {
		p.recycle(j)
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
			if err := p.leave(lane, j); err != nil {
				return nil, err
			}
			waited = nil // it runs: now only the caller's deadline counts
		case <-ctx.Done():
			if err := p.leave(lane, j); err != nil {
				return nil, err
			}
			return nil, ErrLeft
		}
	}
}

// leave takes j away from the workers. It returns nil if one runs it.
func (p *Pool[R]) leave(lane keys.Lane, j *job[R]) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.queue.lanes[lane].leave(j) {
		return nil
	}
	return &Busy{For: p.expected(time.Now(), lane)}
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
func (p *Pool[R]) submit(ctx context.Context, lane keys.Lane, j *job[R]) (wait time.Duration, err error) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, ErrClosed
	}
	if p.spare() {
		if p.queue.length() >= p.soon() || !p.queue.put(lane, j) {
			p.engage(now, j)
			return 0, nil
		}
		return min(patience, p.cfg.Wait), nil
	}
	if expected := p.expected(now, lane); expected > p.bound(ctx, now, lane) || !p.queue.put(lane, j) {
		return 0, &Busy{For: expected}
	}
	return p.cfg.Wait, nil
}

// expected is how long a job in a lane will wait. p.mu is held, here and
// below.
func (p *Pool[R]) expected(now time.Time, lane keys.Lane) time.Duration {
	return p.pace.wait(now, p.queue.ahead(lane), len(p.all)-len(p.idle))
}

// bound is how long a job in a lane may be expected to wait. One job for each
// worker may wait for long: else a slow token would do no more than one for
// each of its callers at a time.
func (p *Pool[R]) bound(ctx context.Context, now time.Time, lane keys.Lane) time.Duration {
	bound := p.cfg.Wait
	if lane == keys.LaneNormal && p.queue.ahead(lane) >= p.cfg.Workers {
		bound = min(bound, p.cfg.Expected)
	}
	if deadline, ok := ctx.Deadline(); ok {
		bound = min(bound, deadline.Sub(now)-p.pace.mean)
	}
	return bound
}

// spare reports whether there is a worker that is not busy, or could be.
func (p *Pool[R]) spare() bool { return len(p.idle) > 0 || len(p.all) < p.cfg.Workers }

// soon is how many jobs the busy workers get done while another one would
// wake up.
func (p *Pool[R]) soon() int {
	busy := len(p.all) - len(p.idle)
	return busy * int(wakeup/(p.pace.usual+1))
}

// engage gives j to a spare worker.
func (p *Pool[R]) engage(now time.Time, j *job[R]) {
	p.pace.moved = now
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
	if p.closed || !p.spare() {
		return
	}
	if j := p.queue.take(); j != nil {
		p.engage(time.Now(), j)
	}
}

func (p *Pool[R]) work(w *worker[R]) {
	defer p.cfg.Release(&w.resource)
	j := <-w.next
	for j != nil {
		var took time.Duration
		var end time.Time
		without := false
		if j.state.CompareAndSwap(waiting, running) {
			start := time.Now()
			w.since.Store(start.UnixNano())
			j.out, j.err = j.run(&w.resource)
			without = p.cfg.Without != nil && p.cfg.Without(j.err)
			w.since.Store(0)
			end = time.Now()
			took = end.Sub(start)
			j.done <- struct{}{}
		}
		if j = p.take(w, end, took, without); j == nil {
			j = <-w.next
		}
	}
}

// take returns the next queued job, or nil after having made w idle. end is
// when w's last job ended, having run for took; zero: it did not. without: see
// Config.
func (p *Pool[R]) take(w *worker[R], end time.Time, took time.Duration, without bool) *job[R] {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !end.IsZero() {
		p.pace.note(end, took)
	}
	if without && len(p.idle) < len(p.all)-1 && !p.closed { // others are busy, and will look at the queue
		p.idle = slices.Insert(p.idle, 0, w)
		return nil
	}
	if j := p.queue.take(); j != nil {
		return j
	}
	switch {
	case p.closed:
		w.next <- nil
	case without:
		p.idle = slices.Insert(p.idle, 0, w)
	default:
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

// Queued is how many jobs wait in each lane.
func (p *Pool[R]) Queued() (normal, bulk int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queue.lanes[keys.LaneNormal].alive(), p.queue.lanes[keys.LaneBulk].alive()
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
