package rest

import (
	"sync/atomic"
	"time"
)

// quiet speaks once a second.
type quiet struct {
	last    atomic.Int64 // Unix ns
	skipped atomic.Int64 // since
}

// speak reports whether it is time to, and how often it was not since it was
// last.
func (q *quiet) speak(now time.Time) (skipped int64, speak bool) {
	last := q.last.Load()
	if now.Sub(time.Unix(0, last)) < time.Second || !q.last.CompareAndSwap(last, now.UnixNano()) {
		q.skipped.Add(1)
		return 0, false
	}
	return q.skipped.Swap(0), true
}
