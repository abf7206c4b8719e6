package audit

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit/merkle"
	"keyhole/audit/segment"
)

// batch is what is made durable at once.
type batch struct {
	entries []entry
	records int
	size    int           // bytes of the entries
	done    chan struct{} // closed when it is durable, or failed
	err     error         // set before done is closed
}

// entry is what one Append brought.
type entry struct {
	body  *bodies
	time  time.Time
	first uint64 // seq of its first record, set by the committer

	receipt bool
	leaves  []tlog.Hash // of its records, if receipt; set by the committer
}

// bodies are encoded records without their heads.
type bodies struct {
	b    []byte
	ends []int // of each record in b
}

// Buffers that grew beyond this are not kept.
const maxKept = 1 << 20

var pool = sync.Pool{New: func() any { return new(bodies) }}

func (l *Log) encode(recs []Record) *bodies {
	e := pool.Get().(*bodies)
	for i := range recs {
		e.b = appendBody(e.b, l.node, &recs[i])
		e.ends = append(e.ends, len(e.b))
	}
	return e
}

func (e *bodies) free() {
	if cap(e.b) <= maxKept {
		e.b, e.ends = e.b[:0], e.ends[:0]
		pool.Put(e)
	}
}

// enqueue puts encoded records behind those that wait, and sees to it that a
// committer is at work. i is their place in the batch. Only then are they
// given away; on an error the caller keeps them.
func (l *Log) enqueue(body *bodies, receipt bool) (b *batch, i int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, 0, errClosed
	case l.fault != nil && !l.due():
		l.fault.refused += len(body.ends)
		return nil, 0, fmt.Errorf("%w (%w)", errFault, l.fault.err)
	case l.queue != nil && l.queue.size+len(body.b) > maxQueue:
		return nil, 0, errQueue
	}
	l.checkClock()
	l.push(entry{body: body, time: l.last, receipt: receipt})
	l.start()
	return l.queue, len(l.queue.entries) - 1, nil
}

// push adds to the queue. l.mu is held.
func (l *Log) push(e entry) {
	if l.queue == nil {
		l.queue = &batch{done: make(chan struct{})}
	}
	l.queue.entries = append(l.queue.entries, e)
	l.queue.records += len(e.body.ends)
	l.queue.size += len(e.body.b)
}

// clock returns now without its monotonic reading, which would hide that the
// wall clock has gone back.
func (l *Log) clock() time.Time { return l.now().UTC().Round(0) }

// checkClock moves last on to now, or records that the clock has gone back:
// records never do. l.mu is held.
func (l *Log) checkClock() {
	now := l.clock()
	if !now.Before(l.last) {
		l.last, l.behind = now, false
		return
	}
	if l.behind || l.last.Sub(now) < clockSlack {
		return
	}
	l.behind = true
	l.log.Warn("the clock is behind the last audit record; records keep that one's time until it has caught up",
		"clock", now, "last", l.last)
	l.push(entry{time: l.last, body: l.encode([]Record{{
		Principal: SystemPrincipal, Action: ActionClock, Outcome: OutcomeOK,
		Details: map[string]string{"clock": now.UTC().Format(timeFormat)},
	}})})
}

// start sets a committer to work if there is none. It is a goroutine of its
// own, and not one of the callers, because a write to a disk that hangs
// cannot be called off, and callers must be able to leave. l.mu is held.
func (l *Log) start() {
	if l.running {
		return
	}
	l.running = true
	l.committers.Go(l.commitQueue)
}

// commitQueue commits batch after batch until none waits.
func (l *Log) commitQueue() {
	for {
		// Whoever can run goes first: under load several bring a record and
		// share the fsync. On an idle machine this is no delay.
		runtime.Gosched()
		l.mu.Lock()
		b := l.queue
		l.queue = nil
		probe := l.fault != nil && l.due()
		if b == nil && !probe {
			l.running = false
			l.mu.Unlock()
			return
		}
		f := l.fault
		l.began = time.Now()
		l.mu.Unlock()
		if b == nil {
			b = &batch{done: make(chan struct{})}
		}
		l.commit(b, f, probe)
	}
}

// commit makes a batch durable and tells its callers. f is the fault to get
// over first, if there is one; only a due attempt tries.
func (l *Log) commit(b *batch, f *fault, probe bool) {
	start := time.Now()
	var err error
	switch {
	case f == nil:
	case probe:
		err = l.reopen(f)
	default:
		err = f.err
	}
	if err == nil {
		f = nil
		if b.records > 0 {
			err = l.write(b)
		}
	}
	d := time.Since(start)
	l.settle(b, f, probe, err)
	for i := range b.entries {
		b.entries[i].body.free()
		b.entries[i].body = nil
	}
	if err != nil {
		b.err = fmt.Errorf("%w (%w)", errFault, err)
	}
	close(b.done)
	l.observe(b.records, d, err)
}

