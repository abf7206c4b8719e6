package workers

import (
	"time"

	"keyhole/keys"
)

// share is how many jobs are taken while both lanes wait, one of them from
// LaneBulk.
const share = 5

// queue is the jobs that wait, in two lanes, each of them first in, first
// out.
type queue[R any] struct {
	lanes  [keys.LaneBulk + 1]ring[R]
	streak int // normal jobs taken since a bulk one was, or waited
}

func newQueue[R any](size int) queue[R] {
	var q queue[R]
	for l := range q.lanes {
		q.lanes[l].jobs = make([]*job[R], size)
	}
	return q
}

// put reports whether there was room for j.
func (q *queue[R]) put(l keys.Lane, j *job[R]) bool { return q.lanes[l].put(j) }

// length is how many jobs wait, those included whose callers have left.
func (q *queue[R]) length() int {
	return q.lanes[keys.LaneNormal].length + q.lanes[keys.LaneBulk].length
}

// take returns whose turn it is; nil: nobody's.
func (q *queue[R]) take() *job[R] {
	normal, bulk := &q.lanes[keys.LaneNormal], &q.lanes[keys.LaneBulk]
	switch {
	case bulk.length == 0:
		q.streak = 0
		return normal.take()
	case normal.length == 0 || q.streak >= share-1:
		q.streak = 0
		return bulk.take()
	}
	q.streak++
	return normal.take()
}

// ahead is how many jobs are taken before one that is put into l now.
func (q *queue[R]) ahead(l keys.Lane) int {
	normal, bulk := q.lanes[keys.LaneNormal].alive(), q.lanes[keys.LaneBulk].alive()
	switch {
	case l == keys.LaneNormal:
		return normal + min(bulk, normal/(share-1))
	case normal == 0:
		return bulk
	}
	return bulk*share + share - 1 // more normal ones will come
}

// ring is one lane.
type ring[R any] struct {
	jobs   []*job[R] // length entries from head on
	head   int
	length int
	left   int // of them, those whose callers have left
}

func (r *ring[R]) alive() int { return r.length - r.left }

func (r *ring[R]) put(j *job[R]) bool {
	if r.length == len(r.jobs) && r.left > 0 {
		r.sweep()
	}
	if r.length == len(r.jobs) {
		return false
	}
	r.jobs[(r.head+r.length)%len(r.jobs)] = j
	r.length++
	j.queued = true
	return true
}

func (r *ring[R]) take() *job[R] {
	if r.length == 0 {
		return nil
	}
	j := r.jobs[r.head]
	r.jobs[r.head] = nil
	r.head = (r.head + 1) % len(r.jobs)
	r.length--
	j.queued = false
	if j.state.Load() == abandoned {
		r.left--
	}
	return j
}

// leave reports whether j's caller may leave: it does not run yet, and will
// not.
func (r *ring[R]) leave(j *job[R]) bool {
	if !j.state.CompareAndSwap(waiting, abandoned) {
		return false
	}
	if j.queued {
		r.left++
	}
	return true
}

// sweep removes the jobs whose callers have left.
func (r *ring[R]) sweep() {
	kept := 0
	for i := range r.length {
		at := (r.head + i) % len(r.jobs)
		j := r.jobs[at]
		r.jobs[at] = nil
		if j.state.Load() == abandoned {
			j.queued = false
			continue
		}
		r.jobs[(r.head+kept)%len(r.jobs)] = j
		kept++
	}
	r.length, r.left = kept, 0
}

// pace is how fast jobs are done.
type pace struct {
	usual time.Duration // that a job takes: soon after one was quicker, late after one was slower
	mean  time.Duration // that jobs take
	moved time.Time     // when a job began or ended last
}

// note takes up that a job has ended, after having run for took.
func (p *pace) note(now time.Time, took time.Duration) {
	p.moved = now
	if took < p.usual {
		p.usual += (took - p.usual) / 4
	} else { // on a busy machine jobs seem to take longer than they do
		p.usual += (took - p.usual) / 64
	}
	p.mean += (took - p.mean) / 16
}

// wait is how long a job will wait behind so many others, with so many workers
// busy. Half of the time for which nothing has moved is added: a standstill of
// a moment refuses nobody, a long one everybody.
func (p *pace) wait(now time.Time, ahead, busy int) time.Duration {
	wait := time.Duration(ahead+1) * p.mean / time.Duration(max(1, busy))
	if still := now.Sub(p.moved) - p.mean; still > 0 {
		wait += still / 2
	}
	return wait
}
