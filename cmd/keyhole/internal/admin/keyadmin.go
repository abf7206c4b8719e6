package admin

import (
	"context"
	"maps"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/show"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func keyCreateCmd(a *app.App) *cobra.Command {
	var req api.CreateKeyRequest
	var tags []string
	var policy policyFlags
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a key: its version 1 is generated and active at once",
		Long: `Creates a key. Its version 1 is generated in the HSM, non-extractable, and is
active at once. Name and purpose are for good; a name is never used twice.

Without any of the policy's flags the key is rotated by hand only, at once, and
its old versions are kept for verifying and decrypting.`,
		Example: `  keyhole key create payments --algorithm ES256 --tag team=billing --period 90d
  keyhole key create invoices --algorithm ES256 --period 90d --announce 1d --acks all --acks-timeout 3d --overlap 30d
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
			if policy.given(cmd.Flags()) {
				req.Policy = new(api.Policy)
				if err := policy.change(cmd.Flags(), req.Policy); err != nil {
					return err
				}
			}
			k, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Key, error) { return c.CreateKey(ctx, req) })
			if err != nil {
				return err
			}
			return a.Print(k, show.Key(k))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVar(&req.Algorithm, "algorithm", "", "`NAME` of the algorithm: "+strings.Join(app.Algorithms(), ", "))
	f.IntVar(&req.Bits, "bits", 0, "`SIZE` of RSA keys: 2048, 3072 (default) or 4096")
	f.StringVar(&req.Token, "token", "", "`NAME` of the HSM token to make it on (default: the gateway's first)")
	keyFlags(cmd, &req.Description, &tags)
	policy.add(cmd)
	app.Complete(cmd, "algorithm", app.Algorithms()...)
	app.Complete(cmd, "bits", "2048", "3072", "4096")
	app.Complete(cmd, "token")
	_ = cmd.MarkFlagRequired("algorithm") // it exists, four lines up
	return cmd
}

// keyFlags are what can be said about a key, at first and later.
func keyFlags(cmd *cobra.Command, description *string, tags *[]string) {
	f := cmd.Flags()
	f.StringVar(description, "description", "", "`TEXT` about the key")
	f.StringArrayVar(tags, "tag", nil, "`NAME=VALUE` that policies can ask for; may be repeated")
	app.Complete(cmd, "description")
	app.Complete(cmd, "tag")
}

func keyUpdateCmd(a *app.App) *cobra.Command {
	var description string
	var tags, untag []string
	var epoch uint64
	var policy policyFlags
	cmd := &cobra.Command{
		Use:   "update KEY",
		Short: "Change a key's description, tags or policy",
		Long: `Changes what is given and leaves the rest: tags one by one, and of the policy
the fields whose flags are given. A rotation under way keeps its plan.

With --epoch the change is made only if the key still is at that epoch, which
key show tells.`,
		Example: `  keyhole key update payments --period 30d
  keyhole key update payments --acks quorum:60 --acks-timeout 1d
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
			if err := policy.change(f, new(api.Policy)); err != nil { // before anything is asked for
				return err
			}
			k, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.Key, error) {
				if policy.given(f) || f.Changed("tag") || f.Changed("untag") {
					if err := merge(ctx, c, args[0], &req, f, &policy, set, untag); err != nil {
						return api.Key{}, err
					}
				}
				return c.UpdateKey(ctx, args[0], req)
			})
			if err != nil {
				return err
			}
			return a.Print(k, show.Key(k))
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	keyFlags(cmd, &description, &tags)
	policy.add(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&untag, "untag", nil, "`NAME` of a tag to remove; may be repeated")
	f.Uint64Var(&epoch, "epoch", 0, "change it only if it is at this `EPOCH`")
	app.Complete(cmd, "untag")
	app.Complete(cmd, "epoch")
	cmd.MarkFlagsOneRequired(append([]string{"description", "tag", "untag"}, policyNames...)...)
	return cmd
}

// merge changes single tags and single fields of the policy: it reads the
// key, and makes the request conditional on nobody having changed it since.
func merge(ctx context.Context, c *client.Client, name string, req *api.UpdateKeyRequest, f *pflag.FlagSet, policy *policyFlags, set map[string]string, remove []string) error {
	k, err := c.Key(ctx, name)
	if err != nil {
		return err
	}
	if req.Epoch == 0 {
		req.Epoch = k.Epoch
	}
	if policy.given(f) {
		req.Policy = &k.Policy
		if err := policy.change(f, req.Policy); err != nil {
			return err
		}
	}
	if len(set) == 0 && len(remove) == 0 {
		return nil
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
	return nil
}
