// Package units reads and writes spans of time, moments and numbers of bytes.
package units

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"keyhole/cmd/keyhole/internal/app"
)

const day = 24 * time.Hour

// Span reads a time span: Go's way, or whole days such as "90d". what
// names the flag.
func Span(what, text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 32); err == nil && n <= 100*366 {
			return time.Duration(n) * day, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, app.Usagef("%s wants a time span such as 90d, 720h or 30m (0s: none), not %q", what, text)
	}
	return d, nil
}

// Text writes a span as Span reads it.
func Text(d time.Duration) string {
	switch {
	case d == 0:
		return "0s"
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String() // "1h30m0s"
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Moment reads a moment: RFC 3339, or a span from now on as "+2h".
func Moment(what, text string, now time.Time) (time.Time, error) {
	if span, ok := strings.CutPrefix(text, "+"); ok {
		d, err := Span(what, span)
		return now.Add(d), err
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, app.Usagef("%s wants a moment such as 2026-12-24T02:00:00Z or +2h, not %q", what, text)
	}
	return t, nil
}

var byteUnits = []struct {
	name string
	size uint64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}

// Bytes reads a number of bytes, such as "1048576" or "64GiB".
func Bytes(what, text string) (uint64, error) {
	number, unit := text, uint64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			number, unit = rest, u.size
		}
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || n > (1<<63-1)/unit {
		return 0, app.Usagef("%s wants a number of bytes such as 1048576 or 64GiB (0: no bound), not %q", what, text)
	}
	return n * unit, nil
}

// Volume writes a number of bytes for people.
func Volume(n uint64) string {
	for i := len(byteUnits) - 1; i >= 0; i-- {
		if u := byteUnits[i]; n >= u.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// Ago writes how long ago t was; "never" for none.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return roughly(now.Sub(t)) + " ago"
}

// In writes how long it is until t.
func In(t, now time.Time) string { return "in " + roughly(t.Sub(now)) }

func roughly(d time.Duration) string {
	switch d = max(d, 0); {
	case d >= 2*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= time.Hour:
		return Text(d.Truncate(time.Minute))
	default:
		return Text(d.Truncate(time.Second))
	}
}
