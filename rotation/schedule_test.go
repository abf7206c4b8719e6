package rotation_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/rotation"
)

func TestCheckPolicy(t *testing.T) {
	t.Parallel()
	limits := keys.DefaultLimits()
	for schedule, says := range map[string]string{
		"0 3 * * 1":                 "",
		"  0   3 * * MON ":          "",
		"0 */2 * * *":               "",
		"0 3 29 2 *":                "", // every four years
		"0 0 1 1 *":                 "",
		"30 4 1,15 * 5":             "", // either
		"0 3 L * *":                 "",
		"@daily":                    "1 fields",
		"0 3 * *":                   "4 fields",
		"0 0 3 * * 1":               "6 fields",
		"0 3 * * 1 2030":            "6 fields",
		"every monday at 3 am":      "no cron expression",
		"*,60 3 * * *":              "no cron expression", // whatever minute it is
		"0 3 * * 0,1,2,3,4,5,6,x":   "no cron expression",
		"60 3 * * *":                "no cron expression",
		"0 24 * * *":                "no cron expression",
		"0 3 * * 8":                 "no cron expression",
		"0 3 0 * *":                 "no cron expression",
		"0 3 * 13 *":                "no cron expression",
		"0 3 31 2 *":                "never fires",
		"0 3 30 2 *":                "never fires",
		"0 3 31 4,6 *":              "never fires",
		"* * * * *":                 "fires again after 1m",
		"0,30 * * * *":              "fires again after 30m",
		"0 3 * * 1 ":                "",
		"0\n3 * * 1":                "",
		strings.Repeat("1,", 60):    "bytes",
		"0 3 1-7 * *":               "",
		"0 23,0 * * *":              "",
		"0 3 * * 1#6":               "never fires",
		"59 23 31 12 *":             "",
		"15 10 * * 6L":              "",
		"0 3 * jan,feb tue-thu":     "",
		"0 3 10-5 * *":              "no cron expression",
		"1,2 3 * * 1":               "fires again after 1m",
		"0 3 1W * *":                "",
		"0 3 32W * *":               "never fires",
		"0 3 ? * 1":                 "",
		"*/90 * * * *":              "",
		"0 3/5 * * *":               "",
		"0 3/0 * * *":               "no cron expression",
		"0 3 */1 * *":               "",
		"0 3 * * ,":                 "no cron expression",
		"0 3 * * \x00":              "no cron expression",
		"-1 3 * * *":                "no cron expression",
		"0 3 99999999999999999 * *": "no cron expression",
	} {
		err := rotation.CheckPolicy(keys.Policy{Schedule: schedule}, limits)
		switch {
		case says == "" && err != nil, says != "" && (!errors.Is(err, keys.ErrInvalid) || !strings.Contains(err.Error(), says)):
			t.Errorf("%q: %v, want %q", schedule, err, says)
		}
	}
	for name, c := range map[string]struct {
		policy keys.Policy
		says   string
	}{
		"a lead as long as the schedule": {keys.Policy{Schedule: "0 * * * *", Announce: time.Hour}, "leave more time"},
		"with acknowledgements": {
			keys.Policy{Schedule: "0 */2 * * *", Announce: time.Hour, Acks: keys.Acks{Require: keys.AckAll, Timeout: time.Hour}}, "leave more time",
		},
		"an error of the rest comes first": {keys.Policy{Schedule: "?", Period: -1}, "policy.period"},
	} {
		if err := rotation.CheckPolicy(c.policy, limits); !errors.Is(err, keys.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// TestBadSchedulesAreRefused, wherever a policy comes in.
func TestBadSchedulesAreRefused(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	bad := keys.Policy{Schedule: "0 3 31 2 *"}
	if _, err := k.CreateKey(t.Context(), alice, rotation.Spec{Name: "payments", Algorithm: keys.ES256, Policy: bad}); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("create: %v, want ErrInvalid", err)
	}
	k.create("payments", keys.Policy{})
	if _, err := k.UpdateKey(t.Context(), alice, "payments", rotation.Update{Policy: &bad}); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("update: %v, want ErrInvalid", err)
	}
	if p := k.key("payments").Policy; p != (keys.Policy{}) {
		t.Errorf("%+v", p)
	}
}

// FuzzSchedule: whatever is taken fires, again and again, each time later and
// not more often than allowed; nothing panics or hangs.
func FuzzSchedule(f *testing.F) {
	for _, s := range []string{"0 3 * * 1", "*/5 * * * *", "0 0 29 2 *", "0 3 L * 5L", "1-5,7 1/2 ? JAN-MAR 1#2", "@daily", "0 3 31 2 *", "0 3 15W * *", "* * * * * *"} {
		f.Add(s)
	}
	limits := keys.DefaultLimits()
	f.Fuzz(func(t *testing.T, schedule string) {
		err := rotation.CheckPolicy(keys.Policy{Schedule: schedule}, limits)
		if err != nil {
			if !errors.Is(err, keys.ErrInvalid) {
				t.Fatalf("%q: %v, want ErrInvalid", schedule, err)
			}
			return
		}
		if schedule == "" {
			return
		}
		at := time.Date(2031, 5, 17, 11, 59, 59, 999_999_000, time.UTC)
		for i := range 5 {
			next := rotation.NextTick(schedule, at)
			if next.IsZero() || !next.After(at) || i > 0 && next.Sub(at) < limits.MinPeriod || next.Second() != 0 || next.Nanosecond() != 0 {
				t.Fatalf("%q: %v comes after %v", schedule, next, at)
			}
			at = next
		}
	})
}

// TestAnnounceThatCannotBePlanned: a policy by which every rotation would be
// refused is refused itself.
func TestAnnounceThatCannotBePlanned(t *testing.T) {
	t.Parallel()
	const most = 366 * 24 * time.Hour
	if err := rotation.CheckPolicy(keys.Policy{Announce: most}, keys.DefaultLimits()); err != nil {
		t.Error(err)
	}
	if err := rotation.CheckPolicy(keys.Policy{Announce: most + 1}, keys.DefaultLimits()); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("%v, want ErrInvalid", err)
	}
}
