package rotation

import "time"

// SetElapsed replaces the monotonic clock that the wall clock is held
// against.
func (e *Engine) SetElapsed(f func(now time.Time) time.Duration) { e.ends.clock.elapsed = f }
