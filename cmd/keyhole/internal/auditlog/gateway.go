package auditlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/spf13/cobra"

	"keyhole/audit"
	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// writeDocument writes a result that is bytes.
func writeDocument(a *app.App, out string, b []byte) error {
	if out != "" {
		return a.Streams.WriteFile(out, b, false)
	}
	_, err := a.Streams.Out.Write(b)
	return err
}

func checkpointCmd(a *app.App) *cobra.Command {
	var out string
	var last bool
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Have the gateway sign its audit log as it is now",
		Long: `Fetches a checkpoint: a note, signed by the audit key in the HSM, of how many
records the log has and of the hash of them all. Keep it where the gateway's
administrators cannot reach it: what it vouches for can then not be cut off
unnoticed, see keyhole audit verify --since-checkpoint.`,
		Example: `  keyhole audit checkpoint -O last-audit.checkpoint`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.CheckOut(out); err != nil {
				return err
			}
			signed, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) ([]byte, error) {
				return c.AuditCheckpoint(ctx, !last)
			})
			if err != nil {
				return err
			}
			return writeDocument(a, out, signed)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	app.OutFlag(cmd, &out, "the checkpoint")
	cmd.Flags().BoolVar(&last, "last", false, "fetch the one that was signed last, in place of a new one")
	return cmd
}

func keysCmd(a *app.App) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Fetch the public audit keys from the gateway",
		Long: `Fetches audit-keys.pem, the public halves of all versions of the audit key. Only TLS
vouches for the answer: compare it with the file that somebody you trust gave you,
and go on with that one.`,
		Example: `  keyhole audit keys -O audit-keys.pem`,
		Args:    app.Operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.CheckOut(out); err != nil {
				return err
			}
			file, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) ([]byte, error) { return c.AuditKeys(ctx) })
			if err != nil {
				return err
			}
			return writeDocument(a, out, file)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	app.OutFlag(cmd, &out, "the keys")
	return cmd
}

// proveByGateway has the gateway prove a record.
func proveByGateway(a *app.App, cmd *cobra.Command, seq uint64, out string) error {
	file, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) ([]byte, error) {
		file, err := c.AuditProof(ctx, seq)
		if !errors.Is(err, keys.ErrNotFound) {
			return file, err
		}
		if _, cerr := c.AuditCheckpoint(ctx, true); cerr != nil {
			return nil, cerr
		}
		return c.AuditProof(ctx, seq)
	})
	if err != nil {
		return err
	}
	return writeDocument(a, out, file)
}

// searchGateway has the gateway search its log.
func searchGateway(a *app.App, cmd *cobra.Command, f *filter, limit int) error {
	c, err := a.Connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	q := api.AuditQuery{
		Key: f.Key, KeyID: f.KeyID, Principal: f.Principal, Action: f.Action, Outcome: f.Outcome, RequestID: f.RequestID,
		Since: api.Time{Time: f.Since}, Until: api.Time{Time: f.Until}, Limit: min(limit, 1000),
	}
	shown := 0
	for found, err := range c.AuditRecords(cmd.Context(), q) {
		if err != nil {
			return err
		}
		var line bytes.Buffer
		enc := json.NewEncoder(&line)
		enc.SetEscapeHTML(false) // as in the log
		if err := enc.Encode(found); err != nil {
			return err
		}
		var r audit.Record
		if err := json.Unmarshal(line.Bytes(), &r); err != nil {
			return err
		}
		if err := show(a, line.Bytes(), &r); err != nil {
			return err
		}
		if shown++; shown == limit {
			break
		}
	}
	return nil
}