// settle notes how a commit ended. f is the fault that is not got over yet;
// probe says that it was tried to.
func (l *Log) settle(b *batch, f *fault, probe bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.began = time.Time{}
	if err == nil {
		l.head = l.tree
		if l.fault != nil {
			l.log.Info("the audit log is written again", "since", l.fault.since, "refused", l.fault.refused)
		}
		l.fault = nil
		return
	}
	if f == nil {
		f, probe = &fault{since: l.clock()}, true
		l.log.Error("the audit log cannot be written; refusing all operations until it can", "file", l.seg.path, "err", err)
	}
	if probe {
		f.err, f.next = err, time.Now().Add(probeEvery)
	}
	f.refused += b.records
	l.fault = f
}

// due reports whether to try again to get over the fault. l.mu is held.
func (l *Log) due() bool { return !time.Now().Before(l.fault.next) }

// write puts a batch at the end of the log: its nodes into the tree's file,
// which a crash may lose, then its lines into the segment, durably by the
// journal.
// When that fails the segment is given up: see the package comment. Only the
// committer calls it.
func (l *Log) write(b *batch) error {
	if err := l.nextSegment(); err != nil {
		l.seg.f.Close()
		return err
	}
	seq, at, before := l.seq, l.wrote, l.tree
	l.buf, l.stored = l.buf[:0], l.stored[:0]
	for i := range b.entries {
		e := &b.entries[i]
		e.first = seq
		at = later(at, e.time) // the record of a repair went in front of some that were older
		from := 0
		for _, end := range e.body.ends {
			line := len(l.buf)
			l.buf = appendHead(l.buf, seq, at)
			l.buf = append(l.buf, e.body.b[from:end]...)
			leaf := merkle.LeafHash(l.buf[line:])
			l.stored = l.tree.Append(l.stored, leaf)
			if e.receipt {
				e.leaves = append(e.leaves, leaf)
			}
			seq++
			from = end
		}
	}
	err := l.nodes.Put(before.Size(), l.stored)
	if err == nil {
		err = l.seg.append(l.buf, l.persist)
	}
	if cap(l.buf) > maxKept {
		l.buf, l.stored = nil, nil
	}
	if err != nil {
		l.tree = before
		l.seg.f.Close() // nothing that it could still say is of use
		return err
	}
	if l.segBegan.IsZero() {
		l.segBegan = at
	}
	l.seq, l.wrote = seq, at
	return nil
}

// nextSegment seals the segment that is written on and begins another one, if
// it is time for that.
func (l *Log) nextSegment() error {
	if l.seg.size < l.maxSize && (l.segBegan.IsZero() || l.clock().Sub(l.segBegan) < l.maxAge) || l.seg.size == 0 {
		return nil
	}
	if err := l.seg.f.Sync(); err != nil {
		return fmt.Errorf("sealing a segment of the audit log: %w", err)
	}
	next, err := createSegment(segment.Path(l.dir, l.seg.number+1))
	if err != nil {
		return fmt.Errorf("beginning a segment of the audit log: %w", err)
	}
	l.journal.Restart()
	// Whoever seals it later finds what was acknowledged; closing cannot undo it.
	_ = l.seg.f.Close()
	l.seg, l.segBegan = next, time.Time{}
	return nil
}

// reopen gets over a fault: it cuts the segment back to what was
// acknowledged, writes the part of it anew that the journal holds, and records
// what happened, which proves that there is room again. Only the committer
// calls it.
func (l *Log) reopen(f *fault) error {
	seg, cut, err := openSegment(l.seg.path, l.seg.size, l.seg.last)
	if err != nil {
		return err
	}
	j, _, err := openJournal(l.dir, l.seg.size)
	if err != nil {
		return errors.Join(err, seg.f.Close())
	}
	_ = l.journal.Close() // what it could still say is of no use
	l.seg, l.journal = seg, j
	l.mu.Lock()
	b := l.recovered(f, repair{cut: cut})
	l.mu.Unlock()
	return l.write(b)
}

// repair is what was done to a log.
type repair struct {
	cut      int64 // bytes of an unfinished line
	restored int64 // bytes that were in the journal only
	rebuilt  bool  // the hashes, from the lines
}

// recovered is the batch that records a repair.
func (l *Log) recovered(f *fault, did repair) *batch {
	l.last = later(l.last, l.clock())
	r := Record{
		Principal: SystemPrincipal, Action: ActionRecover, Outcome: OutcomeOK,
		Details: map[string]string{"bytes_cut": strconv.FormatInt(did.cut, 10)},
	}
	if did.restored > 0 {
		r.Details["bytes_restored"] = strconv.FormatInt(did.restored, 10)
	}
	if did.rebuilt {
		r.Details["hashes"] = "rebuilt"
	}
	if f != nil {
		r.Details["error"] = f.err.Error()
		r.Details["since"] = f.since.Format(timeFormat)
		r.Details["refused"] = strconv.Itoa(f.refused)
	}
	return &batch{entries: []entry{{body: l.encode([]Record{r}), time: l.last}}, records: 1}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
