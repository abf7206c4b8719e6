package rotation

import (
	"strings"
	"sync"
	"time"

	"github.com/adhocore/gronx"

	"keyhole/keys"
)

// maxSchedule bounds the length of a cron expression.
const maxSchedule = 100

// scheduleSample is how many ticks of a schedule are looked at for the time
// between two of them. The shortest one of a schedule shows early: hours and
// minutes come each day.
const scheduleSample = 100

// CheckPolicy refuses a policy that cannot work, its schedule included. The
// error is keys.ErrInvalid.
func (e *Engine) CheckPolicy(p keys.Policy) error { return CheckPolicy(p, e.limits) }

// CheckPolicy is Engine.CheckPolicy with limits of one's own.
func CheckPolicy(p keys.Policy, l keys.Limits) error {
	if err := p.Check(l); err != nil {
		return err
	}
	if p.Announce > maxAhead { // no rotation could be planned by it
		return keys.Errorf(keys.ErrInvalid, "policy.announce is %s; the most is %s", p.Announce, maxAhead)
	}
	if p.Schedule == "" {
		return nil
	}
	return checkSchedule(p, l)
}

// checkSchedule reads p.Schedule: five fields, UTC, that fire, and leave
// enough time between two rotations.
func checkSchedule(p keys.Policy, l keys.Limits) error {
	if len(p.Schedule) > maxSchedule {
		return keys.Errorf(keys.ErrInvalid, "policy.schedule has %d bytes; %d at most", len(p.Schedule), maxSchedule)
	}
	fields := strings.Fields(p.Schedule)
	if n := len(fields); n != 5 {
		return keys.Errorf(keys.ErrInvalid, "policy.schedule has %d fields; it is a cron expression of five (minute hour day month weekday, in UTC), such as \"0 3 * * 1\"", n)
	}
	if !readable(fields) {
		return keys.Errorf(keys.ErrInvalid, "policy.schedule is no cron expression; it has five fields (minute hour day month weekday, in UTC), such as \"0 3 * * 1\"")
	}
	at := nextTick(p.Schedule, sampleStart)
	if at.IsZero() {
		return keys.Errorf(keys.ErrInvalid, "policy.schedule never fires: there is no such day")
	}
	shortest := maxGap
	for range scheduleSample {
		next := nextTick(p.Schedule, at)
		if next.IsZero() {
			break
		}
		shortest, at = min(shortest, next.Sub(at)), next
	}
	lead := p.Announce
	if p.Acks.Waits() {
		lead += p.Acks.Timeout
	}
	switch {
	case shortest < l.MinPeriod:
		return keys.Errorf(keys.ErrInvalid, "policy.schedule fires again after %s; the least is %s", shortest, l.MinPeriod)
	case shortest <= lead:
		return keys.Errorf(keys.ErrInvalid, "policy.schedule fires again after %s, and announcing (%s) and waiting for acknowledgements may take as long (%s); leave more time",
			shortest, p.Announce, lead)
	}
	return nil
}

// readable reports whether gronx can read every part of every field. It is
// asked for each part by itself: of a list it reads no further than the first
// part that is true at the moment.
func readable(fields []string) bool {
	for i, field := range fields {
		for part := range strings.SplitSeq(field, ",") {
			one := []string{"*", "*", "*", "*", "*"}
			one[i] = part
			if !gronx.IsValid(strings.Join(one, " ")) {
				return false
			}
		}
	}
	return gronx.IsValid(strings.Join(fields, " "))
}

// maxGap is more than any two ticks of a schedule are apart.
const maxGap = 1 << 62 * time.Nanosecond

// sampleStart is where ticks are looked at from: the answer must not depend
// on the day on which a policy is set.
var sampleStart = time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)

// nextTick returns the first tick of a schedule behind a moment; zero if
// there is none.
func nextTick(schedule string, after time.Time) time.Time {
	next, err := gronx.NextTickAfter(schedule, after.UTC(), false)
	if err != nil || !next.After(after) {
		return time.Time{}
	}
	return next
}

// ticks remembers ticks of schedules: they are asked for each second, and
// change with each switch. The zero value serves.
type ticks struct {
	mu    sync.Mutex
	known map[tickKey]time.Time
}

type tickKey struct {
	schedule string
	after    time.Time
}

// maxTicks bounds what is remembered.
const maxTicks = 20_000

// next is nextTick.
func (t *ticks) next(schedule string, after time.Time) time.Time {
	k := tickKey{schedule, after.UTC()}
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.known[k]; ok {
		return at
	}
	if t.known == nil || len(t.known) >= maxTicks {
		t.known = map[tickKey]time.Time{}
	}
	at := nextTick(schedule, after)
	t.known[k] = at
	return at
}
