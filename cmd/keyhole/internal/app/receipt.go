package app

import (
	"bytes"
	"context"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/keys"
)

// Receipt is what --receipt asks for.
type Receipt struct{ path string }

// Flag adds --receipt to a command that makes one call.
func (r *Receipt) Flag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.path, "receipt", "", "write to `FILE` which record of the audit log this makes: its number for keyhole audit prove, and its hash")
}

// CallWithReceipt is Call, and writes the receipt if it is asked for.
func CallWithReceipt[T any](a *App, cmd *cobra.Command, r *Receipt, ask func(ctx context.Context, c *client.Client) (T, error)) (T, error) {
	if r.path == "" {
		return Call(a, cmd, ask)
	}
	var got client.Receipt
	out, err := Call(a, cmd, func(ctx context.Context, c *client.Client) (T, error) { return ask(client.WithReceipt(ctx, &got), c) })
	if err != nil {
		return out, err
	}
	if got.Count == 0 {
		return out, keys.Errorf(keys.ErrUnsupported, "it was done, and the gateway gave no receipt")
	}
	var b bytes.Buffer
	if err := PrintJSONLine(&b, got); err != nil {
		return out, err
	}
	return out, a.Streams.WriteFile(r.path, b.Bytes(), false)
}
