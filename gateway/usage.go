package gateway

import (
	"context"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
)

// Usage says who used which version of a key, how much and when last, and
// what speaks against the destruction of each.
func (s *Service) Usage(ctx context.Context, req Request, name string) (api.KeyUsage, error) {
	return guarded(ctx, s.open(req, authz.ActionReadUsage, name, 0), func(ctx context.Context, o *op) (api.KeyUsage, error) {
		if err := o.authorise(0); err != nil {
			return api.KeyUsage{}, err
		}
		counted, err := s.usage.ByAgent(ctx, o.key.Name)
		if err != nil {
			return api.KeyUsage{}, err
		}
		return wire.Usage(o.key, counted, o.now, func(v *keys.Version) ([]string, error) {
			return s.lifecycle.Objections(ctx, o.key, v.Number)
		})
	})
}
