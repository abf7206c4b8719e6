package server

import (
	"context"
	"log/slog"
	"time"
)

// keepUp is how often old rows are removed.
const keepUp = time.Hour

// forever does what is due at once and then each hour, until ctx ends. What
// fails is logged and tried again.
func forever(ctx context.Context, log *slog.Logger, what string, act func(ctx context.Context) (int, error)) error {
	t := time.NewTicker(keepUp)
	defer t.Stop()
	for {
		switch n, err := act(ctx); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			log.WarnContext(ctx, "old "+what+" were not removed", "err", err)
		default:
			log.DebugContext(ctx, "old "+what+" were removed", "count", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
