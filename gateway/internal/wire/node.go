package wire

import (
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Node describes a gateway as of a revision of the store; self: it answers.
func Node(n keys.Node, revision uint64, self bool) api.Node {
	out := api.Node{
		Name: n.Name, Instance: n.Instance, Version: n.Version, Revision: n.Revision, Behind: revision - min(revision, n.Revision),
		StartedAt: api.At(n.StartedAt), SeenAt: api.At(n.SeenAt), Live: n.Live, Self: self,
	}
	if !n.Live {
		out.StoppedAt = api.At(n.Until)
	}
	return out
}
