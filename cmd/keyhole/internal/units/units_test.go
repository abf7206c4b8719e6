package units

import (
	"testing"
	"time"
)

func TestSpans(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"90d": 90 * day, "0d": 0, "0s": 0, "720h": 720 * time.Hour, "1h30m": 90 * time.Minute, "1500ms": 1500 * time.Millisecond,
	} {
		got, err := Span("--period", text)
		if err != nil || got != want {
			t.Errorf("%q is %s, %v", text, got, err)
		}
		if again, err := Span("--period", Text(got)); err != nil || again != got {
			t.Errorf("%q is shown as %q", text, Text(got))
		}
	}
	for _, text := range []string{"", "90", "d", "-1d", "1.5d", "-1h", "ninety days", "99999999d", "1d12h"} {
		if got, err := Span("--period", text); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 90 * day: "90d", 36 * time.Hour: "36h", 90 * time.Minute: "1h30m", 90 * time.Second: "1m30s", time.Minute: "1m"} {
		if got := Text(d); got != want {
			t.Errorf("%s is shown as %q, want %q", d, got, want)
		}
	}
}

func TestMoments(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 13, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"+2h": now.Add(2 * time.Hour), "+1d": now.Add(day), "2026-12-24T02:00:00Z": time.Date(2026, 12, 24, 2, 0, 0, 0, time.UTC),
		"2026-12-24T02:00:00+01:00": time.Date(2026, 12, 24, 1, 0, 0, 0, time.UTC),
	} {
		if got, err := Moment("--activate-at", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "2h", "tomorrow", "2026-12-24", "+", "+-1h", "2026-12-24 02:00"} {
		if got, err := Moment("--activate-at", text, now); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
	for d, want := range map[time.Duration]string{-time.Hour: "0s", 90 * time.Second: "1m30s", 90*time.Minute + time.Second: "1h30m", 47 * time.Hour: "47h", 80 * time.Hour: "3d"} {
		if got := Ago(now.Add(-d), now); got != want+" ago" {
			t.Errorf("%s ago is shown as %q", d, got)
		}
		if got := In(now.Add(d), now); got != "in "+want {
			t.Errorf("in %s is shown as %q", d, got)
		}
	}
	if got := Ago(time.Time{}, now); got != "never" {
		t.Error(got)
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{"0": 0, "1048576": 1 << 20, "64GiB": 64 << 30, "1KiB": 1024, "3TiB": 3 << 40} {
		if got, err := Bytes("--max-bytes", text); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "1GB", "1 GiB", "GiB", "1.5GiB", "9999999999TiB", "18446744073709551615"} {
		if got, err := Bytes("--max-bytes", text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 3 << 40: "3.0 TiB"} {
		if got := Volume(n); got != want {
			t.Errorf("%d is shown as %q, want %q", n, got, want)
		}
	}
}

// What is read is within bounds, and is read the same when it is written.
func FuzzUnits(f *testing.F) {
	for _, seed := range []string{"90d", "1h30m", "0s", "64GiB", "1048576", "+2h", "2026-12-24T02:00:00Z", "-1", "99999999999999999999"} {
		f.Add(seed)
	}
	now := time.Date(2026, 11, 24, 13, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := Span("--x", text); err == nil {
			if again, err := Span("--x", Text(d)); d < 0 || err != nil || again != d {
				t.Errorf("%q is %s, and shown as %q", text, d, Text(d))
			}
		}
		if n, err := Bytes("--x", text); err == nil && n > 1<<63-1 {
			t.Errorf("%q is %d bytes", text, n)
		}
		if at, err := Moment("--x", text, now); err == nil && text[0] == '+' && at.Before(now) {
			t.Errorf("%q is %s", text, at)
		}
	})
}
