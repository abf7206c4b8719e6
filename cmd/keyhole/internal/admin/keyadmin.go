package admin

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func keyCreateCmd(a *app.App) *cobra.Command {
	var req api.CreateKeyRequest
	var tags []string
	var period string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a key: its version 1 is generated and active at once",
		Long: `Creates a key. Its version 1 is generated in the HSM, non-extractable, and is
active at once. Name and purpose are for good; a name is never used twice.`,
		Example: `  keyhole key create payments --algorithm ES256 --tag team=billing --period 90d
  keyhole key create mail --algorithm RSA-OAEP-256 --bits 3072`,
		Args:        app.Operands,
		Annotations: map[string]string{app.Slow: "generating a key in the HSM"},
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			var err error
			if len(tags) > 0 {
				if req.Tags, err = app.ParseTags(tags); err != nil {
					return err
				}
			}
			if req.Policy, err = policyOf(cmd.Flags(), period); err != nil {
				return err
			}
			k, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Key, error) { return c.CreateKey(ctx, req) })
			if err != nil {
				return err
			}
			return a.Print(k, keyText(k))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVar(&req.Algorithm, "algorithm", "", "`NAME` of the algorithm: "+strings.Join(algorithms(), ", "))
	f.IntVar(&req.Bits, "bits", 0, "`SIZE` of RSA keys: 2048, 3072 (default) or 4096")
	f.StringVar(&req.Token, "token", "", "`NAME` of the HSM token to make it on (default: the gateway's first)")
	keyFlags(cmd, &req.Description, &tags, &period)
	app.Complete(cmd, "algorithm", algorithms()...)
	app.Complete(cmd, "bits", "2048", "3072", "4096")
	app.Complete(cmd, "token")
	_ = cmd.MarkFlagRequired("algorithm") // it exists, four lines up
	return cmd
}

// keyFlags are what can be said about a key, at first and later.
func keyFlags(cmd *cobra.Command, description *string, tags *[]string, period *string) {
	f := cmd.Flags()
	f.StringVar(description, "description", "", "`TEXT` about the key")
	f.StringArrayVar(tags, "tag", nil, "`NAME=VALUE` that policies can ask for; may be repeated")
	f.StringVar(period, "period", "", "rotate by itself after this `TIME`, such as 90d or 720h; 0s: never")
	app.Complete(cmd, "description")
	app.Complete(cmd, "tag")
	app.Complete(cmd, "period", "30d", "90d", "365d", "0s")
}

// policyOf returns the policy that the flags ask for; nil if they do not.
func policyOf(f *pflag.FlagSet, period string) (*api.Policy, error) {
	if !f.Changed("period") {
		return nil, nil
	}
	d, err := parsePeriod(period)
	return &api.Policy{Period: api.Duration(d)}, err
}

func keyUpdateCmd(a *app.App) *cobra.Command {
	var description, period string
	var tags, untag []string
	var epoch uint64
	cmd := &cobra.Command{
		Use:   "update KEY",
		Short: "Change a key's description, tags or rotation period",
		Long: `Changes what is given and leaves the rest. Tags are changed one by one.

With --epoch the change is made only if the key still is at that epoch, which
key show tells.`,
		Example: `  keyhole key update payments --period 30d
  keyhole key update payments --tag team=billing --untag legacy`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			f := cmd.Flags()
			req := api.UpdateKeyRequest{Epoch: epoch}
			if f.Changed("description") {
				req.Description = &description
			}
			set, err := app.ParseTags(tags)
			if err != nil {
				return err
			}
			if req.Policy, err = policyOf(f, period); err != nil {
				return err
			}
			k, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Key, error) {
				if f.Changed("tag") || f.Changed("untag") {
					if err := mergeTags(ctx, c, args[0], &req, set, untag); err != nil {
						return api.Key{}, err
					}
				}
				return c.UpdateKey(ctx, args[0], req)
			})
			if err != nil {
				return err
			}
			return a.Print(k, keyText(k))
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	keyFlags(cmd, &description, &tags, &period)
	f := cmd.Flags()
	f.StringArrayVar(&untag, "untag", nil, "`NAME` of a tag to remove; may be repeated")
	f.Uint64Var(&epoch, "epoch", 0, "change it only if it is at this `EPOCH`")
	app.Complete(cmd, "untag")
	app.Complete(cmd, "epoch")
	cmd.MarkFlagsOneRequired("description", "tag", "untag", "period")
	return cmd
}

// mergeTags changes single tags: it reads the key, and makes the request
// conditional on nobody having changed it since.
func mergeTags(ctx context.Context, c *client.Client, name string, req *api.UpdateKeyRequest, set map[string]string, remove []string) error {
	k, err := c.Key(ctx, name)
	if err != nil {
		return err
	}
	tags := maps.Clone(k.Tags)
	if tags == nil {
		tags = map[string]string{}
	}
	for _, t := range remove {
		if _, ok := tags[t]; !ok {
			return keys.Errorf(keys.ErrNotFound, "key %q has no tag %q", name, t)
		}
		delete(tags, t)
	}
	maps.Copy(tags, set)
	req.Tags = &tags
	if req.Epoch == 0 {
		req.Epoch = k.Epoch
	}
	return nil
}

func algorithms() []string {
	var names []string
	for _, a := range keys.Algorithms() {
		names = append(names, string(a))
	}
	return names
}

func rotateCmd(a *app.App) *cobra.Command {
	var req api.RotateRequest
	cmd := &cobra.Command{
		Use:   "rotate KEY",
		Short: "Make and activate a key's next version",
		Long: `Generates the next version of KEY in the HSM and activates it. The old version
signs and encrypts no more, and goes on to verify and decrypt. Agents notice
nothing: they name the key, not the version.`,
		Example: `  keyhole rotate payments
  keyhole rotate payments --reason personnel-change --algorithm ES384`,
		Args:        app.Operands,
		Annotations: map[string]string{app.Slow: "generating a key in the HSM"},
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Rotation, error) { return c.Rotate(ctx, args[0], req) })
			if err != nil {
				return err
			}
			return a.Print(r, app.Line("%s.v%d -> %s.v%d: %s (rotation %s)", r.Key, r.From, r.Key, r.To, r.Phase, r.ID))
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	f := cmd.Flags()
	f.StringVar(&req.Reason, "reason", "", fmt.Sprintf("`WORD` for the record: %s (default), scheduled, compromise, personnel-change, deployment, usage-threshold", keys.ReasonManual))
	f.StringVar(&req.Algorithm, "algorithm", "", "change the key's algorithm to `NAME`, within its purpose")
	f.IntVar(&req.Bits, "bits", 0, "change the `SIZE` of RSA keys: 2048, 3072 or 4096")
	app.Complete(cmd, "reason", "manual", "scheduled", "compromise", "personnel-change", "deployment", "usage-threshold")
	app.Complete(cmd, "algorithm", algorithms()...)
	app.Complete(cmd, "bits", "2048", "3072", "4096")
	return cmd
}
