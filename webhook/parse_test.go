package webhook

import (
	"context"
	"testing"
	"time"

	"keyhole/keys"
)

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, " 5 ": 5 * time.Second, "-5": 0, "1.5": 0, "soon": 0,
		"99999999": 24 * time.Hour, "18446744073709551615": 24 * time.Hour, "99999999999999999999999": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:00:00 GMT": 0, "Fri, 02 Jan 2099 03:00:00 GMT": 24 * time.Hour,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("retryAfter(%q) = %s, want %s", header, got, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"120", "-1", "Fri, 02 Jan 2026 03:05:05 GMT", "Friday, 02-Jan-26 03:05:05 GMT", "18446744073709551616"} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, header string) {
		if d := retryAfter(header, now); d < 0 || d > maxRetryAfter {
			t.Errorf("retryAfter(%q) = %s", header, d)
		}
	})
}

// Pauses double from the first to the longest and never go beyond.
func TestPauses(t *testing.T) {
	t.Parallel()
	w := &worker{cfg: &Config{FirstPause: time.Second}}
	for failures, most := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 12: 2048 * time.Second, 13: time.Hour, 1000000: time.Hour} {
		var least, longest time.Duration = time.Hour, 0
		for range 1000 {
			p := w.pause(failures)
			least, longest = min(least, p), max(longest, p)
		}
		if least < most/2 || longest > most || longest-least < most/4 {
			t.Errorf("after %d failures: between %s and %s, want half to all of %s", failures, least, longest, most)
		}
	}
}

// A delivery id says which event it is, for which webhook, in this database.
func TestDeliveryID(t *testing.T) {
	t.Parallel()
	n := keys.Notice{ID: 7, Type: keys.NoticeRevoked, At: time.UnixMicro(1_000_000), Key: "payments", Version: 3, Reason: "compromise"}
	base := deliveryID("siem", n)
	if again := deliveryID("siem", n); again != base || len(base) != 32 {
		t.Errorf("%q, then %q", base, again)
	}
	for name, change := range map[string]func(n *keys.Notice){
		"id": func(n *keys.Notice) { n.ID++ }, "type": func(n *keys.Notice) { n.Type = keys.NoticeArchived }, "key": func(n *keys.Notice) { n.Key = "payments2" },
		"version": func(n *keys.Notice) { n.Version++ }, "time": func(n *keys.Notice) { n.At = n.At.Add(time.Microsecond) },
	} {
		c := n
		change(&c)
		if deliveryID("siem", c) == base {
			t.Errorf("another %s has the same delivery id", name)
		}
	}
	if deliveryID("other", n) == base {
		t.Error("another webhook has the same delivery id")
	}
}

// A clock that was set back does not stop a webhook for as long as that.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := &emptyStore{}
	w := &worker{cfg: &Config{Store: s, Now: func() time.Time { return now }, Poll: time.Second}}
	w.state.RetryAt = now.Add(365 * 24 * time.Hour)
	if pause, err := w.deliver(t.Context()); err != nil || pause != time.Second || s.reads != 1 {
		t.Errorf("it waits %s and looked %d times, %v", pause, s.reads, err)
	}
	w.state.RetryAt = now.Add(time.Hour)
	if pause, err := w.deliver(t.Context()); err != nil || pause != time.Hour || s.reads != 1 {
		t.Errorf("it waits %s and looked %d times, %v", pause, s.reads, err)
	}
}

// emptyStore has no events.
type emptyStore struct {
	Store
	reads int
}

func (s *emptyStore) Events(context.Context, uint64, int) ([]keys.Notice, error) {
	s.reads++
	return nil, nil
}
