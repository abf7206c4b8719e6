package gateway

import (
	"context"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
)

// Nodes knows the gateways that share the store.
type Nodes interface {
	// Nodes returns the gateways that were ever seen and did not leave, in
	// order of their names, and the revision of the store that this is from.
	Nodes(ctx context.Context) (all []keys.Node, revision uint64, err error)
}

// Nodes lists the gateways that share the store, and how far behind it each
// of them is.
func (s *Service) Nodes(ctx context.Context, req Request) (api.NodeList, error) {
	return guarded(ctx, s.open(req, authz.ActionListNodes, "", 0), func(ctx context.Context, o *op) (api.NodeList, error) {
		list := api.NodeList{Nodes: []api.Node{}}
		if err := o.decide(gatewayResource, ""); err != nil {
			return list, err
		}
		all, revision, err := s.store.Nodes(ctx)
		if err != nil {
			return list, err
		}
		list.Revision = revision
		for _, n := range all {
			list.Nodes = append(list.Nodes, wire.Node(n, revision, n.Instance == s.instance))
		}
		return list, nil
	})
}
