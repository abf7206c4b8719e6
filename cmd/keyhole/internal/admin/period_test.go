package admin

import (
	"testing"
	"time"

	"keyhole/gateway/api"
)

func TestPeriods(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{"90d": 90 * day, "0d": 0, "0s": 0, "720h": 720 * time.Hour, "1h30m": 90 * time.Minute} {
		got, err := parsePeriod(text)
		if err != nil || got != want {
			t.Errorf("%q is %s, %v", text, got, err)
		}
		if again, err := parsePeriod(periodText(api.Duration(got))); got != 0 && (err != nil || again != got) {
			t.Errorf("%q is shown as %q", text, periodText(api.Duration(got)))
		}
	}
	for _, text := range []string{"", "90", "d", "-1d", "1.5d", "-1h", "ninety days", "99999999d", "1d12h"} {
		if got, err := parsePeriod(text); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
	if periodText(0) != "never" {
		t.Error(periodText(0))
	}
}
