package admin

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"keyhole/cmd/keyhole/internal/app"
	"keyhole/gateway/api"
)

// parsePeriod reads a time span: Go's way, or whole days such as "90d".
func parsePeriod(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 32); err == nil && n <= 100*366 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, app.Usagef("--period wants a time span such as 90d, 720h or 0s (never), not %q", text)
	}
	return d, nil
}

func periodText(d api.Duration) string {
	switch day := 24 * time.Hour; {
	case d.Std() == 0:
		return "never"
	case d.Std()%day == 0:
		return fmt.Sprintf("%dd", d.Std()/day)
	}
	return d.Std().String()
}
