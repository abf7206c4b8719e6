package server

import (
	"context"
	"time"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/hsm"
	"keyhole/keys"
)

// watchStuck ends the gateway, where the configuration says so, when too many
// calls into a token hang: a C call cannot be cancelled, and only a new
// process gets rid of it. It returns nil when ctx ends.
func watchStuck(ctx context.Context, tokens []config.Token, health func() []hsm.TokenHealth) error {
	limits := map[string]int{}
	for _, t := range tokens {
		if t.ExitWhenStuck {
			limits[t.Name] = maxStuck(t)
		}
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, h := range health() {
			if limit, ok := limits[h.Name]; ok && h.Stuck >= limit {
				return keys.Errorf(keys.ErrHSM, "%d calls into token %q hang; ending, for the supervisor to start anew", h.Stuck, h.Name)
			}
		}
	}
}

// maxStuck is what package hsm makes of the setting.
func maxStuck(t config.Token) int {
	if t.MaxStuck > 0 {
		return t.MaxStuck
	}
	return max(1, t.Sessions/2)
}
