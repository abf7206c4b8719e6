package lifecycle

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/show"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// printRotation prints how a rotation stands or, with wait, how it ended.
func printRotation(a *app.App, cmd *cobra.Command, r api.Rotation, wait bool, text func(api.Rotation) func(io.Writer) error) error {
	if wait {
		c, err := a.Connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		if r, err = await(cmd.Context(), a, c, r); err != nil {
			return err
		}
	}
	if err := a.Print(r, text(r)); err != nil {
		return err
	}
	if wait && r.Phase == string(keys.PhaseAborted) {
		return app.Silent{Code: app.ExitAborted}
	}
	return nil
}

// pollEvery is how many seconds lie between two looks at a rotation.
const pollEvery = 2

// await follows a rotation until it has ended. A gateway that cannot be
// reached is waited for.
func await(ctx context.Context, a *app.App, c *client.Client, r api.Rotation) (api.Rotation, error) {
	live := a.Streams.Live()
	defer live.End()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	trouble := ""
	for second := 1; !keys.Phase(r.Phase).Done(); second++ {
		state, countdown := show.Progress(r, time.Now())
		live.Show(state+trouble, countdown)
		select {
		case <-ctx.Done():
			return r, left(r.ID)
		case <-t.C:
		}
		if second%pollEvery != 0 {
			continue
		}
		now, err := c.Rotation(ctx, r.ID)
		switch {
		case ctx.Err() != nil:
			return r, left(r.ID)
		case err == nil:
			r, trouble = now, ""
		case app.Unavailable(err):
			trouble = " (the gateway does not answer; trying again)"
		default:
			return r, err
		}
	}
	return r, nil
}

// left tells whoever leaves that the rotation does not.
func left(id string) error {
	return &app.Left{Text: fmt.Sprintf("the rotation goes on by itself; keyhole rotation show %s tells how it stands", id)}
}
