package postgres

import (
	"context"
	"time"
)

// Channel is where commits are told of.
const Channel = "keyhole"

const (
	listenAgain   = 100 * time.Millisecond // the first wait, which doubles
	listenAgainAt = 2 * time.Second        // at most
)

// Listen calls heard whenever something is told on Channel, and when it has
// begun to listen anew: it may have missed something. It returns when ctx
// ends; lost is told why a connection broke.
func (c *Connector) Listen(ctx context.Context, heard func(), lost func(error)) {
	wait := listenAgain
	for ctx.Err() == nil {
		err := c.listen(ctx, func() {
			wait = listenAgain
			heard()
		})
		if ctx.Err() != nil {
			return
		}
		lost(err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, listenAgainAt)
	}
}

func (c *Connector) listen(ctx context.Context, heard func()) error {
	conn, err := c.source.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // there is a better error, or none
	}()
	first, cancel := context.WithTimeout(ctx, connectTimeout)
	_, err = conn.Exec(first, "LISTEN "+Channel)
	cancel()
	for err == nil {
		heard()
		_, err = conn.WaitForNotification(ctx)
	}
	return err
}
